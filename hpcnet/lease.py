# SPDX-License-Identifier: Apache-2.0
"""Pools and the allocator: which VNI, IPv4 prefix and IPv6 /64 the next job gets. Pure: no clock, no I/O.

    terms = terms_of(request, site)                        # what the lease shall say, but for its numbers
    state, lease = allocate(state, terms, nodes=4, pool=site.pool, now=1_700_000_000)

A job's IPv4 prefix, N nodes with E container endpoints each; IPv6 has the same offsets in the /64:

    0               the network's own address
    r + 1           the tasks of the node with rank r
    C + r*E ...     the containers of rank r, E addresses; C is N+1 rounded up to a multiple of E
    last            the broadcast address
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from hpcnet import request as requests
from hpcnet.config import Pool, Site
from hpcnet.errors import SiteError
from hpcnet.model import VXLAN_OVERHEAD, Lease, Request

MAX_NODES = 16384
"""Most nodes of one job."""

_SUBNET_SIZE = 1 << 64  # addresses of an IPv6 /64


class PoolFull(SiteError):
    """The job would fit, but all that is left is held: worth waiting for, unlike a pool that is too small."""


class Held(NamedTuple):
    """The numbers of a lease that is not free, whatever its state."""

    vni: int
    ipv4: int
    """First address of the prefix as an integer."""
    bits: int
    """Host bits of the prefix: it has ``2**bits`` addresses."""
    ipv6: str
    """The /64 as text."""


@dataclass(frozen=True)
class State:
    """All that the allocator knows: what is held, and where it gave last."""

    held: tuple[Held, ...] = ()
    last_vni: int = -1
    last_ipv4: int = -1
    """Last address of the last prefix given."""
    last_serial: int = 0


@dataclass(frozen=True)
class Terms:
    """What a lease says besides its numbers: the request with the site's defaults filled in."""

    mode: str
    endpoints: int
    mtu: int
    join: str
    egress: str
    docker: bool


def terms_of(request: Request, site: Site) -> Terms:
    """The request with the site's defaults. Raises UserError when the site does not offer it."""
    requests.check(request, site.offer, site.defaults.mode, site.fabric.mtu)
    mode = request.mode or site.defaults.mode
    docker = site.defaults.docker if request.docker is None else request.docker
    endpoints = request.endpoints or (_power_of_two(site.defaults.endpoints) if docker else 0)
    overhead = VXLAN_OVERHEAD if mode == "vxlan" else 0
    return Terms(
        mode=mode,
        endpoints=endpoints,
        mtu=request.mtu or (site.fabric.mtu - overhead if site.fabric.mtu else 0),
        join=request.join or site.defaults.join,
        egress=request.egress or site.defaults.egress,
        docker=docker,
    )


def offsets(rank: int, nodes: int, endpoints: int) -> tuple[int, ...]:
    """Host offsets of a node's endpoints in the job's prefixes: its tasks', then its containers'."""
    first = _containers(nodes, endpoints) + rank * endpoints
    return (rank + 1, *range(first, first + endpoints))


def host_bits(nodes: int, endpoints: int) -> int:
    """Least host bits of an IPv4 prefix for ``nodes`` nodes (1..16384), ``endpoints`` 0 or a power of two."""
    last_used = _containers(nodes, endpoints) + nodes * endpoints - 1 if endpoints else nodes
    return (last_used + 1).bit_length()


