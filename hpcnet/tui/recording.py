# SPDX-License-Identifier: Apache-2.0
"""Samples in a file, to be seen again: a line of JSON each, a job's or a node's, with the time it came.

recorder = Recorder(feed); ...; recorder.close()
source = Replay("hpcnet-20260101T000000Z.ndjson")
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from typing import Any

from hpcnet.counters import wire
from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.errors import UserError
from hpcnet.tui.export import create
from hpcnet.tui.feed import Feed


class Recorder:
    """Writes all that a feed takes, until it is closed. Raises UserError when the file cannot be made."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._out = create("hpcnet", ".ndjson", feed.clock())
        self.file = self._out.name
        self._problem = ""
        for job in feed.jobs():
            self._write(job.info)
        feed.tap = self._write

    def _write(self, seen: JobInfo | NodeSample) -> None:
        document = {"info": asdict(seen)} if isinstance(seen, JobInfo) else wire.encode(seen)
        try:
            self._out.write(json.dumps({"at": self._feed.clock(), **document}) + "\n")
        except (OSError, ValueError) as error:
            self._problem = self._problem or f"{self.file}: {error}"

    def close(self) -> str:
        """End it; what went wrong, or empty."""
        self._feed.tap = lambda seen: None
        try:
            self._out.close()
        except OSError as error:
            self._problem = self._problem or f"{self.file}: {error}"
        return self._problem


class Replay:
    """A Source that is a recording, at the pace at which it was recorded; at its end it stands still."""

    def __init__(self, file: str) -> None:
        try:
            with open(file, encoding="utf-8") as lines:
                documents = [json.loads(line) for line in lines]
            self._jobs = [_info(each["info"]) for each in documents if "info" in each]
            self._samples = [(float(each["at"]), wire.decode(each)) for each in documents if "info" not in each]
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is no recording of hpcnet-tui: {error}") from None
        if not self._samples:
            raise UserError(f"{file}: nothing was recorded")
        self._began: float | None = None
        self._closed = threading.Event()

    def jobs(self) -> list[JobInfo]:
        """All that were ever seen in it, as they were last."""
        return list({job.job_id: job for job in self._jobs}.values())

    def watch(self, job_ids: Iterable[int], interval: float) -> _ReplayWatch:
        """From where it is now; the recording has an interval of its own."""
        if self._began is None:
            self._began = time.monotonic()
        return _ReplayWatch(self._samples, self._began, self._closed)

    def close(self) -> None:
        """End it."""
        self._closed.set()


class _ReplayWatch:
    def __init__(self, samples: list[tuple[float, NodeSample]], began: float, ended: threading.Event) -> None:
        self._samples, self._began, self._ended = samples, began, ended
        self._closed = False

    def __iter__(self) -> Iterator[NodeSample]:
        first = self._samples[0][0]
        begin = time.monotonic() - self._began + first
        for at, sample in self._samples:
            if at < begin - 5:
                continue
            while not self._closed and not self._ended.is_set():
                left = at - first - (time.monotonic() - self._began)
                if left <= 0:
                    break
                self._ended.wait(min(left, 0.5))
            if self._closed or self._ended.is_set():
                return
            yield sample
        while not self._closed and not self._ended.wait(0.5):
            pass

    def follow(self, job_ids: Iterable[int]) -> None:
        """A recording has the jobs that it has."""

    def close(self) -> None:
        self._closed = True


def _info(document: dict[str, Any]) -> JobInfo:
    known = {each.name for each in fields(JobInfo)}
    values = {name: value for name, value in document.items() if name in known}
    return JobInfo(**{**values, "nodes": tuple(values["nodes"])})
