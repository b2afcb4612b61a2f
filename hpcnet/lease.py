# SPDX-License-Identifier: Apache-2.0
"""Pools and the allocator: which VNI or pkey, IPv4 prefix and IPv6 /64 the next job gets. Pure: no clock, no I/O.

    terms = terms_of(request, site)                        # what the lease shall say, but for its numbers
    pool = pool_of(terms, site)
    state, lease = allocate(state, terms, nodes=4, pool=pool, now=1_700_000_000)

A job's IPv4 prefix, N nodes with E container endpoints each; IPv6 has the same offsets in the /64:

    0               the network's own address
    r + 1           the tasks of the node with rank r
    C + r*E ...     the containers of rank r, E addresses; C is N+1 rounded up to a multiple of E
    last            the broadcast address
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from hpcnet import request as requests
from hpcnet.config import AnyPool, Direct, Pool, Site
from hpcnet.errors import SiteError
from hpcnet.frozen import frozen, replace
from hpcnet.model import NONE, VXLAN_OVERHEAD, Lease, Request

MAX_NODES = 16384
"""Most nodes of one job."""

_SUBNET_SIZE = 1 << 64  # addresses of an IPv6 /64


class PoolFull(SiteError):
    """The job would fit, but all that is left is held: worth waiting for, unlike a pool that is too small."""


class Held(NamedTuple):
    """The numbers of a lease that is not free, whatever its state."""

    vni: int
    """0: mode=direct."""
    ipv4: int
    """First address of the prefix as an integer."""
    bits: int
    """Host bits of the prefix: it has ``2**bits`` addresses."""
    ipv6: str
    """The /64 as text."""
    pkey: str = NONE
    """Of a lease that has it alone."""


@frozen
class State:
    """All that the allocator knows: what is held, and where it gave last."""

    held: tuple[Held, ...] = ()
    last_vni: int = -1
    last_ipv4: int = -1
    """Last address of the last prefix given."""
    last_serial: int = 0
    last_subnet: str = ""
    """The last /64 given for mode=direct, as text; and the last address of the last prefix:"""
    last_direct_ipv4: int = -1


@frozen
class Terms:
    """What a lease says besides its numbers: the request with the site's defaults filled in."""

    mode: str
    endpoints: int
    mtu: int
    join: str
    egress: str
    docker: bool
    pkey: str = NONE
    """A pkey; auto: one of the pool to this job alone."""
    ipoib: str = NONE
    shared: bool = False


def terms_of(request: Request, site: Site) -> Terms:
    """The request with the site's defaults. Raises UserError when the site does not offer it."""
    requests.check(request, site.offer, site.direct, site.defaults.mode, site.fabric.mtu)
    mode = request.mode or site.defaults.mode
    docker = site.defaults.docker if request.docker is None else request.docker
    endpoints = request.endpoints or (_power_of_two(site.defaults.endpoints) if docker else 0)
    pkey = NONE
    if mode == "direct":
        pkey = request.pkey or (NONE if site.direct.allow_shared else "auto")
    return Terms(
        mode=mode,
        endpoints=endpoints,
        mtu=request.mtu or _default_mtu(mode, request.ipoib, site.fabric.mtu),
        join=request.join or site.defaults.join,
        egress=request.egress or site.defaults.egress,
        docker=docker,
        pkey=pkey,
        ipoib=request.ipoib or NONE,
        shared=mode == "direct" and pkey != "auto",
    )


def _default_mtu(mode: str, ipoib: str | None, uplink_mtu: int | None) -> int:
    """What the site's [fabric] mtu promises; it says nothing of an IPoIB mode that is perhaps not the uplink's."""
    if not uplink_mtu or ipoib is not None:
        return 0
    return uplink_mtu - (VXLAN_OVERHEAD if mode == "vxlan" else 0)


def pool_of(terms: Terms, site: Site) -> AnyPool:
    """What a lease on these terms is taken from."""
    return site.direct if terms.mode == "direct" else site.pool


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


def allocate(state: State, terms: Terms, nodes: int, pool: AnyPool, now: float) -> tuple[State, Lease]:
    """The next lease, and the state with it held. ``now``: seconds since the epoch, for the serial.

    ``pool`` is :func:`pool_of` the terms. Each number is the next free one behind the last given, so that it
    rests as long as can be before it is given again. Raises PoolFull when nothing is free, SiteError when the
    job could never fit.
    """
    bits = _fitting_bits(nodes, terms.endpoints, pool)
    serial = max(state.last_serial + 1, int(now))
    vni, pkey = 0, terms.pkey
    if isinstance(pool, Pool):
        vni, ipv6 = _next_vni(state, pool)
        ipv4 = _next_ipv4(state, state.last_ipv4, bits, pool)
    else:
        place, ipv6 = _next_subnet(state, pool)
        ipv4 = _next_ipv4(state, state.last_direct_ipv4, bits, pool)
        if pkey == "auto":
            pkey = _next_pkey(state, place, pool)
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
        pkey=pkey,
        ipoib=terms.ipoib,
        shared=terms.shared,
    )
    return replace(after(state, lease), held=(*state.held, held(lease))), lease


