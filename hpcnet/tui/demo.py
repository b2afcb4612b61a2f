# SPDX-License-Identifier: Apache-2.0
"""A cluster that is made up: the same jobs with the same counters at the same second for the same seed.

source = DemoSource(seed=1, jobs=20, nodes=1000)
source.samples(job_ids, second)        # all samples of one moment, as a pure function of it
source.watch(job_ids, interval=2.0)    # the same, in real time

Its jobs do what jobs do: compute and exchange in turns, run level, write checkpoints, idle. In some, one node is
slow, drops packets, falls silent, or cannot read its counters.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Network, ip_network
from typing import Callable

from hpcnet import names
from hpcnet.counters.model import (
    CONTAINER,
    PORT,
    SEGMENT,
    TASKS,
    Counters,
    Interface,
    JobInfo,
    Neighbour,
    Neighbours,
    NodeSample,
)
from hpcnet.frozen import frozen

SPEED = 100_000_000_000
"""Bit/s of the made-up fabric."""

_USERS = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
_ACCOUNTS = ("physics", "climate", "bio", "cfd")
_MTU = 65470
_BLIND = "its counters cannot be read: permission denied"
_NOBODY = Neighbours()
_PAYLOAD = 32_000  # bytes in a packet on average


@frozen
class _Traffic:
    """Bytes per second of one node over time, with an integral: a level, and a part of each period above it."""

    low: float
    high: float
    period: float
    duty: float
    phase: float

    def total(self, seconds: float) -> float:
        """Bytes since the job began."""
        return self.low * seconds + (self.high - self.low) * (
            self._busy(seconds + self.phase) - self._busy(self.phase)
        )

    def _busy(self, seconds: float) -> float:
        """Integral of a wave between 0 and 1 that is above 0 for ``duty`` of each period, half a sine then."""
        whole, part = divmod(seconds, self.period)
        length = self.duty * self.period
        return length * 2 / math.pi * (whole + (1 - math.cos(math.pi * min(part / length, 1.0))) / 2)


_SHAPES = (
    lambda draw: _Traffic(0.02, 0.95, draw.uniform(40, 90), 0.5, draw.uniform(0, 90)),  # exchange, compute
    lambda draw: _Traffic(0.55, 0.75, draw.uniform(20, 60), 1.0, draw.uniform(0, 60)),  # level
    lambda draw: _Traffic(0.001, 0.35, draw.uniform(120, 240), 0.12, draw.uniform(0, 240)),  # checkpoints
    lambda draw: _Traffic(0.1, 0.3, draw.uniform(10, 30), 0.8, draw.uniform(0, 30)),  # halo exchange
    lambda draw: _Traffic(0.0, 0.0, 60, 0.5, 0),  # idle
    lambda draw: _Traffic(0.88, 0.985, draw.uniform(30, 70), 0.9, draw.uniform(0, 70)),  # all the link
)


@dataclass(frozen=True, eq=False)
class _Job:
    info: JobInfo
    traffic: _Traffic
    weights: tuple[float, ...]
    lean: float
    """Bytes sent for each received."""
    containers: bool
    slow: int
    """Rank of the node that is slow; -1: none. So for the next three."""
    dropping: int
    silent: int
    blind: int


_Moved = tuple["list[Counters]", "list[Interface]"]


def _sizes(draw: random.Random, jobs: int, nodes: int) -> list[int]:
    """Of jobs that share the nodes: the first as large as can be, then ever smaller ones."""
    sizes = [max(1, min(nodes, int(nodes / (1.35**rank) * draw.uniform(0.7, 1)))) for rank in range(jobs)]
    return [nodes, *sizes[1:]] if jobs else []


class DemoSource:
    """A Source without a cluster. ``equal``: every job has all the nodes."""

    def __init__(
        self,
        seed: int = 1,
        jobs: int = 20,
        nodes: int = 1000,
        equal: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        draw = random.Random(seed)
        self._clock = clock
        self._began = int(clock())
        sizes = [nodes] * jobs if equal else _sizes(draw, jobs, nodes)
        self._jobs = {
            job.info.job_id: job
            for job in (_job(draw, rank, size, self._began) for rank, size in enumerate(sizes))
        }
        self._watches: list[_DemoWatch] = []

    def jobs(self) -> list[JobInfo]:
        """All of them, always."""
        return [job.info for job in self._jobs.values()]

    def samples(self, job_ids: Iterable[int], second: float) -> Iterator[NodeSample]:
        """What each node of these jobs says ``second`` seconds after the beginning."""
        for job_id in job_ids:
            job = self._jobs.get(job_id)
            if job is not None:
                yield from _samples(job, self._began, second)

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    def watch(self, job_ids: Iterable[int], interval: float) -> _DemoWatch:
        """Samples in real time, all nodes at once each interval."""
        watch = _DemoWatch(self, job_ids, interval)
        self._watches.append(watch)
        return watch

    def close(self) -> None:
        """End all watches."""
        for watch in self._watches:
            watch.close()


class _DemoWatch:
    def __init__(self, source: DemoSource, job_ids: Iterable[int], interval: float) -> None:
        self._source = source
        self._jobs = list(job_ids)
        self._interval = interval
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[NodeSample]:
        while not self._closed.is_set():
            yield from self._source.samples(list(self._jobs), self._source.elapsed())
            self._closed.wait(self._interval)

    def follow(self, job_ids: Iterable[int]) -> None:
        self._jobs = list(job_ids)

    def close(self) -> None:
        self._closed.set()


def _job(draw: random.Random, rank: int, size: int, now: int) -> _Job:
    direct = rank % 5 == 4
    first = 1 if size > 500 else draw.randrange(1, 900)
    network = IPv4Network((0x0A800000 + rank * 4096, 20))
    user = _USERS[draw.randrange(len(_USERS))] if rank else "alice"
    array = rank in (6, 7)
    info = JobInfo(
        job_id=48210 + rank * 7,
        task=f"48250_{rank - 5}" if array else "",
        user=user,
        account=_ACCOUNTS[sum(map(ord, user)) % len(_ACCOUNTS)],
        partition="main",
        state="COMPLETED+COMPLETING" if rank == 11 else "RUNNING",
        mode="direct" if direct else "vxlan",
        vni=None if direct else 6815744 + rank,
        pkey=f"0x{0x8010 + rank:04x}" if direct else "",
        nodes=tuple(f"n{number}" for number in range(first, first + size)),
        subnet=str(network),
        subnet6=f"fd68:7063:6e65:{rank:x}::/64",
        mtu=4092 if direct else _MTU,
        started=now - int(draw.uniform(90, 90_000)),
    )
    return _Job(
        info=info,
        traffic=_SHAPES[rank % len(_SHAPES)](draw),
        weights=tuple(draw.gauss(1.0, 0.03) for _ in range(size)),
        lean=draw.uniform(0.55, 1.0),
        containers=rank % 4 == 2,
        slow=draw.randrange(size) if rank % 3 == 0 and size > 3 else -1,
        dropping=draw.randrange(size) if rank % 4 == 3 else -1,
        silent=draw.randrange(size) if rank % 5 == 1 and size > 1 else -1,
        blind=draw.randrange(size) if rank == 8 else -1,
    )


def _samples(job: _Job, began: float, second: float) -> Iterator[NodeSample]:
    info = job.info
    age = second + began - (info.started or began)
    total = job.traffic.total(age) * SPEED / 8
    now = began + second
    moved: dict[tuple[int, int], _Moved] = {}
    for rank, (node, endpoints) in enumerate(zip(info.nodes, _endpoints(job))):
        if rank == job.silent and second > 20:
            continue
        if rank == job.blind:
            yield NodeSample(info.job_id, node, now, (), _BLIND, 1000.0 + second)
            continue
        weight = job.weights[rank] * (0.3 if rank == job.slow else 1.0)
        counts = int(total * min(weight, 1.0)), int(age * 3.7) if rank == job.dropping else 0
        if counts not in moved:
            moved[counts] = _moved(job, *counts)
        counters, carriers = moved[counts]
        # as _replace, in a third of the time
        own = [Interface(each[0], each[1], count, *each[3:]) for each, count in zip(endpoints, counters)]
        yield NodeSample(info.job_id, node, now, (*own, *carriers), "", 1000.0 + second)


@cache
def _addresses(subnet: str, subnet6: str, rank: int) -> tuple[str, tuple[str, str], tuple[str]]:
    """MAC and addresses of the tasks' interface, address of a container's."""
    address, address6 = (ip_network(each).network_address + rank + 1 for each in (subnet, subnet6))
    mac = "02:42:" + int(address).to_bytes(4, "big").hex(":")
    return mac, (f"{address}/20", f"{address6}/64"), (f"{address + 2048}/20",)


def _neighbours(info: JobInfo, rank: int, lost: bool) -> Neighbours:
    """Of the tasks' interface: all peers where they are static, else the next few; with ``lost`` one in vain."""
    size, static = len(info.nodes), info.mode == "vxlan"
    peers = [(rank + step) % size for step in range(1, min(size, 5))] if not static else []
    known = [_addresses(info.subnet, info.subnet6, peer) for peer in peers]
    met = tuple(Neighbour(own[0].partition("/")[0], mac, "reachable") for mac, own, _ in known)
    nobody = _addresses(info.subnet, info.subnet6, size)[1][0].partition("/")[0]
    failed = (Neighbour(nobody, "", "failed"),) if lost else ()
    return Neighbours(
        failed=len(failed), reachable=len(met), permanent=2 * (size - 1) if static else 0, listed=failed + met
    )


