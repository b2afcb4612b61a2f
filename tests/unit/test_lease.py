# SPDX-License-Identifier: Apache-2.0
"""The allocator: sizes of prefixes, round robin, no overlap, and what it says when there is no room."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import lease as leases
from hpcnet.config import Defaults, Fabric, Offer, Pool, Site
from hpcnet.errors import SiteError, UserError
from hpcnet.model import Lease, Request

PLAIN = leases.Terms("vxlan", 0, 0, "tasks", "none", False)
NOW = 1_700_000_000.5


def terms(endpoints: int) -> leases.Terms:
    return leases.Terms("vxlan", endpoints, 0, "tasks", "none", True)


def pool(vni: tuple[int, int] = (5000, 5007), ipv4: str = "10.0.0.0/24", ipv6: str = "fd00::/48") -> Pool:
    return Pool(vni=vni, ipv4=IPv4Network(ipv4), ipv6=IPv6Network(ipv6))


def fill(pool: Pool, size: int = 1) -> leases.State:
    """The state when no job of this size fits any more."""
    state = leases.State()
    while True:
        try:
            state, _ = leases.allocate(state, PLAIN, size, pool, NOW)
        except leases.PoolFull:
            return state


@pytest.mark.parametrize(
    ("nodes", "endpoints", "bits"),
    [
        (1, 0, 2),  # network, task, (unused), broadcast
        (2, 0, 2),
        (3, 0, 3),  # the third task would be the broadcast address of a /30
        (6, 0, 3),
        (7, 0, 4),
        (1, 1, 2),  # task 1, container 2, broadcast 3
        (1, 8, 5),  # C = 8: containers 8..15, whose last would be the broadcast address of a /28
        (16384, 0, 15),
        (16384, 1024, 25),
    ],
)
def test_host_bits(nodes: int, endpoints: int, bits: int) -> None:
    assert leases.host_bits(nodes, endpoints) == bits


@given(st.integers(1, 200), st.sampled_from([0, 1, 2, 4, 8, 64]))
def test_offsets_are_distinct_and_fit_in_the_least_prefix(nodes: int, endpoints: int) -> None:
    used = [offset for rank in range(nodes) for offset in leases.offsets(rank, nodes, endpoints)]
    bits = leases.host_bits(nodes, endpoints)
    assert len(set(used)) == len(used) == nodes * (1 + endpoints)
    assert min(used) == 1
    assert max(used) < 2**bits - 1  # neither the network's nor the broadcast address
    assert max(used) >= 2 ** (bits - 1) - 1  # one bit less would not do


@given(st.integers(0, 199), st.sampled_from([1, 2, 4, 8]))
def test_a_nodes_containers_are_one_aligned_prefix(rank: int, endpoints: int) -> None:
    """Docker is given them as --ip-range."""
    task, *containers = leases.offsets(rank, 200, endpoints)
    assert task == rank + 1
    assert containers[0] % endpoints == 0
    assert containers == list(range(containers[0], containers[0] + endpoints))


def test_numbers_are_given_round_robin_and_not_again_at_once() -> None:
    state, first = leases.allocate(leases.State(), PLAIN, 1, pool(), NOW)
    assert (first.vni, str(first.ipv4), str(first.ipv6)) == (5000, "10.0.0.0/30", "fd00::/64")
    freed = leases.State((), state.last_vni, state.last_ipv4, state.last_serial)
    _, second = leases.allocate(freed, PLAIN, 1, pool(), NOW)
    assert (second.vni, str(second.ipv4), str(second.ipv6)) == (5001, "10.0.0.4/30", "fd00:0:0:1::/64")


def test_round_robin_wraps_to_what_became_free() -> None:
    full = fill(pool())
    assert len(full.held) == 8
    third = full.held[2]
    state = leases.State(
        tuple(entry for entry in full.held if entry != third), full.last_vni, 10 << 24 | 255, full.last_serial
    )
    _, lease = leases.allocate(state, PLAIN, 1, pool(), NOW)
    assert lease.vni == third.vni
    assert lease.ipv4 == IPv4Network((third.ipv4, 30))


def test_serials_grow_even_when_the_clock_goes_back_or_the_store_was_lost() -> None:
    state, first = leases.allocate(leases.State(), PLAIN, 1, pool(), NOW)
    state, second = leases.allocate(state, PLAIN, 1, pool(), NOW - 1000)
    _, lost = leases.allocate(leases.State(), PLAIN, 1, pool(), NOW + 10)
    assert first.serial == int(NOW)
    assert second.serial == first.serial + 1
    assert lost.serial > second.serial


def test_full_of_networks() -> None:
    with pytest.raises(leases.PoolFull, match="all 8 networks of the pool are held"):
        leases.allocate(fill(pool()), PLAIN, 1, pool(), NOW)


def test_full_of_addresses_names_the_size() -> None:
    small = pool(ipv4="10.0.0.0/28")
    state = fill(small)
    assert len(state.held) == 4
    with pytest.raises(leases.PoolFull, match=r"no IPv4 /30 is free in the pool 10.0.0.0/28"):
        leases.allocate(state, PLAIN, 1, small, NOW)


def test_the_ipv6_pool_may_be_the_smaller_one() -> None:
    small = pool(ipv6="fd00::/63")
    assert [entry.ipv6 for entry in fill(small).held] == ["fd00::/64", "fd00:0:0:1::/64"]


def test_a_job_too_large_for_the_pool_says_what_would_fit() -> None:
    with pytest.raises(
        SiteError, match=r"100 nodes with 8 .* /22, but .* 10.0.0.0/24 .* fewer endpoints"
    ) as error:
        leases.allocate(leases.State(), terms(8), 100, pool(), NOW)
    assert not isinstance(error.value, leases.PoolFull)
    with pytest.raises(SiteError, match=r"/22, but the pool is 10.0.0.0/24 in all; have the site enlarge"):
        leases.allocate(leases.State(), PLAIN, 1000, pool(), NOW)


@pytest.mark.parametrize("nodes", [0, 16385])
def test_number_of_nodes(nodes: int) -> None:
    with pytest.raises(SiteError, match="1 to 16384 nodes"):
        leases.allocate(leases.State(), PLAIN, nodes, pool(), NOW)


def test_the_largest_job_fits_the_default_pool_many_times() -> None:
    state = fill(Pool(), 16384)
    assert len(state.held) == 128


def test_leases_of_another_configuration_stay_apart() -> None:
    """The site has moved its ranges while jobs run: VNI, IPv4 and /64 are compared by value."""
    state, old = leases.allocate(leases.State(), PLAIN, 100, pool(vni=(5001, 5003)), NOW)
    state, new = leases.allocate(state, PLAIN, 1, pool(vni=(5000, 5003)), NOW)
    assert not leases.overlap(leases.held(old), leases.held(new))
    assert old.vni != new.vni


@given(st.data())
def test_any_mix_of_sizes_never_overlaps(data: st.DataObject) -> None:
    here = pool(vni=(1, 40), ipv4="10.0.0.0/23", ipv6="fd00::/59")
    state = leases.State()
    leased: dict[int, Lease] = {}
    for _ in range(data.draw(st.integers(1, 60))):
        drop = data.draw(st.booleans())
        if leased and drop:
            gone = leased.pop(data.draw(st.sampled_from(sorted(leased))))
            left = tuple(entry for entry in state.held if entry != leases.held(gone))
            state = leases.State(left, state.last_vni, state.last_ipv4, state.last_serial)
        nodes, endpoints = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([0, 0, 1, 2]))
        try:
            state, lease = leases.allocate(state, terms(endpoints), nodes, here, NOW)
        except leases.PoolFull:
            continue
        leased[lease.serial] = lease
        assert lease.ipv4.subnet_of(here.ipv4)
        assert lease.ipv6.subnet_of(here.ipv6)
        assert 1 <= lease.vni <= 40
    pairs = combinations(state.held, 2)
    assert not any(leases.overlap(one, other) for one, other in pairs)
    assert all(alone for _, alone in leases.disjoint(leased.values()))


@given(st.data())
def test_full_means_full(data: st.DataObject) -> None:
    """PoolFull is raised only when no aligned place of the size is free."""
    here = pool(vni=(1, 1000), ipv4="10.0.0.0/26", ipv6="fd00::/48")
    base = int(here.ipv4.network_address)
    busy = data.draw(st.sets(st.integers(0, 15)))
    held = tuple(leases.Held(2000 + block, base + 4 * block, 2, f"x{block}") for block in sorted(busy))
    state = leases.State(held, -1, base + data.draw(st.integers(-1, 63)), 0)
    nodes = data.draw(st.sampled_from([2, 6, 14, 30]))
    bits = leases.host_bits(nodes, 0)
    places = {at for at in range(0, 16, 1 << (bits - 2)) if not busy & set(range(at, at + (1 << (bits - 2))))}
    try:
        _, lease = leases.allocate(state, PLAIN, nodes, here, NOW)
    except leases.PoolFull:
        assert not places
    else:
        assert (int(lease.ipv4.network_address) - base) // 4 in places


def test_disjoint_marks_what_shares_a_number() -> None:
    state, first = leases.allocate(leases.State(), PLAIN, 1, pool(), NOW)
    _, second = leases.allocate(state, PLAIN, 1, pool(), NOW)
    assert [alone for _, alone in leases.disjoint([first, second, first])] == [True, True, False]


def test_terms_fill_in_the_sites_defaults() -> None:
    site = Site(
        fabric=Fabric(mtu=65520),
        defaults=Defaults(endpoints=5, join="none"),
        offer=Offer(docker=True),
    )
    assert leases.terms_of(Request(), site) == leases.Terms("vxlan", 0, 65470, "none", "host", False)
    assert leases.terms_of(Request(docker=True), site).endpoints == 8
    assert leases.terms_of(Request(endpoints=2, join="tasks"), site).endpoints == 2
    assert leases.terms_of(Request(mtu=9000), site).mtu == 9000
    assert leases.terms_of(Request(), Site()).mtu == 0


def test_terms_refuse_what_the_site_does_not_offer() -> None:
    site = Site(fabric=Fabric(mtu=4092))
    with pytest.raises(UserError, match="at most 4042"):
        leases.terms_of(Request(mtu=4043), site)
    with pytest.raises(UserError, match="docker=yes is not offered"):
        leases.terms_of(Request(docker=True), site)
