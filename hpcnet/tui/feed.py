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
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, Union

from hpcnet.counters.board import Board
from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.counters.rates import UNKNOWN
from hpcnet.counters.source import Source, Watch
from hpcnet.counters.troubles import Judge, Trouble
from hpcnet.errors import HpcnetError
from hpcnet.frozen import frozen
from hpcnet.tui.events import Event, Observer, Said
from hpcnet.tui.picture import JobView, NodeView, Point, Track, add_up, node_view, point, track

LISTING = 10.0
"""Seconds between two questions to Slurm for the jobs."""

CLOSING = 2.0
"""Seconds that programs on the nodes have to end when the viewer does, before they are ended by the kernel."""

_KEEP_EVENTS = 500

Seen = Union[NodeSample, Sequence[JobInfo], float]
"""What a feed takes: a sample, a list of the jobs, another interval."""


@frozen
class Still:
    """What a feed knew at one moment, for a screen that is frozen; it is read as a feed is."""

    _time: float
    _jobs: Mapping[int, JobView]
    _members: Mapping[int, list[NodeView]]
    _histories: Mapping[tuple[int, str], Mapping[tuple[str, str, str], tuple[Point, ...]]]
    _events: dict[int, Event]
    _troubles: list[Event]

    def clock(self) -> float:
        """That moment, Unix seconds."""
        return self._time

    def jobs(self) -> list[JobView]:
        """As Feed.jobs."""
        return list(self._jobs.values())

    def job(self, job_id: int) -> JobView | None:
        """As Feed.job."""
        return self._jobs.get(job_id)

    def nodes(self, job_id: int) -> list[NodeView]:
        """As Feed.nodes; their histories are empty where nobody had looked at them."""
        return self._members.get(job_id, [])

    def node(self, job_id: int, name: str) -> NodeView | None:
        """As Feed.node."""
        return next((each for each in self.nodes(job_id) if each.node == name), None)

    def interface_history(self, job_id: int, node: str, key: tuple[str, str, str]) -> tuple[Point, ...]:
        """As Feed.interface_history."""
        return self._histories.get((job_id, node), {}).get(key, ())

    def events(self) -> dict[int, Event]:
        """As Feed.events."""
        return self._events

    def troubles(self) -> list[Event]:
        """As Feed.troubles."""
        return self._troubles


