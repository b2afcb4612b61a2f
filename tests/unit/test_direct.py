# SPDX-License-Identifier: Apache-2.0
"""mode=direct in the core: what is leased, kept, planned and shown."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import lease as leases
from hpcnet import record
from hpcnet.cli.commands import main
from hpcnet.config import Defaults, Direct, Fabric, Offer, Pool, Site
from hpcnet.errors import HpcnetError, NodeError, SiteError, UserError
from hpcnet.kernel import observe
from hpcnet.leaserows import Entry
from hpcnet.leasestore import LeaseStore, peek
from hpcnet.model import Lease, Plan, Request
from hpcnet.plan import plan
from hpcnet.record import Record

NOW = 1_700_000_000.0
POOL = Pool(vni=(5000, 5007), ipv4=IPv4Network("10.0.0.0/24"), ipv6=IPv6Network("fd00::/60"))
SHARED = Direct(allow_shared=True, ipv4=IPv4Network("10.9.0.0/24"), ipv6=IPv6Network("fd09::/60"))
ALONE = replace(SHARED, allow_shared=False, pkey_pool=("0x8010", "0x8011", "0x8012"))
BOTH = replace(ALONE, allow_shared=True)
VXLAN_TERMS = leases.Terms("vxlan", 0, 0, "tasks", "none", False)
SHARED_TERMS = leases.Terms("direct", 0, 0, "tasks", "none", False, shared=True)
ALONE_TERMS = replace(SHARED_TERMS, shared=False, pkey="auto")


def site(direct: Direct, mtu: int | None = None) -> Site:
    return Site(fabric=Fabric(mtu=mtu), direct=direct, offer=Offer(modes=("vxlan", "direct"), pkeys=("0x8001",)))


# Terms


@pytest.mark.parametrize(
    ("asked", "direct", "pkey", "shared"),
    [
        (Request(mode="direct"), SHARED, "none", True),
        (Request(mode="direct", pkey="0x8001"), SHARED, "0x8001", True),
        (Request(mode="direct"), ALONE, "auto", False),
        (Request(mode="direct", pkey="auto"), ALONE, "auto", False),
        (Request(mode="direct"), BOTH, "none", True),
        (Request(mode="direct", pkey="auto"), BOTH, "auto", False),
        (Request(), BOTH, "none", False),
    ],
)
def test_what_separates(asked: Request, direct: Direct, pkey: str, shared: bool) -> None:
    terms = leases.terms_of(asked, site(direct))
    assert (terms.pkey, terms.shared) == (pkey, shared)
    assert leases.pool_of(terms, site(direct)) == (direct if asked.mode else Pool())


@pytest.mark.parametrize("pkey", ["0x8010", "0x8001"])
def test_a_pkey_for_one_alone_is_not_to_be_named_nor_a_shared_one_where_none_is_allowed(pkey: str) -> None:
    with pytest.raises(UserError, match=f"pkey={pkey} is not offered here; offered: auto"):
        leases.terms_of(Request(mode="direct", pkey=pkey), site(ALONE))


@pytest.mark.parametrize(
    ("ipoib", "uplink_mtu", "mtu"),
    [(None, 4092, 4092), (None, None, 0), ("connected", 4092, 0), ("datagram", 65520, 0)],
)
def test_the_mtu_that_the_site_promises(ipoib: str | None, uplink_mtu: int | None, mtu: int) -> None:
    assert leases.terms_of(Request(mode="direct", ipoib=ipoib), site(SHARED, uplink_mtu)).mtu == mtu


def test_direct_as_the_sites_default() -> None:
    here = replace(site(ALONE), defaults=Defaults(mode="direct"))
    assert leases.terms_of(Request(), here).pkey == "auto"


# The allocator


def test_each_mode_goes_round_its_own_pool() -> None:
    state, first = leases.allocate(leases.State(), SHARED_TERMS, 1, SHARED, NOW)
    state, vxlan = leases.allocate(state, VXLAN_TERMS, 1, POOL, NOW)
    state, second = leases.allocate(state, SHARED_TERMS, 1, SHARED, NOW)
    assert [(lease.vni, str(lease.ipv4), str(lease.ipv6)) for lease in (first, vxlan, second)] == [
        (0, "10.9.0.0/30", "fd09::/64"),
        (5000, "10.0.0.0/30", "fd00::/64"),
        (0, "10.9.0.4/30", "fd09:0:0:1::/64"),
    ]
    freed = replace(state, held=())
    assert leases.allocate(freed, SHARED_TERMS, 1, SHARED, NOW)[1].ipv6 == IPv6Network("fd09:0:0:2::/64")


def test_a_pkey_of_the_pool_is_one_jobs_at_a_time() -> None:
    state, given_pkeys = leases.State(), []
    for _ in ALONE.pkey_pool:
        state, lease = leases.allocate(state, ALONE_TERMS, 1, ALONE, NOW)
        assert not lease.shared
        given_pkeys.append(lease.pkey)
    assert sorted(given_pkeys) == list(ALONE.pkey_pool)
    with pytest.raises(leases.PoolFull, match="all 3 partitions are held"):
        leases.allocate(state, ALONE_TERMS, 1, ALONE, NOW)
    left = replace(state, held=tuple(entry for entry in state.held if entry.pkey != given_pkeys[1]))
    assert leases.allocate(left, ALONE_TERMS, 1, ALONE, NOW)[1].pkey == given_pkeys[1]


def test_a_shared_pkey_is_had_by_many() -> None:
    state, terms = leases.State(), replace(SHARED_TERMS, pkey="0x8001")
    for _ in range(3):
        state, lease = leases.allocate(state, terms, 1, SHARED, NOW)
        assert (lease.pkey, lease.shared) == ("0x8001", True)


def test_full_of_networks_and_of_addresses() -> None:
    state = leases.State()
    for _ in range(16):
        state, _ = leases.allocate(state, SHARED_TERMS, 1, SHARED, NOW)
    with pytest.raises(leases.PoolFull, match=r"all 16 networks of fd09::/60 are held; .* \[direct\] ipv6"):
        leases.allocate(state, SHARED_TERMS, 1, SHARED, NOW)
    with pytest.raises(SiteError, match=r"pool is 10\.9\.0\.0/24 in all; have the site enlarge \[direct\] ipv4"):
        leases.allocate(leases.State(), SHARED_TERMS, 300, SHARED, NOW)


@given(st.data())
def test_any_mix_of_modes_never_overlaps(data: st.DataObject) -> None:
    """Even where both pools are the same addresses."""
    same = replace(BOTH, ipv4=POOL.ipv4, ipv6=POOL.ipv6)
    pool = data.draw(st.sampled_from([BOTH, same]))
    state = leases.State()
    leased: list[Lease] = []
    for _ in range(data.draw(st.integers(1, 40))):
        drop = data.draw(st.booleans())
        if leased and drop:
            gone = leases.held(leased.pop(data.draw(st.integers(0, len(leased) - 1))))
            state = replace(state, held=tuple(entry for entry in state.held if entry != gone))
        terms = data.draw(st.sampled_from([VXLAN_TERMS, SHARED_TERMS, ALONE_TERMS]))
        source = POOL if terms.mode == "vxlan" else pool
        try:
            state, lease = leases.allocate(state, terms, data.draw(st.integers(1, 30)), source, NOW)
        except leases.PoolFull:
            continue
        leased.append(lease)
        assert lease.ipv4.subnet_of(source.ipv4) and lease.ipv6.subnet_of(source.ipv6)
        assert record.parse(record.token(Record("lease", Request(), lease))).lease == lease
    assert not any(leases.overlap(one, other) for one, other in combinations(state.held, 2))
    assert all(alone for _, alone in leases.disjoint(leased))


def test_disjoint_sees_a_pkey_given_twice() -> None:
    state, first = leases.allocate(leases.State(), ALONE_TERMS, 1, ALONE, NOW)
    _, other = leases.allocate(state, ALONE_TERMS, 1, ALONE, NOW)
    twice = replace(other, pkey=first.pkey)
    assert [alone for _, alone in leases.disjoint([first, other, twice])] == [True, True, False]
    assert leases.overlap(leases.held(first), leases.held(twice))


# The store


def test_the_store_keeps_all_of_a_lease(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    terms = [SHARED_TERMS, ALONE_TERMS, VXLAN_TERMS, replace(SHARED_TERMS, pkey="0x8001", ipoib="connected")]
    with LeaseStore(path, lambda: (), lambda text: None, lambda: NOW) as store:
        for job, wanted in enumerate([*terms, *terms], 1):
            store.lease(job, "", f"n{job}", 1, wanted, POOL if wanted.mode == "vxlan" else BOTH, NOW)
        entries = store.entries()
    assert [entry.lease.pkey for entry in entries[:4]] == ["none", entries[1].lease.pkey, "none", "0x8001"]
    with LeaseStore(path, lambda: (), lambda text: None) as store:
        assert store.entries() == entries
        state = peek(path)[0]
        assert set(state.held) == {leases.held(entry.lease) for entry in entries}
    newest = entries[-1].lease
    assert (state.last_subnet, state.last_direct_ipv4) == (str(newest.ipv6), int(newest.ipv4.broadcast_address))
    assert (state.last_vni, state.last_serial) == (5001, newest.serial)


def test_a_lost_store_goes_on_in_each_pool(tmp_path: Path) -> None:
    state, direct = leases.allocate(leases.State(), ALONE_TERMS, 1, ALONE, NOW)
    state, vxlan = leases.allocate(state, VXLAN_TERMS, 1, POOL, NOW)
    found = [Entry(job, "", "n1", "live", 0.0, lease) for job, lease in ((1, direct), (2, vxlan))]
    with LeaseStore(str(tmp_path / "store"), lambda: found, lambda text: None, lambda: NOW) as store:
        next_direct, _ = store.lease(3, "", "n1", 1, ALONE_TERMS, ALONE, NOW)
        next_vxlan, _ = store.lease(4, "", "n1", 1, VXLAN_TERMS, POOL, NOW)
    assert (next_direct.ipv6, next_vxlan.vni) == (IPv6Network("fd09:0:0:1::/64"), 5001)
    assert next_direct.pkey != direct.pkey


# The plan

LEASE = Lease(7, "direct", 0, IPv4Network("10.9.0.0/29"), IPv6Network("fd09::/64"), shared=True)


def plan_on(lease: Lease, uplink_mtu: int, ipoib: str = "", asked: int | None = None) -> Plan:
    return plan(
        lease, ["n1", "n2"], "n1", {"n1": IPv4Address("10.2.0.1"), "n2": IPv4Address("10.2.0.2")}, cluster="lab",
        job_id=12, uid=1001, uplink="ib0", uplink_mtu=uplink_mtu, uplink_ipoib=ipoib,
        uplink_pkey="0xffff" if ipoib else "", asked_mtu=asked,
    )  # fmt: skip


def planned(lease: Lease, uplink_mtu: int, ipoib: str = "") -> tuple[str, str, int]:
    found = plan_on(lease, uplink_mtu, ipoib)
    return found.ipoib, found.pkey, found.mtu


def test_on_ethernet_it_has_the_uplinks_mtu() -> None:
    assert planned(LEASE, 9000) == ("", "", 9000)
    assert planned(replace(LEASE, mtu=1500), 9000) == ("", "", 1500)


@pytest.mark.parametrize(
    ("pkey", "ipoib", "leased", "uplink", "uplink_mtu", "child"),
    [
        ("none", "none", 0, "datagram", 2044, ("datagram", "0xffff", 2044)),
        ("0x8001", "none", 0, "datagram", 4092, ("datagram", "0x8001", 4092)),
        ("none", "none", 0, "connected", 65520, ("connected", "0xffff", 65520)),
        ("none", "connected", 0, "datagram", 2044, ("connected", "0xffff", 65520)),
        ("none", "connected", 9000, "datagram", 2044, ("connected", "0xffff", 9000)),
        ("none", "datagram", 0, "connected", 65520, ("datagram", "0xffff", 2044)),
        ("none", "datagram", 4092, "connected", 65520, ("datagram", "0xffff", 4092)),
        ("none", "datagram", 1500, "datagram", 2044, ("datagram", "0xffff", 1500)),
    ],
)
def test_the_childs_mode_partition_and_mtu_on_infiniband(
    pkey: str, ipoib: str, leased: int, uplink: str, uplink_mtu: int, child: tuple[str, str, int]
) -> None:
    assert planned(replace(LEASE, pkey=pkey, ipoib=ipoib, mtu=leased), uplink_mtu, uplink) == child


@pytest.mark.parametrize(
    ("kind", "changes", "uplink_mtu", "ipoib", "asked", "says"),
    [
        (SiteError, {"pkey": "0x8001"}, 9000, "", None, "pkey=0x8001 needs InfiniBand, but uplink ib0 on n1 is"),
        (SiteError, {"ipoib": "datagram"}, 9000, "", None, "ipoib=datagram needs InfiniBand"),
        (UserError, {"mtu": 9001}, 9000, "", 9001, "mtu=9001 is too large: uplink ib0 on n1 allows 9000"),
        (NodeError, {"mtu": 9001}, 9000, "", None, "has MTU 9000, but the site's hpcnet.toml promises 9001"),
        (NodeError, {}, 1279, "", None, "has MTU 1279; a job's network needs 1280"),
        (UserError, {"mtu": 4092}, 2044, "datagram", 4092, "mtu=4092 is too large: uplink ib0 on n1 allows 2044"),
    ],
)
def test_what_cannot_be_is_blamed_on_who_can_mend_it(
    kind: type[HpcnetError], changes: dict[str, object], uplink_mtu: int, ipoib: str, asked: int | None, says: str
) -> None:
    with pytest.raises(kind) as caught:
        plan_on(replace(LEASE, **changes), uplink_mtu, ipoib, asked)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_check_expects_neighbours_on_ethernet_only_and_never_forwarding() -> None:
    ethernet, ipoib = observe.planned(plan_on(LEASE, 9000)), observe.planned(plan_on(LEASE, 2044, "datagram"))
    assert [line.split()[0] for line in sorted(ethernet)] == ["address"] * 3 + ["device"] + ["neighbour"] * 2
    assert [line.split()[0] for line in sorted(ipoib)] == ["address"] * 3 + ["device"]
    assert "device hpc0 ipoib pkey 0xffff datagram mtu 2044 up alias hpcnet:lab:12:7" in ipoib


# What people see

TOML = """\
[fabric]
peers = "number"
peers_base = "10.2.0.0"
[pool]
store = "/nonexistent/hpcnet.sqlite"
[offer]
modes = ["vxlan", "direct"]
pkeys = ["0x8001"]
[direct]
allow_shared = true
pkey_pool = ["0x8010"]
"""


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("ib,mode=direct", "direct, the uplink's own network, shared with other jobs, 10.192.0.0/30"),
        ("ib,mode=direct,pkey=0x8001", "direct, pkey 0x8001, shared with other jobs, 10.192.0.0/30"),
        ("ib,mode=direct,pkey=auto", "direct, pkey 0x8010, this job's alone, 10.192.0.0/30"),
        ("ib", "vxlan, VNI 6815744, 10.128.0.0/30"),
    ],
)
def test_plan_says_what_separates(
    network: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hpcnet.toml").write_text(TOML)
    words = ["plan", "--network", network, "--nodes", "n[1-2]", "--config", str(tmp_path / "hpcnet.toml")]
    assert main(words) == 0
    assert f"network   {says}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("network", "device"),
    [
        ("ib,mode=direct", "device hpc0 macvlan mac 02:42:0a:c0:00:02 mtu (the MTU of ib0) up"),
        ("ib,mode=direct,mtu=1400", "device hpc0 macvlan mac 02:42:0a:c0:00:02 mtu 1400 up"),
        ("ib,mode=direct,pkey=auto", "device hpc0 ipoib pkey 0x8010 datagram mtu (the MTU of ib0) up"),
        ("ib,mode=direct,ipoib=connected", "device hpc0 ipoib pkey 0xffff connected mtu 65520 up"),
        ("ib,mode=direct,ipoib=connected,mtu=9000", "device hpc0 ipoib pkey 0xffff connected mtu 9000 up"),
    ],
)
def test_plan_prints_what_a_node_builds(
    network: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hpcnet.toml").write_text(TOML)
    words = ["plan", "--network", network, "--nodes", "n[1-2]", "--node", "n2"]
    assert main([*words, "--config", str(tmp_path / "hpcnet.toml")]) == 0
    out = capsys.readouterr().out
    assert f"  {device}\n" in out and "filter admits" not in out and "forwarding" not in out
