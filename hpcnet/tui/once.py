# SPDX-License-Identifier: Apache-2.0
"""The Jobs screen as plain text, for a stdout that is not a terminal."""

from __future__ import annotations

import time

from hpcnet.counters.source import Source
from hpcnet.tui.feed import Feed
from hpcnet.tui.rows import JOB_ORDER, job_columns, job_row
from hpcnet.tui.view import Order, View


def print_once(source: Source, interval: float) -> int:
    """Two samples of each node, then a line for each job."""
    feed = Feed(source, interval)
    feed.start()
    try:
        until = time.monotonic() + 3 * interval + 5
        while time.monotonic() < until and not _complete(feed):
            time.sleep(0.1)
    finally:
        feed.close()
    if feed.problem:
        print(feed.problem)
        return 1
    view = View(ascii=True)
    shown = [column.name not in ("mark", "history") for column in job_columns(view)]
    lines = [[column.title for column in job_columns(view)]]
    for job in Order("rx").sort(feed.jobs(), JOB_ORDER):
        lines.append([text for text, _ in job_row(job, view, 0, feed.clock()).cells])
    cells = [[text for text, keep in zip(line, shown) if keep] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    return 0


def _complete(feed: Feed) -> bool:
    """Whether every job's rates are known, or it is known why not."""
    if feed.problem:
        return True
    feed.tick()
    return feed.listed and all(
        job.problem or not job.nodes or job.sum.rates.rx_bytes is not None for job in feed.jobs()
    )