def _containers(nodes: int, endpoints: int) -> int:
    """Offset where the containers' addresses begin."""
    return -(-(nodes + 1) // endpoints) * endpoints if endpoints else 0


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def allocate(state: State, terms: Terms, nodes: int, pool: Pool, now: float) -> tuple[State, Lease]:
    """The next lease, and the state with it held. ``now``: seconds since the epoch, for the serial.

    VNI and IPv4 prefix are each the next free one behind the last given, so that a number rests as long
    as can be before it is given again. Raises PoolFull when nothing is free, SiteError when the job could
    never fit.
    """
    bits = _fitting_bits(nodes, terms.endpoints, pool)
    vni, ipv6 = _next_vni(state, pool)
    ipv4 = _next_ipv4(state, bits, pool)
    serial = max(state.last_serial + 1, int(now))
    lease = Lease(
        serial=serial,
        mode=terms.mode,
        vni=vni,
        ipv4=IPv4Network((ipv4, 32 - bits)),
        ipv6=ipv6,
        endpoints=terms.endpoints,
        mtu=terms.mtu,
        join=terms.join,
        egress=terms.egress,
        docker=terms.docker,
    )
    return State((*state.held, held(lease)), vni, ipv4 + (1 << bits) - 1, serial), lease


def held(lease: Lease) -> Held:
    """The numbers of a lease."""
    return Held(lease.vni, int(lease.ipv4.network_address), 32 - lease.ipv4.prefixlen, str(lease.ipv6))


def overlap(one: Held, other: Held) -> bool:
    """Whether two leases share a VNI or an address."""
    first, second = sorted(((one.ipv4, one.bits), (other.ipv4, other.bits)))
    return one.vni == other.vni or one.ipv6 == other.ipv6 or first[0] + (1 << first[1]) > second[0]


def disjoint(leases: Iterable[Lease]) -> Iterator[tuple[Lease, bool]]:
    """Each lease with whether it shares nothing with those before it that shared nothing."""
    vnis: set[int] = set()
    subnets: set[str] = set()
    blocks: list[tuple[int, int]] = []
    for lease in leases:
        vni, ipv4, bits, ipv6 = held(lease)
        at = bisect_left(blocks, (ipv4, 0))
        free4 = _is_free(blocks, at, ipv4, bits)
        alone = vni not in vnis and ipv6 not in subnets and free4
        if alone:
            vnis.add(vni)
            subnets.add(ipv6)
            blocks.insert(at, (ipv4, bits))
        yield lease, alone


def _fitting_bits(nodes: int, endpoints: int, pool: Pool) -> int:
    if not 1 <= nodes <= MAX_NODES:
        raise SiteError(f"the job has {nodes} nodes; hpcnet makes networks of 1 to {MAX_NODES} nodes")
    bits = host_bits(nodes, endpoints)
    if bits > 32 - pool.ipv4.prefixlen:
        least = host_bits(nodes, 0)
        ask = "ask for fewer endpoints, or " if least <= 32 - pool.ipv4.prefixlen else ""
        raise SiteError(
            f"{nodes} nodes with {endpoints} endpoints each need an IPv4 /{32 - bits}, but the pool is "
            f"{pool.ipv4} in all; {ask}have the site enlarge [pool] ipv4"
        )
    return bits


def _next_vni(state: State, pool: Pool) -> tuple[int, IPv6Network]:
    first, last = pool.vni
    size = min(last - first + 1, 1 << (64 - pool.ipv6.prefixlen))
    vnis = {entry.vni for entry in state.held}
    subnets = {entry.ipv6 for entry in state.held}
    base = int(pool.ipv6.network_address)
    start = state.last_vni - first + 1
    for step in range(size):
        index = (start + step) % size
        if first + index not in vnis:
            ipv6 = IPv6Network((base + index * _SUBNET_SIZE, 64))
            if str(ipv6) not in subnets:
                return first + index, ipv6
    raise PoolFull(f"all {size} networks of the pool are held; wait for a job to end, or enlarge [pool] vni")


def _next_ipv4(state: State, bits: int, pool: Pool) -> int:
    size = 1 << bits
    first = int(pool.ipv4.network_address)
    end = first + pool.ipv4.num_addresses
    blocks = sorted((entry.ipv4, entry.bits) for entry in state.held)
    start = _round_up(state.last_ipv4 + 1, size)
    if not first <= start < end:
        start = first
    for low, high in ((start, end), (first, start)):
        found = _first_free(blocks, low, high, bits)
        if found is not None:
            return found
    raise PoolFull(
        f"no IPv4 /{32 - bits} is free in the pool {pool.ipv4}; wait for a job to end, ask for fewer "
        "endpoints, or have the site enlarge [pool] ipv4"
    )


def _first_free(blocks: list[tuple[int, int]], low: int, high: int, bits: int) -> int | None:
    """First aligned place of ``2**bits`` addresses from ``low`` and below ``high`` that meets no block."""
    size, place = 1 << bits, low
    at = bisect_left(blocks, (low, 0))
    while place + size <= high:
        while at < len(blocks) and blocks[at][0] < place:
            at += 1
        if _is_free(blocks, at, place, bits):
            return place
        before = blocks[at - 1] if at and _end(blocks[at - 1]) > place else blocks[at]
        place = _round_up(max(_end(before), place + 1), size)
    return None


def _is_free(blocks: list[tuple[int, int]], at: int, place: int, bits: int) -> bool:
    """``blocks`` is sorted and without overlaps; ``at`` is its first that starts at or behind ``place``."""
    if at < len(blocks) and blocks[at][0] < place + (1 << bits):
        return False
    return not at or _end(blocks[at - 1]) <= place


def _end(block: tuple[int, int]) -> int:
    """The address behind a block's last one."""
    return block[0] + (1 << block[1])


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
