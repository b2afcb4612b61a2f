# SPDX-License-Identifier: Apache-2.0
"""lease + nodes + site -> Plan: pure, and the same on every node of the job, so that no node asks another.

The rank of a node in the job's nodelist gives its addresses, an address gives its MAC, and all of them
together give every node the static forwarding and neighbour entries of all the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from hpcnet import interfaces, names
from hpcnet import lease as leases
from hpcnet.errors import NodeError, SiteError, UserError
from hpcnet.model import NONE, VXLAN_OVERHEAD, VXLAN_PORT, Endpoint, Lease, Plan
from hpcnet.request import DATAGRAM_MTU_MAX, MTU_MAX

MTU_MINIMUM = 1280
"""Smallest MTU that carries IPv6 (RFC 8200)."""

DATAGRAM_MTU = 2044
"""Of an IPoIB child in datagram mode when nothing better is known: InfiniBand's default MTU less 4 (RFC 4391)."""

_LINK_LOCAL = int(IPv6Address("fe80::"))


def endpoints_of(lease: Lease, node: str, rank: int, size: int, underlay: IPv4Address) -> tuple[Endpoint, ...]:
    """All endpoints of the node with this rank among ``size`` nodes; the first is its tasks'."""
    offsets = leases.offsets(rank, size, lease.endpoints)
    if offsets[-1] >= lease.ipv4.num_addresses - 1:
        raise SiteError(f"lease {lease.serial}: {lease.ipv4} is too small for {size} nodes")
    base4, base6 = int(lease.ipv4.network_address), int(lease.ipv6.network_address)
    return tuple(
        Endpoint(
            node=node,
            slot=slot,
            ipv4=IPv4Address(base4 + offset),
            ipv6=IPv6Address(base6 + offset),
            # Not the offset, which every job has: jobs of mode=direct may share a segment.
            link_local=IPv6Address(_LINK_LOCAL + base4 + offset),
            mac=mac(base4 + offset),
            underlay=underlay,
        )
        for slot, offset in enumerate(offsets)
    )


def mac(ipv4: int) -> str:
    """The MAC of an endpoint: locally administered, 02:42 and the IPv4 address."""
    return "02:42:{:02x}:{:02x}:{:02x}:{:02x}".format(*ipv4.to_bytes(4, "big"))


def plan(
    lease: Lease,
    nodes: Sequence[str],
    node: str,
    underlays: Mapping[str, IPv4Address],
    *,
    cluster: str,
    job_id: int,
    uid: int,
    uplink: str,
    uplink_mtu: int,
    uplink_ipoib: str = "",
    uplink_pkey: str = "",
    asked_mtu: int | None = None,
    with_peers: bool = True,
    variables: Mapping[str, str] | None = None,
    vxlan_port: int = VXLAN_PORT,
) -> Plan:
    """What ``node`` builds for a job over ``nodes`` (Slurm's order, which gives the ranks).

    ``underlays`` holds every node's address on the fabric, ``uplink_mtu`` (bytes) what this node's fabric
    interface carries; ``uplink_ipoib`` (datagram or connected) and ``uplink_pkey`` are empty when that is no
    IPoIB interface. ``asked_mtu`` is the user's own, so that a too large one is blamed on the user.
    ``variables`` tell the tasks' libraries their interface (:mod:`hpcnet.interfaces`).
    ``with_peers=False`` leaves ``peers`` empty, which takes most of the time for a large job.
    Raises SiteError, NodeError or UserError.
    """
    if node not in nodes:
        raise SiteError(f"node {node} is not among the job's nodes")
    size = len(nodes)
    rank = list(nodes).index(node)
    others = [(other, name) for other, name in enumerate(nodes) if other != rank] if with_peers else []
    ipoib, pkey = _child(lease, node, uplink, uplink_ipoib, uplink_pkey)
    largest = _largest_mtu(lease, ipoib, uplink_ipoib, uplink_mtu)
    return Plan(
        cluster=cluster,
        job_id=job_id,
        uid=uid,
        node=node,
        rank=rank,
        nodes=tuple(nodes),
        lease=lease,
        uplink=uplink,
        mtu=_mtu(lease, node, uplink, uplink_mtu, largest, asked_mtu),
        own=endpoints_of(lease, node, rank, size, underlays[node]),
        peers=tuple(
            endpoint
            for other, name in others
            for endpoint in endpoints_of(lease, name, other, size, underlays[name])
        ),
        ipoib=ipoib,
        pkey=pkey,
        variables=interfaces.of(variables or {}, names.TASKS_DEVICE) if lease.join == "tasks" else {},
        vxlan_port=vxlan_port,
    )


def _child(lease: Lease, node: str, uplink: str, uplink_ipoib: str, uplink_pkey: str) -> tuple[str, str]:
    """IPoIB mode and pkey of a direct child; both empty when it is an Ethernet one, and for a VXLAN."""
    if lease.mode != "direct":
        return "", ""
    if uplink_ipoib:
        return (
            uplink_ipoib if lease.ipoib == NONE else lease.ipoib,
            uplink_pkey if lease.pkey == NONE else lease.pkey,
        )
    for key, value in (("pkey", lease.pkey), ("ipoib", lease.ipoib)):
        if value != NONE:
            raise SiteError(f"{key}={value} needs InfiniBand, but uplink {uplink} on {node} is Ethernet")
    return "", ""


def _largest_mtu(lease: Lease, ipoib: str, uplink_ipoib: str, uplink_mtu: int) -> int:
    if lease.mode == "vxlan":
        return uplink_mtu - VXLAN_OVERHEAD
    if ipoib == uplink_ipoib:  # also of Ethernet, where both are empty
        return uplink_mtu
    if ipoib == "connected":
        return MTU_MAX
    # The MTU of a connected uplink does not tell the port's. The kernel says it when it is set.
    return DATAGRAM_MTU_MAX if lease.mtu else DATAGRAM_MTU


def _mtu(lease: Lease, node: str, uplink: str, uplink_mtu: int, largest: int, asked: int | None) -> int:
    overhead = VXLAN_OVERHEAD if lease.mode == "vxlan" else 0
    if largest < MTU_MINIMUM:
        raise NodeError(
            f"uplink {uplink} on {node} has MTU {uplink_mtu}; a job's network needs {MTU_MINIMUM + overhead}"
        )
    wanted = lease.mtu or largest
    if wanted <= largest:
        return wanted
    if asked == lease.mtu:
        raise UserError(f"mtu={wanted} is too large: uplink {uplink} on {node} allows {largest}; leave mtu out")
    raise NodeError(
        f"uplink {uplink} on {node} has MTU {uplink_mtu}, but the site's hpcnet.toml promises "
        f"{lease.mtu + overhead}; raise the interface's MTU or correct [fabric] mtu"
    )
