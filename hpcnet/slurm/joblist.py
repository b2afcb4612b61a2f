# SPDX-License-Identifier: Apache-2.0
"""The list of jobs for who asks again and again: in this process, by pyslurm, where that is installed and fits;
else by squeue as :mod:`hpcnet.slurm.jobs` has it. Both give the same.

pyslurm X.Y is for Slurm X.Y alone, and while slurmctld gives no answer its calls hold up all threads. So its first
failure is its last: this process asks squeue from then on, which also says what is wrong.

ask = Remembered()               # for all threads of a viewer
ask(), ask([12])                 # of Slurm every LISTING seconds at most, while the answer covers what is asked
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from hpcnet.slurm import jobs as commands
from hpcnet.slurm.jobs import SlurmJob

LISTING = 10.0
"""Seconds at least between two questions to Slurm."""

_given_up = False


class Remembered:
    """``jobs``, whose last answer holds for LISTING seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._only: frozenset[int] = frozenset()
        """What the answer is about; empty: everything."""
        self._answer: list[SlurmJob] | None = None

    def __call__(self, only: Iterable[int] = ()) -> list[SlurmJob]:
        """As ``jobs``; what was asked for last may be in the answer too."""
        wanted = frozenset(only)
        with self._lock:
            if self._answer is None or time.monotonic() >= self.next() or not self._covers(wanted):
                self._asked, self._only, self._answer = time.monotonic(), wanted, None
                self._answer = jobs(wanted)
            return self._answer

    def _covers(self, wanted: frozenset[int]) -> bool:
        if not self._only:
            return True
        return bool(wanted) and wanted <= self._only | {job.id for job in self._answer or ()}

    def next(self) -> float:
        """When Slurm may be asked again (time.monotonic)."""
        return self._asked + LISTING


def jobs(only: Iterable[int] = ()) -> list[SlurmJob]:
    """As ``hpcnet.slurm.jobs.jobs``. Raises ControllerUnreachable, JobUnknown."""
    global _given_up
    if not _given_up and not only:
        try:
            return by_pyslurm()
        except Exception:  # not installed, another version's interface, no answer: whatever it is, squeue is there
            _given_up = True
    return commands.jobs(only=only)


def by_pyslurm() -> list[SlurmJob]:
    """Raises what pyslurm raises, ImportError without it, AttributeError before its version 22.5."""
    import pyslurm

    loaded = pyslurm.Jobs.load()
    return [_job(entry) for entry in (loaded.values() if hasattr(loaded, "values") else loaded)]


def _job(entry: Any) -> SlurmJob:
    """Of a pyslurm.Job; what it has not set is None or 0."""
    array = entry.array_id if entry.array_task_id is not None else None
    return SlurmJob(
        id=int(entry.id),
        array=f"{array}_{entry.array_task_id}" if array else "",
        states=frozenset(str(entry.state).split("+")),
        uid=int(entry.user_id),
        user=entry.user_name or "",
        account=entry.account or "",
        partition=entry.partition or "",
        nodelist=entry.allocated_nodes or "",
        comment=entry.comment or "",
        extra=getattr(entry, "extra", None) or "",  # from 23.11
        start=entry.start_time or 0,
        end=entry.end_time or 0,
    )
