# SPDX-License-Identifier: Apache-2.0
"""Between a source and the screens: a board that one thread fills, and the histories and events made out of it.

feed = Feed(source, interval=2.0)
feed.start()                     # two threads: the list of jobs, and their samples
feed.tick()                      # once an interval, by the screens' clock: histories grow, events are found
feed.jobs(), feed.nodes(4711)    # what is known now
feed.close()
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable

from hpcnet.counters.board import Board
from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.counters.rates import UNKNOWN
from hpcnet.counters.source import Source, Watch
from hpcnet.errors import HpcnetError
from hpcnet.tui.events import Event, Observer
from hpcnet.tui.picture import GAP, JobView, NodeView, Point, Track, add_up, node_view, point, track

LISTING = 10.0
"""Seconds between two questions to Slurm for the jobs."""

_KEEP_EVENTS = 500


class Feed:
    """All that is known. Its methods may be called from any thread."""

    def __init__(self, source: Source, interval: float, clock: Callable[[], float] = time.time) -> None:
        self.source = source
        self.clock = clock
        self.tap: Callable[[JobInfo | NodeSample], None] = lambda seen: None
        """Called with whatever comes, in the order in which it comes."""
        self._lock = threading.RLock()
        self._board = Board(interval)
        self._infos: dict[int, JobInfo] = {}
        self._views: dict[int, JobView] = {}
        self._tracks: dict[tuple[object, ...], Track] = {}
        self._events: deque[Event] = deque(maxlen=_KEEP_EVENTS)
        self._observer = Observer()
        self._problem = ""
        self._listed = False
        self._watch: Watch | None = None
        self._closed = threading.Event()
        self._wanted = threading.Event()
        self._threads: list[threading.Thread] = []

    # -- filling

    def start(self) -> None:
        """Begin to ask for jobs and to sample them, until ``close``."""
        for run in (self._keep_listing, self._keep_sampling):
            thread = threading.Thread(target=run, name=run.__name__.strip("_"), daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads and the source; again is fine."""
        self._closed.set()
        self._wanted.set()
        self.source.close()

    def _keep_listing(self) -> None:
        while not self._closed.is_set():
            self.list_jobs()
            self._closed.wait(LISTING)

    def _keep_sampling(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait()
            self._wanted.clear()
            with self._lock:
                jobs, interval = list(self._infos), self._board.interval
                if self._closed.is_set() or not jobs:
                    continue
                watch = self._watch = self.source.watch(jobs, interval)
            for sample in watch:
                self.take(sample)
            with self._lock:
                if self._watch is watch:
                    self._watch = None

    def list_jobs(self) -> None:
        """Ask the source for the jobs once; an answer that does not come is an event, and all stays as it was."""
        try:
            jobs = self.source.jobs()
        except HpcnetError as error:
            with self._lock:
                self._problem = str(error)
            return
        with self._lock:
            self._problem, self._listed = "", True
            now = self.clock()
            for job in jobs:
                self._board.expect(job.job_id, job.nodes, now)
                self.tap(job)
            for gone in self._infos.keys() - {job.job_id for job in jobs}:
                self._forget(gone)
            self._infos = {job.job_id: job for job in jobs}
            if self._watch is not None:
                self._watch.follow(list(self._infos))
            else:
                self._wanted.set()

    def _forget(self, job_id: int) -> None:
        self._board.forget(job_id)
        for key in [key for key in self._tracks if key[0] == job_id]:
            del self._tracks[key]

    def take(self, sample: NodeSample) -> None:
        """Note one sample; of a job that is not listed, none."""
        with self._lock:
            if sample.job_id in self._infos:
                self._board.take(sample, self.clock())
                self.tap(sample)

    # -- once an interval

    def tick(self) -> None:
        """Sum up each job, add a point to each history, note what happened since the last tick."""
        with self._lock:
            now = self.clock()
            self._views = {job_id: self._view(info, now) for job_id, info in self._infos.items()}
            for key, history in self._tracks.items():
                if len(key) == 3:
                    job_id, node, interface = key
                    rates = self._board.rates(job_id, node).get(interface, UNKNOWN)  # type: ignore[arg-type,call-overload]
                    silent = node in self._board.silent(job_id, now)  # type: ignore[arg-type]
                    history.append(GAP if silent else point(rates))
            self._events.extend(self._observer.look(now, self._views.values(), self._problem))

    def _view(self, info: JobInfo, now: float) -> JobView:
        job_id = info.job_id
        nodes = self._nodes(job_id, now, histories=False)
        for each in nodes:
            followed = self._tracks.get((job_id, each.node))
            if followed is not None:
                followed.append(point(each.rates))
        summed = add_up(nodes)
        history = self._tracks.setdefault((job_id,), track())
        history.append(point(summed.rates))
        silent = tuple(each.node for each in nodes if each.silent_since is not None)
        return JobView(info, summed, tuple(history), silent, nodes=len(nodes), problem=self._board.problem(job_id))

    def _nodes(self, job_id: int, now: float, histories: bool = True) -> list[NodeView]:
        board, silent = self._board, self._board.silent(job_id, now)
        return [
            node_view(
                node,
                board.latest(job_id, node),
                board.rates(job_id, node),
                silent.get(node),
                self._tracks.get((job_id, node), ()) if histories else (),
            )
            for node in board.nodes(job_id)
        ]

    # -- reading

    def jobs(self) -> list[JobView]:
        """As of the last tick."""
        with self._lock:
            return list(self._views.values())

    def job(self, job_id: int) -> JobView | None:
        """As of the last tick; None: Slurm lists it no more."""
        with self._lock:
            return self._views.get(job_id)

    def nodes(self, job_id: int) -> list[NodeView]:
        """A job's nodes, in its order. Their histories begin when this is first asked for."""
        with self._lock:
            for node in self._board.nodes(job_id):
                self._tracks.setdefault((job_id, node), track())
            return self._nodes(job_id, self.clock())

    def node(self, job_id: int, name: str) -> NodeView | None:
        """One of them."""
        return next((each for each in self.nodes(job_id) if each.node == name), None)

    def interface_history(self, job_id: int, node: str, key: tuple[str, str, str]) -> tuple[Point, ...]:
        """Of one interface; it begins when it is first asked for."""
        with self._lock:
            return tuple(self._tracks.setdefault((job_id, node, key), track()))

    def events(self) -> list[Event]:
        """Oldest first."""
        with self._lock:
            return list(self._events)

    @property
    def problem(self) -> str:
        """Why the list of jobs could not be had the last time; empty when it could."""
        return self._problem

    @property
    def listed(self) -> bool:
        """Whether the list of jobs was had at least once."""
        return self._listed

    @property
    def interval(self) -> float:
        """Seconds between samples."""
        return self._board.interval

    def set_interval(self, seconds: float) -> None:
        """Sample so often from now on."""
        with self._lock:
            self._board.interval = seconds
            watch, self._watch = self._watch, None
            self._wanted.set()
        if watch is not None:
            watch.close()
