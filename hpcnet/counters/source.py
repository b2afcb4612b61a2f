# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: the face of every transport, and of a made-up source for demonstrations.

source = ...                                  # one of the transports
watch = source.watch([1234], interval=2.0)    # in a thread of its own
for sample in watch: ...                      # ends when somebody closes the watch, or its jobs have ended
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from hpcnet.counters.model import JobInfo, NodeSample


class Watch(Protocol):
    """A running observation of some jobs. One thread iterates; the other methods may be called from any."""

    def __iter__(self) -> Iterator[NodeSample]:
        """Each new sample as it comes; blocks meanwhile. Ends after ``close``, and when no job is left to watch.

        What goes wrong with one job or node is a sample with a ``problem``, never an exception. A node that says
        nothing any more gives no sample: hpcnet.counters.board tells it from the ones that still do.
        """
        ...

    def follow(self, job_ids: Iterable[int]) -> None:
        """Watch these jobs from now on; what is watched already goes on undisturbed."""
        ...

    def close(self) -> None:
        """End it and all that it started, on the nodes too; again is fine."""
        ...


class Source(Protocol):
    """One way to jobs and their samples. Its methods may be called from any thread."""

    def jobs(self) -> list[JobInfo]:
        """The jobs with a network that this user may watch. May take seconds; raises HpcnetError."""
        ...

    def watch(self, job_ids: Iterable[int], interval: float) -> Watch:
        """Begin to sample these jobs about every ``interval`` seconds. Returns at once."""
        ...

    def close(self) -> None:
        """Close every watch; again is fine."""
        ...
