# SPDX-License-Identifier: Apache-2.0
"""The nouns, as frozen dataclasses: what the user asks, what the controller leases, what a node builds."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hpcnet.frozen import frozen

MODES = ("vxlan", "direct")
IPOIB_MODES = ("datagram", "connected")
JOINS = ("tasks", "none")
EGRESSES = ("host", "none")
ENVS = ("site", "none")

NONE = "none"
"""Of a lease's pkey and ipoib: the lease does not say."""

VXLAN_OVERHEAD = 50
"""Bytes that VXLAN over IPv4 adds: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348)."""

VXLAN_PORT = 4789
"""UDP port of VXLAN (RFC 7348), where the site names no other; the kernel's default is 8472."""


@frozen
class Request:
    """What the user wrote after ``--network=ib``. None: not said, the site's default holds."""

    mode: str | None = None
    mtu: int | None = None
    pkey: str | None = None
    """``0x8001``-like lower-case hexadecimal with the membership bit, or ``auto``."""
    ipoib: str | None = None
    endpoints: int | None = None
    """Container addresses per node, already rounded up to a power of two."""
    join: str | None = None
    egress: str | None = None
    docker: bool | None = None
    env: str | None = None


@frozen
class Lease:
    """What the nodes cannot derive by themselves; the same for every node of the job."""

    serial: int
    """Never given twice in a cluster; with cluster and job id the identity of the network."""
    mode: str
    vni: int
    """0 for mode=direct."""
    ipv4: IPv4Network
    ipv6: IPv6Network
    """Always a /64."""
    endpoints: int = 0
    """Container addresses per node: 0 or a power of two."""
    mtu: int = 0
    """Of the job's interface in bytes; 0: the largest that each node's uplink allows."""
    join: str = "tasks"
    egress: str = "none"
    docker: bool = False
    pkey: str = NONE
    """``0x8001``-like; none: the uplink's own, or no InfiniBand."""
    ipoib: str = NONE
    """datagram or connected; none: as the uplink, or no InfiniBand."""
    shared: bool = False
    """Whether other jobs can reach this network: mode=direct, but for a pkey that is this job's alone."""


@frozen
class Endpoint:
    """One address pair of the job's network, and where it is reached on the fabric."""

    node: str
    slot: int
    """0: the node's tasks; 1..endpoints: its containers."""
    ipv4: IPv4Address
    ipv6: IPv6Address
    link_local: IPv6Address
    mac: str
    underlay: IPv4Address
    """The node's own address on the fabric, its VTEP."""


@frozen
class Plan:
    """All that one node builds for a job. Every node of the job computes the same from the same lease."""

    cluster: str
    job_id: int
    uid: int
    node: str
    rank: int
    nodes: tuple[str, ...]
    lease: Lease
    uplink: str
    mtu: int
    own: tuple[Endpoint, ...]
    """This node's endpoints; the first is the tasks'."""
    peers: tuple[Endpoint, ...]
    """All endpoints of all other nodes, in the order of rank, then slot."""
    ipoib: str = ""
    """mode=direct on InfiniBand: datagram or connected; empty: the job's interface is an Ethernet one."""
    pkey: str = ""
    """Of the IPoIB interface: the lease's or else the uplink's."""
    variables: Mapping[str, str] = {}
    """By which the tasks' libraries are told their interface."""
    vxlan_port: int = VXLAN_PORT
    """UDP port of the VXLAN device; the same on all nodes of the fabric."""

    @property
    def direct(self) -> bool:
        """Whether the tasks' interface is a child of the uplink itself."""
        return self.lease.mode == "direct"

    @property
    def egress(self) -> bool:
        """Whether the job has a way out through the node."""
        return self.lease.egress == "host"

    @property
    def tasks(self) -> Endpoint:
        """The endpoint of this node's tasks."""
        return self.own[0]

    @property
    def vteps(self) -> tuple[IPv4Address, ...]:
        """The peers' fabric addresses, one for each other node."""
        return tuple(peer.underlay for peer in self.peers if peer.slot == 0)