def after(state: State, lease: Lease) -> State:
    """The state when this lease is the last that was given; who holds what is not changed."""
    end, serial = int(lease.ipv4.broadcast_address), max(lease.serial, state.last_serial)
    if lease.mode == "direct":
        return replace(state, last_subnet=str(lease.ipv6), last_direct_ipv4=end, last_serial=serial)
    return replace(state, last_vni=lease.vni, last_ipv4=end, last_serial=serial)


def separation(lease: Lease) -> str:
    """What keeps the network apart from other jobs', for people to read."""
    if lease.mode == "vxlan":
        return f"VNI {lease.vni}"
    pkey = f"pkey {lease.pkey}" if lease.pkey != NONE else "the uplink's own network"
    return f"{pkey}, shared with other jobs" if lease.shared else f"{pkey}, this job's alone"


def held(lease: Lease) -> Held:
    """The numbers of a lease."""
    first, bits = int(lease.ipv4.network_address), 32 - lease.ipv4.prefixlen
    return Held(lease.vni, first, bits, str(lease.ipv6), NONE if lease.shared else lease.pkey)


def overlap(one: Held, other: Held) -> bool:
    """Whether two leases share a VNI, an address or a pkey that is for one alone."""
    first, second = sorted(((one.ipv4, one.bits), (other.ipv4, other.bits)))
    same = not _names(one).isdisjoint(_names(other))
    return same or one.ipv6 == other.ipv6 or first[0] + (1 << first[1]) > second[0]


def _names(entry: Held) -> set[str]:
    """What a lease has alone besides addresses: its VNI, or its pkey, or nothing."""
    return {str(entry.vni), entry.pkey} - {"0", NONE}


def disjoint(leases: Iterable[Lease]) -> Iterator[tuple[Lease, bool]]:
    """Each lease with whether it shares nothing with those before it that shared nothing."""
    taken: set[str] = set()
    subnets: set[str] = set()
    blocks: list[tuple[int, int]] = []
    for lease in leases:
        own = held(lease)
        ipv4, bits, ipv6 = own.ipv4, own.bits, own.ipv6
        at = bisect_left(blocks, (ipv4, 0))
        free4 = _is_free(blocks, at, ipv4, bits)
        alone = taken.isdisjoint(_names(own)) and ipv6 not in subnets and free4
        if alone:
            taken |= _names(own)
            subnets.add(ipv6)
            blocks.insert(at, (ipv4, bits))
        yield lease, alone


def _fitting_bits(nodes: int, endpoints: int, pool: AnyPool) -> int:
    if not 1 <= nodes <= MAX_NODES:
        raise SiteError(f"the job has {nodes} nodes; hpcnet makes networks of 1 to {MAX_NODES} nodes")
    bits = host_bits(nodes, endpoints)
    if bits > 32 - pool.ipv4.prefixlen:
        least = host_bits(nodes, 0)
        ask = "ask for fewer endpoints, or " if least <= 32 - pool.ipv4.prefixlen else ""
        raise SiteError(
            f"{nodes} nodes with {endpoints} endpoints each need an IPv4 /{32 - bits}, but the pool is "
            f"{pool.ipv4} in all; {ask}have the site enlarge [{pool.section}] ipv4"
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


def _next_subnet(state: State, pool: Direct) -> tuple[int, IPv6Network]:
    """Place in the pool, and /64, of a network without a VNI."""
    size = 1 << (64 - pool.ipv6.prefixlen)
    subnets = {entry.ipv6 for entry in state.held}
    base = int(pool.ipv6.network_address)
    last = IPv6Network(state.last_subnet) if state.last_subnet else None
    start = (int(last.network_address) - base) // _SUBNET_SIZE + 1 if last and last.subnet_of(pool.ipv6) else 0
    for step in range(min(size, len(subnets) + 1)):
        place = (start + step) % size
        ipv6 = IPv6Network((base + place * _SUBNET_SIZE, 64))
        if str(ipv6) not in subnets:
            return place, ipv6
    raise PoolFull(f"all {size} networks of {pool.ipv6} are held; wait for a job to end, or enlarge [direct] ipv6")


def _next_pkey(state: State, place: int, pool: Direct) -> str:
    """A pkey that no lease has; round the pool as the networks go round theirs."""
    if not pool.pkey_pool:
        raise SiteError("[direct] pkey_pool is empty: there are no partitions of one job alone")
    held_pkeys = {entry.pkey for entry in state.held}
    size = len(pool.pkey_pool)
    for step in range(size):
        pkey = pool.pkey_pool[(place + step) % size]
        if pkey not in held_pkeys:
            return pkey
    raise PoolFull(f"all {size} partitions are held; wait for a job to end, or enlarge [direct] pkey_pool")


def _next_ipv4(state: State, last: int, bits: int, pool: AnyPool) -> int:
    size = 1 << bits
    first = int(pool.ipv4.network_address)
    end = first + pool.ipv4.num_addresses
    blocks = sorted((entry.ipv4, entry.bits) for entry in state.held)
    start = _round_up(last + 1, size)
    if not first <= start < end:
        start = first
    for low, high in ((start, end), (first, start)):
        found = _first_free(blocks, low, high, bits)
        if found is not None:
            return found
    raise PoolFull(
        f"no IPv4 /{32 - bits} is free in the pool {pool.ipv4}; wait for a job to end, ask for fewer "
        f"endpoints, or have the site enlarge [{pool.section}] ipv4"
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
