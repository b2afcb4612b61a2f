# SPDX-License-Identifier: Apache-2.0
"""What is wrong now, on which nodes of which jobs and since when; what was, and which jobs came and went."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from hpcnet import nodelist
from hpcnet.counters.troubles import ERROR, INFO, SILENT, Trouble
from hpcnet.frozen import frozen
from hpcnet.tui.picture import JobView

_ASK = "is slurmctld up? scontrol ping; what is shown stays as it was"
_ENDING = 30.0
"""Seconds that a job may take to leave Slurm's list when it has ended."""

_WATCH = "it is tried again; hpcnet stats JOB --once says the same"


@frozen
class Event:
    """One line of the Events screen."""

    time: float
    """Unix seconds, by the viewer's clock; of what lasts, when it began."""
    grade: str
    """info, warning or error."""
    job: str
    """As Slurm's commands name it; empty: of all."""
    text: str
    node: str = ""
    """A hostlist of the job's nodes; empty: of the job, or of this host."""
    remedy: str = ""
    """What to do; empty: nothing, or not known."""
    lasts: bool = False
    """Whether it is so still."""
    until: float | None = None
    """Unix seconds when what lasted was over."""


class Said(NamedTuple):
    """What somebody else said of now, by the fields of Event."""

    grade: str
    job: str
    text: str
    node: str = ""
    remedy: str = ""


_Where = tuple[int, str, Trouble]
"""Job (0: the list of jobs), node (empty: the whole job) and what is wrong there."""


class Observer:
    """Compares each look with the one before it."""

    def __init__(self) -> None:
        self._labels: dict[int, str] = {}
        self._lasting: dict[_Where, float] = {}
        self._first = True

    def look(self, now: float, views: Collection[JobView], problem: str) -> Iterator[Event]:
        """What happened since the last look, what was wrong then and is no more. Exhaust it before the next."""
        found = {where: self._lasting.get(where, now) for where in _wrong(views, problem)}
        for view in views:
            # Nodes of which it is found at once fell silent together, but for what their samplers are apart.
            new = {(view.info.job_id, node, SILENT): since for node, since in view.silent.items()}
            new = {where: since for where, since in new.items() if where not in self._lasting}
            found.update(dict.fromkeys(new, min(new.values(), default=now)))
        labels = {view.info.job_id: view.info.label for view in views}
        known = {**self._labels, **labels}
        over = {
            where: since
            for where, since in self._lasting.items()
            if where not in found and not _is_of_the_end(where, now - since, labels)
        }
        yield from _lines(over, known, until=now)
        for view in views:
            # The jobs that are there when the viewer starts are no news.
            if view.info.job_id not in self._labels and not self._first:
                yield Event(now, INFO, view.info.label, f"{view.info.user} started on {view.nodes} nodes")
        for job_id in self._labels.keys() - labels.keys():
            yield Event(now, INFO, self._labels[job_id], "ended")
        self._labels, self._lasting = labels, found
        self._first = self._first and not labels

    def lasting(self) -> list[Event]:
        """What is wrong now, by when it began."""
        return sorted(_lines(self._lasting, self._labels), key=lambda event: event.time)


def _is_of_the_end(where: _Where, seconds: float, labels: Collection[int]) -> bool:
    """The viewing's step ends with its job, and is heard to before Slurm's next list of jobs: no news."""
    job_id, node, _ = where
    return job_id not in labels and job_id != 0 and not node and seconds < _ENDING


def _wrong(views: Collection[JobView], problem: str) -> Iterator[_Where]:
    if problem:
        yield 0, "", Trouble(ERROR, problem, _ASK)
    for view in views:
        job_id = view.info.job_id
        for node in view.silent:
            yield job_id, node, SILENT
        for node, trouble in view.troubles:
            yield job_id, node, trouble
        if view.problem:
            yield job_id, "", Trouble(ERROR, view.problem, _WATCH)


def _lines(
    found: Mapping[_Where, float], labels: Mapping[int, str], until: float | None = None
) -> Iterator[Event]:
    """Nodes of a job of which the same is true since the same time are one line."""
    nodes: dict[tuple[int, Trouble, float], list[str]] = {}
    for (job_id, node, trouble), since in found.items():
        nodes.setdefault((job_id, trouble, since), []).extend([node] if node else [])
    for (job_id, trouble, since), together in nodes.items():
        yield Event(
            since,
            trouble.grade,
            labels.get(job_id, ""),
            trouble.text,
            nodelist.fold(together) if together else "",
            trouble.remedy,
            lasts=until is None,
            until=until,
        )
