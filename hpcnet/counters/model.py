# SPDX-License-Identifier: Apache-2.0
"""What is seen of jobs' networks: jobs, and what their interfaces have counted. Pure data, no clock, no I/O.

What comes by the ten thousand each second is a tuple, the smallest thing and the quickest to make.
"""

from __future__ import annotations

from typing import NamedTuple

from hpcnet.frozen import frozen

TASKS, SEGMENT, CONTAINER, EGRESS, PORT = "tasks", "segment", "container", "egress", "port"

KINDS = (TASKS, SEGMENT, CONTAINER, EGRESS, PORT)
"""``tasks``: the tasks' interface. ``segment``: the VXLAN device under it and under the containers'.
``container``: a container's. ``egress``: the way out of the namespace. ``port``: the node's port of the fabric,
which all of its jobs share."""

ENDPOINTS = (TASKS, CONTAINER)
"""The kinds whose counters make up what a job has moved. What they carry passes the segment and the port again."""


class Counters(NamedTuple):
    """What an interface has counted since it was made. None: not known; that is never 0."""

    rx_bytes: int | None = None
    tx_bytes: int | None = None
    rx_packets: int | None = None
    tx_packets: int | None = None
    rx_errors: int | None = None
    tx_errors: int | None = None
    rx_dropped: int | None = None
    tx_dropped: int | None = None


NEIGHBOUR_STATES = ("failed", "incomplete", "probe", "delay", "stale", "reachable", "permanent")
"""As ip-neighbour(8) names them, what wants a look first."""

LISTED_NEIGHBOURS = 8
"""More are counted only: each node sends them with each sample."""


@frozen
class Neighbour:
    """An address on an interface's segment, and what the kernel knows of it."""

    address: str
    mac: str
    """Empty: not known, as of one that failed."""
    state: str
    """One of NEIGHBOUR_STATES."""


@frozen
class Neighbours:
    """How many neighbours (ARP, NDP) an interface has in each of NEIGHBOUR_STATES."""

    failed: int = 0
    incomplete: int = 0
    probe: int = 0
    delay: int = 0
    stale: int = 0
    reachable: int = 0
    permanent: int = 0
    """Static: of hpcnet's making, where the peers' MACs are known before."""
    listed: tuple[Neighbour, ...] = ()
    """The first LISTED_NEIGHBOURS that are not permanent, by state, then by address."""


class Interface(NamedTuple):
    """One interface at one moment. Text that is not known is empty."""

    device: str
    """Its name in its namespace, such as hpc0; of a port adapter and number, such as mlx5_0/1."""
    kind: str
    """One of KINDS."""
    counters: Counters = Counters()
    name: str = ""
    """The container's name; empty for other kinds."""
    mtu: int | None = None
    state: str = ""
    """As ip-link(8) says it: UP, DOWN, UNKNOWN ...; of a port as InfiniBand does: ACTIVE, INIT ..."""
    mac: str = ""
    addresses: tuple[str, ...] = ()
    """With prefix length, such as 10.128.0.1/30."""
    namespace: str = ""
    """Name of its network namespace, such as hpcnet-1234; of a container without a name its id; empty: the
    host's."""
    speed: int | None = None
    """Bit/s of the link under it."""
    neighbours: Neighbours | None = None
    """None: not known. They may be some seconds older than the counters."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Which interface of its node it is, from one sample to the next."""
        return self.kind, self.namespace, self.device


class NodeSample(NamedTuple):
    """One job's interfaces on one node at one moment."""

    job_id: int
    node: str
    """Empty: ``problem`` is the whole job's, such as a step that cannot start."""
    time: float
    """Unix seconds, by the node's own clock."""
    interfaces: tuple[Interface, ...] = ()
    problem: str = ""
    """Why nothing, or not all, could be read; empty: all was."""
    clock: float | None = None
    """Seconds since the node was booted (CLOCK_BOOTTIME): unlike ``time`` nobody sets it, so rates go by it."""


@frozen
class JobInfo:
    """A job that has a network, from its record. Text that is not known is empty, a number None."""

    job_id: int
    task: str = ""
    """``ARRAYID_TASKID`` of an array's task."""
    user: str = ""
    account: str = ""
    partition: str = ""
    state: str = ""
    """Slurm's words, such as RUNNING or COMPLETED+COMPLETING."""
    mode: str = ""
    """vxlan or direct."""
    vni: int | None = None
    pkey: str = ""
    nodes: tuple[str, ...] = ()
    subnet: str = ""
    """IPv4 prefix, such as 10.128.0.0/30."""
    subnet6: str = ""
    mtu: int | None = None
    """As the lease fixes it; None: the largest that each node's uplink allows."""
    started: int | None = None
    """Unix seconds."""

    @property
    def label(self) -> str:
        """What Slurm's commands call it: the task of an array, else the job's number."""
        return self.task or str(self.job_id)
