# SPDX-License-Identifier: Apache-2.0
"""The jobs that asked for a network, out of the job records that anyone may read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hpcnet import record
from hpcnet.errors import SiteError
from hpcnet.record import Record
from hpcnet.slurm.jobs import JobUnknown, SlurmJob, jobs


@dataclass(frozen=True)
class Network:
    """A job that asked for a network, and what its record says."""

    job: SlurmJob
    record: Record


JobList = Callable[[Iterable[int]], "list[SlurmJob]"]
"""Gives all jobs, or those of some numbers. Raises ControllerUnreachable, JobUnknown."""


def networks(
    complain: Callable[[str], None], only: Iterable[int] = (), ask: JobList = lambda only: jobs(only=only)
) -> list[Network]:
    """All that slurmctld knows, or of some jobs; ``complain`` gets a line for a record that cannot be read.

    Raises ControllerUnreachable.
    """
    found = []
    try:
        asked = ask(only)
    except JobUnknown:
        return []
    for job in asked:
        text = job.extra if record.carries(job.extra) else job.comment
        try:
            seen = record.find(text)
        except SiteError as error:
            complain(f"job {job.id}: {error}")
            continue
        if seen is not None:
            found.append(Network(job, seen))
    return found


def silently(text: str) -> None:
    """For who is not to complain: a record that cannot be read is the business of ``hpcnet list``."""
