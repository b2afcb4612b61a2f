# SPDX-License-Identifier: Apache-2.0
"""What a feed takes, in a file, to be seen again: a line of JSON each, with the time at which it came.

    {"at": 1790000000.0, "recording": 1, "interval": 2.0}       first, and again when the interval is another one
    {"at": ..., "jobs": [{"job_id": 7, "nodes": ["n1"], ...}]}  each list of the jobs
    {"at": ..., "schema": 1, "job": 7, "node": "n1", ...}       each sample, as hpcnet.counters.wire has it

recorder = Recorder(feed); ...; recorder.close()
source = Replay("hpcnet-20260101T000000Z.ndjson")
feed = Feed(source, source.interval, source.clock, LISTING)
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from ipaddress import ip_network
from typing import Any, Callable, TypeVar

from hpcnet.counters import wire
from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.errors import UserError
from hpcnet.tui.export import create
from hpcnet.tui.feed import Feed, Seen

SCHEMA = 1

LISTING = 0.5
"""Seconds between two looks at a recording's list of jobs, which costs nothing."""

_STEP = 0.1  # seconds that a recorded sample may be late

_Any = TypeVar("_Any")


class Recorder:
    """Writes all that a feed takes, until it is closed. Raises UserError when the file cannot be made."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._out = create("hpcnet", ".ndjson", feed.clock())
        self.file = self._out.name
        self._problem = ""
        self._write(feed.interval)
        self._write([job.info for job in feed.jobs()])
        feed.tap = self._write

    def _write(self, seen: Seen) -> None:
        if isinstance(seen, NodeSample):
            document = wire.encode(seen)
        elif isinstance(seen, float):
            document = {"recording": SCHEMA, "interval": seen}
        else:
            document = {"jobs": [asdict(each) for each in seen]}
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
    """A Source that is a recording, at the pace and by the clock of when it was made; at its end it stands still.

    Raises UserError, which names the line, for what is none.
    """

    def __init__(self, file: str, elapsing: Callable[[], float] = time.monotonic) -> None:
        """``elapsing``: seconds that go by, from any beginning."""
        self._paces: list[tuple[float, float]] = []
        self._lists: list[tuple[float, list[JobInfo]]] = []
        self._samples: list[tuple[float, NodeSample]] = []
        self._first = self._last = 0.0
        for at, seen in _read(file):
            self._last = max(at, self._last)  # a clock that was set back meanwhile holds nothing up
            if not self._paces:
                self._first = at
            if isinstance(seen, NodeSample):
                self._samples.append((self._last, seen))
            elif isinstance(seen, float):
                self._paces.append((self._last, seen))
            else:
                self._lists.append((self._last, list(seen)))
        if not self._samples:
            raise UserError(f"{file}: nothing was recorded")
        self._elapsing = elapsing
        self._began: float | None = None
        self._next = 0  # the first sample that was not seen yet
        self._closed = threading.Event()

    def clock(self) -> float:
        """What time it is in the recording, Unix seconds; it begins when one asks for the jobs."""
        if self._began is None:
            return self._first
        return min(self._last, self._first + self._elapsing() - self._began)

    @property
    def over(self) -> bool:
        """Whether all of it was seen."""
        return self.clock() >= self._last

    @property
    def interval(self) -> float:
        """Seconds between samples, as it was then."""
        return self._now(self._paces, 0.0)

    def _now(self, of: Sequence[tuple[float, _Any]], before: _Any) -> _Any:
        """The last that holds by its clock; ``before`` there is any."""
        now = self.clock()
        return next((seen for at, seen in reversed(of) if at <= now), before)

    def jobs(self) -> list[JobInfo]:
        """Those that were there then."""
        if self._began is None:
            self._began = self._elapsing()
        return self._now(self._lists, [])

    def watch(self, job_ids: Iterable[int], interval: float) -> _ReplayWatch:
        """From where it is now; the recording has jobs and an interval of its own."""
        return _ReplayWatch(self, self._closed)

    def due(self) -> Iterator[NodeSample]:
        """The samples until now, each once."""
        while self._next < len(self._samples) and self._samples[self._next][0] <= self.clock():
            self._next += 1
            yield self._samples[self._next - 1][1]

    def close(self) -> None:
        """End it."""
        self._closed.set()


class _ReplayWatch:
    def __init__(self, replay: Replay, ended: threading.Event) -> None:
        self._replay, self._ended = replay, ended
        self._closed = False

    def __iter__(self) -> Iterator[NodeSample]:
        while not self._closed and not self._ended.wait(_STEP):
            yield from self._replay.due()

    def follow(self, job_ids: Iterable[int]) -> None:
        """A recording has the jobs that it has."""

    def close(self) -> None:
        self._closed = True


def _read(file: str) -> Iterator[tuple[float, Seen]]:
    """What was seen, with its time. What is in the file anybody may have written. Raises UserError."""
    number = 0
    try:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):
                    return  # of a viewer that was killed while it wrote
                document = json.loads(line)
                seen = _seen(document)
                if number == 1 and not isinstance(seen, float):
                    raise ValueError("the first line does not tell the interval")
                yield wire.moment(document["at"]), seen
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{error!r:.100}"
        raise UserError(f"{file} is no recording of hpcnet-tui: line {max(1, number)}: {why}") from None


def _seen(document: dict[str, Any]) -> Seen:
    if "recording" in document:
        if document["recording"] != SCHEMA:
            raise ValueError(f"it is of schema {document['recording']!r:.20}, not {SCHEMA}")
        interval = wire.moment(document["interval"])
        if not 0 < interval <= 3600:
            raise ValueError(f"an interval of {interval:g} s")
        return interval
    return [_info(each) for each in document["jobs"]] if "jobs" in document else wire.decode(document)


_TEXTS = ("task", "user", "account", "partition", "state", "mode", "pkey", "subnet", "subnet6")
_NUMBERS = ("vni", "mtu", "started")


def _info(document: dict[str, Any]) -> JobInfo:
    """Raises ValueError, KeyError, TypeError, OverflowError."""
    number = wire.count(document["job_id"])
    if number is None:
        raise ValueError("a job without its number")
    known: dict[str, Any] = {name: wire.text(document[name]) for name in _TEXTS if name in document}
    known.update((name, wire.count(document[name])) for name in _NUMBERS if name in document)
    info = JobInfo(number, nodes=tuple(map(wire.text, document["nodes"])), **known)
    for subnet in (info.subnet, info.subnet6):
        if subnet and ip_network(subnet).num_addresses < len(info.nodes):
            raise ValueError(f"job {info.label}: {subnet} has no room for its {len(info.nodes)} nodes")
    return info