@cache
def _endpoints(job: _Job) -> list[tuple[Interface, ...]]:
    """The tasks' interface of each node, and its container's, all but what they count."""
    return [_of_node(job.info, rank, job.containers, rank == job.dropping) for rank in range(len(job.info.nodes))]


def _of_node(info: JobInfo, rank: int, containers: bool, lost: bool) -> tuple[Interface, ...]:
    mac, addresses, container = _addresses(info.subnet, info.subnet6, rank)
    tasks = Interface(
        names.TASKS_DEVICE,
        TASKS,
        mtu=info.mtu,
        state="UP",
        mac=mac,
        addresses=addresses,
        namespace=names.netns(info.job_id),
        speed=SPEED,
        neighbours=_neighbours(info, rank, lost),
    )
    if not containers:
        return (tasks,)
    return (
        tasks,
        Interface(
            "eth0",
            CONTAINER,
            name="solver",
            mtu=info.mtu,
            state="UP",
            addresses=container,
            namespace="3f9a1c0e77b2",
            speed=SPEED,
            neighbours=_NOBODY,
        ),
    )


def _moved(job: _Job, received: int, lost: int) -> _Moved:
    """What endpoints of a node count, and the interfaces that carry it: nodes that moved the same share them."""
    sent = int(received * job.lean)
    info = job.info
    tasks = received * 3 // 4 if job.containers else received
    counters = [_count(tasks, sent * 3 // 4 if job.containers else sent, lost)]
    if job.containers:
        counters.append(_count(received - tasks, sent // 4, 0))
    carriers = []
    if info.mode == "vxlan":
        segment = Interface(
            names.VXLAN_DEVICE,
            SEGMENT,
            _count(received + received // 900, sent + sent // 900, 0),
            mtu=info.mtu,
            state="UNKNOWN",
            namespace=names.netns(info.job_id),
            neighbours=_NOBODY,
        )
        carriers.append(segment)
    port = Counters(received + received // 400, sent + sent // 400, None, None, 0, None, 0, 0)
    carriers.append(Interface("mlx5_0/1", PORT, port, mtu=4096, state="ACTIVE", speed=SPEED))
    return counters, carriers


def _count(received: int, sent: int, lost: int) -> Counters:
    return Counters(received, sent, received // _PAYLOAD, sent // _PAYLOAD, 0, 0, lost, 0)
