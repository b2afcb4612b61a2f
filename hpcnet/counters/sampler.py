# SPDX-License-Identifier: Apache-2.0
"""The program that a viewer starts on each node: reads, writes a line, waits; ends with the viewer.

Whoever watches sends a byte on its standard input every BEAT seconds. The input's end, or LIFETIME seconds without
a byte, end the sampler: when srun itself is killed, Slurm leaves its tasks running with their input open.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Sequence

from hpcnet.counters import reading, wire
from hpcnet.counters.frames import frames
from hpcnet.counters.model import NodeSample
from hpcnet.counters.neighbours import Tables

BEAT = 5.0
"""Seconds between two signs of life of the viewer."""

LIFETIME = 20.0
"""Seconds without one after which a sampler ends."""


def main(words: Sequence[str]) -> int:
    """``sample JOB SECONDS`` in a task of the job; ``sample all SECONDS`` for every job of the node that one may
    read: all for root, else those that one has processes of.
    """
    try:
        job_id = None if words[0] == "all" else int(words[0])
        interval = float(words[1])
    except (IndexError, ValueError):
        print("hpcnet: sample is started by hpcnet stats, with a job and seconds", file=sys.stderr)
        return 2
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]
    try:
        run(_reader(job_id, node), node, interval)
    except (BrokenPipeError, KeyboardInterrupt):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _reader(job_id: int | None, node: str) -> Callable[[], list[NodeSample]]:
    tables = Tables()
    if job_id:
        return lambda: [reading.read_own(job_id, node, tables)]
    if os.geteuid():
        return lambda: reading.read_mine(node)
    return lambda: reading.read_node(node, tables)


def run(read: Callable[[], list[NodeSample]], node: str, interval: float) -> None:
    """Write samples to standard output until nobody wants them any more."""
    serial, due = 0, time.monotonic()
    beat = due
    while True:
        now = time.monotonic()
        if now >= due:
            for sample in read():
                serial += 1
                _write(frames(wire.encode(sample), node, serial))
            due = max(due + interval, now)  # one that comes late is not made up for
        wait = min(due, beat + LIFETIME) - time.monotonic()
        if select.select([0], [], [], max(0.0, wait))[0]:
            if not os.read(0, 4096):
                return
            beat = time.monotonic()
        elif time.monotonic() >= beat + LIFETIME:
            return


def _write(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]
