# SPDX-License-Identifier: Apache-2.0
"""What happened between one look and the next: jobs come and go, nodes fall silent, errors grow."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hpcnet import nodelist
from hpcnet.tui.picture import JobView, bad

INFO, WARNING, ERROR = "info", "warning", "error"


@dataclass(frozen=True)
class Event:
    """One line of the Events screen."""

    time: float
    """Unix seconds, by the viewer's clock."""
    grade: str
    """info, warning or error."""
    job: str
    """As Slurm's commands name it; empty: of all."""
    text: str


class Observer:
    """Compares each look with the one before it."""

    def __init__(self) -> None:
        self._before: dict[int, JobView] = {}
        self._rising: set[int] = set()
        self._problem = ""
        self._first = True

    def look(self, now: float, views: Collection[JobView], problem: str) -> Iterator[Event]:
        """What is new; of the first look, only what is wrong. Exhaust it before the next look."""
        if problem != self._problem:
            text = problem or "the list of jobs can be had again"
            yield Event(now, ERROR if problem else INFO, "", text)
        current = {view.info.job_id: view for view in views}
        for job_id, view in current.items():
            yield from self._job(now, view, self._before.get(job_id))
        for job_id in self._before.keys() - current.keys():
            yield Event(now, INFO, self._before[job_id].info.label, "ended")
            self._rising.discard(job_id)
        self._before, self._problem = current, problem
        # The jobs that are there when the viewer starts are no news.
        self._first = self._first and not current

    def _job(self, now: float, view: JobView, before: JobView | None) -> Iterator[Event]:
        info = view.info
        if before is None and not self._first:
            yield Event(now, INFO, info.label, f"{info.user} started on {len(info.nodes)} nodes")
        silent, spoke = set(view.silent), set(before.silent if before else ())
        for names, grade, text in (
            ([node for node in view.silent if node not in spoke], WARNING, "says nothing"),
            ([node for node in info.nodes if node in spoke - silent], INFO, "is heard again"),
        ):
            if names:
                yield Event(now, grade, info.label, f"{nodelist.fold(names)} {text}")
        if view.problem and view.problem != (before.problem if before else ""):
            yield Event(now, ERROR, info.label, view.problem)
        rising = bool(bad(view.sum.rates))
        if rising and info.job_id not in self._rising:
            self._rising.add(info.job_id)
            yield Event(now, WARNING, info.label, f"errors and drops grow: {bad(view.sum.counted):,.0f} so far")
        elif not rising:
            self._rising.discard(info.job_id)
