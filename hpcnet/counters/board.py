# SPDX-License-Identifier: Apache-2.0
"""The latest of every node that is watched, and what follows from it: rates, and who is silent since when.

board = Board(interval=2.0)
board.expect(job.job_id, job.nodes, now)
board.take(sample, now)                       # for each sample of a watch
board.rates(job.job_id, "n1")                 # {interface.key: Rates}
board.silent(job.job_id, now)                 # {"n2": 1790000000.0}

``now`` is the viewer's own time in Unix seconds: nodes' clocks need not agree with it. Not for several threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpcnet.counters.model import NodeSample
from hpcnet.counters.rates import Rates, node_rates

PATIENCE = 2.0
"""So many intervals without a sample make a node silent."""

GRACE = 10.0
"""Seconds that a node has at least for its first sample, also at another pace: its sampler must be started."""


@dataclass
class _Node:
    heard: float
    """When the last sample came, or when the first was asked for."""
    latest: NodeSample | None = None
    older: NodeSample | None = None
    """The one before."""
    excused: float = 0.0
    """Until then it may say nothing, whatever the interval."""

    def silent_from(self, patience: float) -> float:
        """When it counts as silent, if it is not heard before."""
        return max(self.excused, self.heard + patience)


class Board:
    """What is known of the nodes of some jobs."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._now = 0.0  # as who asks or tells had it last
        self._jobs: dict[int, dict[str, _Node]] = {}
        self._problems: dict[int, str] = {}

    @property
    def interval(self) -> float:
        """Seconds between samples. When it changes, who is not silent is given GRACE: it spoke at the old pace."""
        return self._interval

    @interval.setter
    def interval(self, seconds: float) -> None:
        patience = PATIENCE * self._interval
        for nodes in self._jobs.values():
            for node in nodes.values():
                if node.silent_from(patience) > self._now:
                    node.excused = self._now + GRACE
        self._interval = seconds

    def expect(self, job_id: int, nodes: Iterable[str], now: float) -> None:
        """The job has these nodes, and no others any more; a new one is given time from now on."""
        self._now = now
        known = self._jobs.get(job_id, {})
        self._jobs[job_id] = {node: known.get(node) or _Node(now, excused=now + GRACE) for node in nodes}

    def forget(self, job_id: int) -> None:
        """The job is watched no more."""
        self._jobs.pop(job_id, None)
        self._problems.pop(job_id, None)

    def take(self, sample: NodeSample, now: float) -> None:
        """Note a sample, of a job or node that was not expected too."""
        self._now = now
        if not sample.node:
            self._problems[sample.job_id] = sample.problem
            return
        self._problems.pop(sample.job_id, None)
        node = self._jobs.setdefault(sample.job_id, {}).setdefault(sample.node, _Node(now))
        if node.latest is None:
            node.excused = 0.0
        node.heard, node.older, node.latest = now, node.latest, sample

    def jobs(self) -> list[int]:
        """The jobs that are expected or were heard of."""
        return list(self._jobs)

    def nodes(self, job_id: int) -> list[str]:
        """The job's nodes, in the order in which they were expected."""
        return list(self._jobs.get(job_id, ()))

    def latest(self, job_id: int, node: str) -> NodeSample | None:
        """The last sample, or None before the first."""
        found = self._jobs.get(job_id, {}).get(node)
        return found.latest if found else None

    def rates(self, job_id: int, node: str) -> dict[tuple[str, str, str], Rates]:
        """Between the last two samples; empty before the second."""
        older, newer = self.pair(job_id, node)
        return node_rates(older, newer) if older and newer else {}

    def pair(self, job_id: int, node: str) -> tuple[NodeSample | None, NodeSample | None]:
        """The last two samples."""
        found = self._jobs.get(job_id, {}).get(node)
        return (found.older, found.latest) if found else (None, None)

    def silent(self, job_id: int, now: float) -> dict[str, float]:
        """The nodes that say nothing, and since when: their last sample, or when they were first expected."""
        self._now, patience = now, PATIENCE * self._interval
        found = self._jobs.get(job_id, {})
        return {name: node.heard for name, node in found.items() if node.silent_from(patience) <= now}

    def next_silence(self, now: float) -> float | None:
        """When the next node falls silent, if nothing more is heard; None: none is left that can."""
        patience = PATIENCE * self._interval
        due = (node.silent_from(patience) for nodes in self._jobs.values() for node in nodes.values())
        return min((at for at in due if at > now), default=None)

    def problem(self, job_id: int) -> str:
        """What is wrong with the job as a whole; empty when nothing is, or any node has been heard since."""
        return self._problems.get(job_id, "")