class Feed:
    """All that is known. Its methods may be called from any thread."""

    def __init__(
        self,
        source: Source,
        interval: float,
        clock: Callable[[], float] = time.time,
        listing: float = LISTING,
    ) -> None:
        self.source = source
        self.clock = clock
        self._listing = listing
        self.tap: Callable[[Seen], None] = lambda seen: None
        """Called with whatever comes, in the order in which it comes."""
        self._lock = threading.RLock()
        self._board = Board(interval)
        self._infos: dict[int, JobInfo] = {}
        self._views: dict[int, JobView] = {}
        self._tracks: dict[int, Track] = {}
        self._followed: dict[int, dict[str, Track]] = {}
        """Nodes that somebody looked at."""
        self._interfaces: dict[tuple[int, str], dict[tuple[str, str, str], Track]] = {}
        self._judges: dict[int, Judge] = {}
        self._troubles: dict[int, dict[str, tuple[Trouble, ...]]] = {}
        self._events: deque[Event] = deque(maxlen=_KEEP_EVENTS)
        self._lost = 0  # events that were kept once
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
        """End the source, so that its programs end by themselves, and wait for that a while; again is fine."""
        self._closed.set()
        self._wanted.set()
        self.source.close()
        for thread in self._threads:
            if thread.name == "keep_sampling":
                thread.join(CLOSING)

    def _keep_listing(self) -> None:
        while not self._closed.is_set():
            self.list_jobs()
            self._closed.wait(self._listing)

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
            self.tap(jobs)
            for gone in self._infos.keys() - {job.job_id for job in jobs}:
                self._forget(gone)
            self._infos = {job.job_id: job for job in jobs}
            if self._watch is not None:
                self._watch.follow(list(self._infos))
            else:
                self._wanted.set()

    def _forget(self, job_id: int) -> None:
        self._board.forget(job_id)
        for of_jobs in (self._tracks, self._followed, self._judges, self._troubles):
            of_jobs.pop(job_id, None)
        for key in [key for key in self._interfaces if key[0] == job_id]:
            del self._interfaces[key]

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
            for (job_id, node), interfaces in self._interfaces.items():
                silent = node in self._views[job_id].silent
                rates = {} if silent else self._board.rates(job_id, node)
                for key, history in interfaces.items():
                    history.append(point(rates.get(key, UNKNOWN), now))
            self._note(self._observer.look(now, self._views.values(), self._problem))

    def _view(self, info: JobInfo, now: float) -> JobView:
        job_id = info.job_id
        silent = self._board.silent(job_id, now)
        nodes = self._nodes(job_id, silent)
        followed = self._followed.get(job_id)
        if followed:
            for each in nodes:
                if each.node in followed:
                    followed[each.node].append(point(each.rates, now))
        troubles = self._troubles[job_id] = self._judge(info, nodes)
        summed = add_up(nodes)
        history = self._tracks.setdefault(job_id, track())
        history.append(point(summed.rates, now))
        return JobView(
            info,
            summed,
            tuple(history),
            silent,
            nodes=len(nodes),
            problem=self._board.problem(job_id),
            troubles=tuple((node, each) for node, found in troubles.items() for each in found),
        )

    def _judge(self, info: JobInfo, nodes: list[NodeView]) -> dict[str, tuple[Trouble, ...]]:
        judge = self._judges.get(info.job_id)
        if judge is None or judge.job != info:
            judge = self._judges[info.job_id] = Judge(info)
        look = judge.look
        return {each.node: found for each in nodes if (found := look(each.older, each.sample, each.rates))}

    def _nodes(self, job_id: int, silent: Mapping[str, float]) -> list[NodeView]:
        """Without their histories and troubles: those of all jobs are made in each tick."""
        pair = self._board.pair
        return [node_view(node, *pair(job_id, node), silent.get(node)) for node in self._board.nodes(job_id)]

    def next_silence(self) -> float | None:
        """In how many seconds a node falls silent unless it is heard; None: in none before the next tick."""
        with self._lock:
            now = self.clock()
            due = self._board.next_silence(now)
        return due - now if due is not None and due < now + self.interval else None

    def fell_silent(self) -> bool:
        """Whether a node did since the last tick."""
        with self._lock:
            now, silent = self.clock(), self._board.silent
            return any(silent(job_id, now).keys() - each.silent for job_id, each in self._views.items())

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
            followed = self._followed.setdefault(job_id, {})
            found = self._nodes(job_id, self._board.silent(job_id, self.clock()))
            for each in found:
                followed.setdefault(each.node, track())
            return [self._followed_node(job_id, each) for each in found]

    def _followed_node(self, job_id: int, node: NodeView) -> NodeView:
        """With its history, if somebody looked at it, and its troubles."""
        return node._replace(
            history=tuple(self._followed.get(job_id, {}).get(node.node, ())),
            troubles=self._troubles.get(job_id, {}).get(node.node, ()),
        )

    def node(self, job_id: int, name: str) -> NodeView | None:
        """One of them."""
        return next((each for each in self.nodes(job_id) if each.node == name), None)

    def interface_history(self, job_id: int, node: str, key: tuple[str, str, str]) -> tuple[Point, ...]:
        """Of one interface; it begins when it is first asked for."""
        with self._lock:
            if job_id not in self._infos:
                return ()
            return tuple(self._interfaces.setdefault((job_id, node), {}).setdefault(key, track()))

    def still(self) -> Still:
        """All of it as it is now."""
        with self._lock:
            nodes = {
                job_id: [self._followed_node(job_id, each) for each in self._nodes(job_id, view.silent)]
                for job_id, view in self._views.items()
            }
            histories = {
                where: {key: tuple(points) for key, points in found.items()}
                for where, found in self._interfaces.items()
            }
            return Still(self.clock(), dict(self._views), nodes, histories, self.events(), self.troubles())

    def note(self, said: Iterable[Said]) -> None:
        """Add events of now, each by Event's fields but the time; they read downwards, the newest being on top."""
        new = [Event(self.clock(), *each) for each in said]
        with self._lock:
            self._note(reversed(new))

    def _note(self, new: Iterable[Event]) -> None:
        for event in new:
            self._lost += len(self._events) == _KEEP_EVENTS
            self._events.append(event)

    def events(self) -> dict[int, Event]:
        """What happened and is over, the newest last, by numbers that stay."""
        with self._lock:
            return dict(enumerate(self._events, self._lost))

    def troubles(self) -> list[Event]:
        """What is wrong now, the newest last."""
        with self._lock:
            return self._observer.lasting()

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
            self.tap(seconds)
            watch, self._watch = self._watch, None
            self._wanted.set()
        if watch is not None:
            watch.close()
