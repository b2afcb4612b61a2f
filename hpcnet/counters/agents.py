# SPDX-License-Identifier: Apache-2.0
"""The admins' way to the counters: the agents of the nodes, asked over HTTP; all jobs, containers too, no step.

An agent answers who has the token, so an admin is who may read ``[agent] token_file`` on the host of the viewer:
root, and the group that the site gives the file to.
"""

from __future__ import annotations

import http.client
import json
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hpcnet import nodelist
from hpcnet.config import Agent
from hpcnet.counters import wire
from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.counters.steps import job_info, running, watched
from hpcnet.counters.streams import RETRY_FIRST, RETRY_MOST, problems
from hpcnet.errors import HpcnetError, SiteError
from hpcnet.slurm.joblist import LISTING, Remembered
from hpcnet.slurm.networks import JobList, networks, silently

PATH = "/samples"
"""Where an agent answers with a list of samples, as hpcnet.counters.wire has them."""

_AT_ONCE = 32  # nodes that are asked at the same time
_PATIENCE = 3.0  # seconds that a node may take
_LISTING = LISTING
_LARGEST = 16 << 20


class AgentSource:
    """Samples of agents; see hpcnet.counters.source.Source. Raises SiteError when there are none to ask."""

    everybodys = True

    def __init__(self, settings: Agent) -> None:
        address, _, port = settings.metrics.rpartition(":")
        if not port:
            raise SiteError("no agent can be asked: [agent] metrics is empty; use --transport srun")
        if address.startswith("127."):
            raise SiteError(
                f"[agent] metrics = {settings.metrics!r}: agents are reached from their own nodes only; "
                "set it to 0.0.0.0 and that port, or use --transport srun"
            )
        try:
            with open(settings.token_file, encoding="ascii") as file:
                self._token = file.read().strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise SiteError(f"[agent] token_file {settings.token_file}: {why}; admins may read it") from None
        self.ask = Remembered()
        self._port, self._host = int(port), settings.host
        self._watches: list[Polling] = []

    def jobs(self) -> list[JobInfo]:
        """All running jobs with a network. Raises ControllerUnreachable."""
        return [job_info(network) for network in networks(silently, ask=self.ask) if running(network)]

    def watch(self, job_ids: Iterable[int], interval: float) -> Polling:
        """Ask the nodes of these jobs every ``interval`` seconds."""
        watch = Polling(self._connection, self._token, job_ids, interval, self.ask)
        self._watches.append(watch)
        return watch

    def _connection(self, node: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host.replace("{node}", node), self._port, timeout=_PATIENCE)

    def close(self) -> None:
        """Close every watch."""
        for watch in self._watches:
            watch.close()


@dataclass
class _Node:
    """One agent that is asked again and again."""

    name: str
    connection: http.client.HTTPConnection
    job_ids: frozenset[int] = frozenset()
    due: float = 0.0
    """When to ask it next, time.monotonic."""
    pause: float = 0.0
    """Seconds to wait after its last failure; 0: it answers."""
    asked: bool = False


_Answer = tuple["_Node", "list[NodeSample]", str]
"""Who answered, what, and what was wrong."""


class Polling:
    """The watch; see hpcnet.counters.source.Watch."""

    def __init__(
        self,
        connect: Callable[[str], http.client.HTTPConnection],
        token: str,
        job_ids: Iterable[int],
        interval: float,
        ask: JobList,
    ) -> None:
        self._ask_slurm = ask
        self._connect, self._headers = connect, {"Authorization": f"Bearer {token}"}
        self._interval, self._wanted = interval, frozenset(job_ids)
        self._answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._closed = False
        self._nodes: dict[str, _Node] = {}
        self._left: list[_Node] = []
        """Those that have no job any more; the connection of one that is being asked is in use."""
        self._doubtful, self._listed = True, float("-inf")

    def follow(self, job_ids: Iterable[int]) -> None:
        """Watch these jobs from now on."""
        wanted = frozenset(job_ids)
        if wanted != self._wanted:
            self._wanted, self._listed, self._doubtful = wanted, float("-inf"), True
            self._answers.put(None)

    def close(self) -> None:
        """End it; who iterates is told at once."""
        self._closed = True
        self._answers.put(None)

    def __iter__(self) -> Iterator[NodeSample]:
        """Each sample as it comes."""
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                yield from self._run(pool)
        finally:
            self._closed = True
            for node in (*self._nodes.values(), *self._left):
                node.connection.close()

    def _run(self, pool: ThreadPoolExecutor) -> Iterator[NodeSample]:
        while not self._closed:
            now = time.monotonic()
            if self._doubtful and now >= self._listed + _LISTING:
                yield from self._list(now)
                if not self._nodes and not self._doubtful:
                    return
            for node in self._nodes.values():
                if not node.asked and now >= node.due:
                    node.asked, node.due = True, now + self._interval
                    pool.submit(self._ask, node)
            yield from self._next(now)

    def _list(self, now: float) -> Iterator[NodeSample]:
        """Which nodes the jobs have; those that are over have none."""
        for node in self._left:
            if not node.asked:
                node.connection.close()
        self._left = [node for node in self._left if node.asked]
        self._doubtful, self._listed = False, now
        wanted = self._wanted
        try:
            found = watched(wanted, self._ask_slurm)
        except HpcnetError as error:
            self._doubtful = True
            yield from problems(wanted, str(error))
            return
        jobs: dict[str, set[int]] = {}
        for network in found:
            for name in nodelist.expand(network.job.nodelist):
                jobs.setdefault(name, set()).add(network.job.id)
        for name in self._nodes.keys() - jobs.keys():
            self._left.append(self._nodes.pop(name))
        for name, own in jobs.items():
            node = self._nodes.setdefault(name, _Node(name, self._connect(name)))
            node.job_ids = frozenset(own)

    def _ask(self, node: _Node) -> None:
        """In a thread of the pool."""
        found, problem = [], ""
        try:
            if not self._closed:
                node.connection.request("GET", PATH, headers=self._headers)
                answer = node.connection.getresponse()
                body = answer.read(_LARGEST)
                if answer.status != 200:
                    raise ValueError(f"{answer.status}, {body.decode('ascii', 'replace').strip()[:100]}")
                documents = (each for each in json.loads(body) if each.get("job") in node.job_ids)
                found = [wire.decode(each)._replace(node=node.name) for each in documents]
        except (OSError, http.client.HTTPException, ValueError, AttributeError, RecursionError) as error:
            node.connection.close()
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problem = f"the agent of {node.name}: {why or type(error).__name__}"
        self._answers.put((node, found, problem))

    def _next(self, now: float) -> Iterator[NodeSample]:
        """Wait for an answer, until another node is to be asked."""
        due = [node.due for node in self._nodes.values() if not node.asked]
        until = min([*due, self._listed + _LISTING if self._doubtful else now + _LISTING])
        try:
            answer = self._answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return
        if answer is None:
            return
        node, found, problem = answer
        node.asked = False
        self._doubtful |= len(found) < len(node.job_ids)
        if not problem:
            node.pause = 0.0
            yield from found
            return
        node.pause = min(RETRY_MOST, 2 * node.pause or RETRY_FIRST)
        node.due = time.monotonic() + node.pause
        # of one node of several the board says that it is silent
        well = frozenset().union(*(each.job_ids for each in self._nodes.values() if not each.pause))
        yield from problems(node.job_ids - well, problem)
