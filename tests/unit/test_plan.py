# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import lease as leases
from hpcnet import plan as plans
from hpcnet.errors import HpcnetError, NodeError, SiteError, UserError
from hpcnet.model import Endpoint, Lease, Plan

LINK_LOCAL = IPv6Network("fe80::/64")


def lease_for(size: int, endpoints: int, spare: int = 0, number: int = 0, mtu: int = 0) -> Lease:
    """A lease as the controller makes it for ``size`` nodes, or with ``spare`` more host bits."""
    bits = leases.host_bits(size, endpoints) + spare
    return Lease(
        serial=7,
        mode="vxlan",
        vni=6815744 + number,
        ipv4=IPv4Network((0x0A800000 + (number << bits), 32 - bits)),
        ipv6=IPv6Network((0xFD68_7063_6E65 << 80 | number << 64, 64)),
        endpoints=endpoints,
        mtu=mtu,
    )


def nodes_of(size: int) -> list[str]:
    return [f"n{number}" for number in range(size)]


def plan_on(
    node: str, lease: Lease, nodes: Sequence[str], uplink_mtu: int = 1500, asked_mtu: int | None = None
) -> Plan:
    underlays = {name: IPv4Address(0x0A020001 + place) for place, name in enumerate(sorted(nodes))}
    return plans.plan(
        lease,
        nodes,
        node,
        underlays,
        cluster="lab",
        job_id=12,
        uid=1001,
        uplink="ib0",
        uplink_mtu=uplink_mtu,
        asked_mtu=asked_mtu,
    )


def everyone(plan: Plan) -> list[Endpoint]:
    return [*plan.own, *plan.peers]


def refusal(kind: type[HpcnetError], lease: Lease, size: int, uplink_mtu: int, asked: int | None = None) -> str:
    with pytest.raises(kind) as caught:
        plan_on("n0", lease, nodes_of(size), uplink_mtu, asked)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


sizes = st.integers(1, 40)
endpoint_counts = st.sampled_from([0, 1, 2, 4, 8, 16, 64])
ordered_nodes = st.integers(1, 9).flatmap(lambda size: st.permutations(nodes_of(size)))
lease_shapes = st.tuples(sizes, endpoint_counts, st.integers(0, 3), st.integers(0, 1000))


@given(lease_shapes)
def test_no_two_endpoints_share_an_address_or_a_mac(shape: tuple[int, int, int, int]) -> None:
    size, endpoints, spare, number = shape
    found = everyone(plan_on("n0", lease_for(size, endpoints, spare, number), nodes_of(size)))
    assert len(found) == size * (1 + endpoints)
    for field in ("ipv4", "ipv6", "link_local", "mac"):
        assert len({getattr(endpoint, field) for endpoint in found}) == len(found), field


@given(lease_shapes)
def test_every_address_is_a_host_of_the_leases_prefixes(shape: tuple[int, int, int, int]) -> None:
    size, endpoints, spare, number = shape
    lease = lease_for(size, endpoints, spare, number)
    for endpoint in everyone(plan_on("n0", lease, nodes_of(size))):
        assert endpoint.ipv4 in lease.ipv4
        assert endpoint.ipv4 not in (lease.ipv4.network_address, lease.ipv4.broadcast_address)
        assert endpoint.ipv6 in lease.ipv6 and endpoint.ipv6 != lease.ipv6.network_address
        assert endpoint.link_local in LINK_LOCAL and endpoint.link_local != LINK_LOCAL.network_address


@given(lease_shapes)
def test_macs_are_unicast_locally_administered_and_say_the_address(shape: tuple[int, int, int, int]) -> None:
    size, endpoints, spare, number = shape
    for endpoint in everyone(plan_on("n0", lease_for(size, endpoints, spare, number), nodes_of(size))):
        octets = bytes.fromhex(endpoint.mac.replace(":", ""))
        assert octets[0] & 0b11 == 0b10
        assert octets == b"\x02\x42" + endpoint.ipv4.packed


@given(ordered_nodes, endpoint_counts)
def test_all_nodes_compute_the_same(nodes: list[str], endpoints: int) -> None:
    lease = lease_for(len(nodes), endpoints)
    made = [plan_on(node, lease, nodes) for node in nodes]
    own = [plan.own for plan in made]
    for rank, plan in enumerate(made):
        assert (plan.node, plan.rank, plan.nodes) == (nodes[rank], rank, tuple(nodes))
        others = [endpoint for other, theirs in enumerate(own) if other != rank for endpoint in theirs]
        assert list(plan.peers) == others


@given(ordered_nodes, endpoint_counts)
def test_ranks_and_addresses_follow_slurms_order(nodes: list[str], endpoints: int) -> None:
    lease = lease_for(len(nodes), endpoints)
    for rank, node in enumerate(nodes):
        tasks = plan_on(node, lease, nodes).tasks
        assert (tasks.node, tasks.slot) == (node, 0)
        assert tasks.ipv4 == lease.ipv4.network_address + rank + 1
        assert tasks.ipv6 == lease.ipv6.network_address + rank + 1
        assert tasks.link_local == IPv6Address("fe80::") + int(tasks.ipv4)


def test_a_plan_in_numbers() -> None:
    plan = plan_on("n1", lease_for(3, 2), nodes_of(3))
    assert str(plan.lease.ipv4) == "10.128.0.0/28"
    assert [(e.node, e.slot, str(e.ipv4), str(e.ipv6), e.mac, str(e.underlay)) for e in plan.own] == [
        ("n1", 0, "10.128.0.2", "fd68:7063:6e65::2", "02:42:0a:80:00:02", "10.2.0.2"),
        ("n1", 1, "10.128.0.6", "fd68:7063:6e65::6", "02:42:0a:80:00:06", "10.2.0.2"),
        ("n1", 2, "10.128.0.7", "fd68:7063:6e65::7", "02:42:0a:80:00:07", "10.2.0.2"),
    ]
    assert [(e.node, e.slot, str(e.ipv4)) for e in plan.peers] == [
        ("n0", 0, "10.128.0.1"),
        ("n0", 1, "10.128.0.4"),
        ("n0", 2, "10.128.0.5"),
        ("n2", 0, "10.128.0.3"),
        ("n2", 1, "10.128.0.8"),
        ("n2", 2, "10.128.0.9"),
    ]
    assert plan.vteps == (IPv4Address("10.2.0.1"), IPv4Address("10.2.0.3"))


@pytest.mark.parametrize("endpoints", [0, 8])
def test_one_node_has_no_peers(endpoints: int) -> None:
    plan = plan_on("n0", lease_for(1, endpoints), ["n0"])
    assert (plan.rank, plan.peers, plan.vteps, len(plan.own)) == (0, (), (), 1 + endpoints)


@pytest.mark.parametrize("endpoints", [0, 8])
def test_the_largest_job(endpoints: int) -> None:
    size = leases.MAX_NODES
    lease = lease_for(size, endpoints)
    plan = plan_on("n5000", lease, nodes_of(size))
    found = everyone(plan)
    assert len(found) == size * (1 + endpoints)
    assert len({endpoint.ipv4 for endpoint in found}) == len({endpoint.mac for endpoint in found}) == len(found)
    assert lease.ipv4.network_address < min(endpoint.ipv4 for endpoint in found)
    assert max(endpoint.ipv4 for endpoint in found) < lease.ipv4.broadcast_address
    assert len(plan.vteps) == size - 1


def test_the_work_grows_with_the_job_and_not_with_its_square() -> None:
    # Names are compared and addresses made once for each node: counted, since a clock would depend on the machine.
    class Counted(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    nodes = [Counted(name) for name in nodes_of(2000)]
    plan_on("n1999", lease_for(len(nodes), 0), nodes)
    assert Counted.compared < 10 * len(nodes)


@pytest.mark.parametrize(("size", "endpoints"), [(1, 0), (1, 8), (7, 0), (30, 4), (leases.MAX_NODES, 0)])
def test_a_prefix_too_small_for_the_job_is_the_sites(size: int, endpoints: int) -> None:
    lease = lease_for(size, endpoints, spare=-1)
    message = refusal(SiteError, lease, size, 1500)
    assert message == f"lease 7: {lease.ipv4} is too small for {size} nodes"


@given(sizes, endpoint_counts)
def test_no_smaller_prefix_would_do(size: int, endpoints: int) -> None:
    if leases.host_bits(size, endpoints) > 0:
        refusal(SiteError, lease_for(size, endpoints, spare=-1), size, 1500)


def test_a_node_that_is_not_of_the_job_is_refused() -> None:
    with pytest.raises(SiteError, match="node x1 is not among the job's nodes"):
        plan_on("x1", lease_for(2, 0), ["n0", "n1"])


@pytest.mark.parametrize(
    ("leased", "uplink_mtu", "built"),
    [
        (0, 1500, 1450),
        (0, 65520, 65470),
        (0, 1330, 1280),
        (1450, 1500, 1450),
        (1450, 9000, 1450),
        (1280, 1330, 1280),
    ],
)
def test_the_mtu_is_the_leases_or_the_largest(leased: int, uplink_mtu: int, built: int) -> None:
    assert plan_on("n0", lease_for(2, 0, mtu=leased), nodes_of(2), uplink_mtu).mtu == built


@pytest.mark.parametrize("asked", [None, 1280, 9000])
@pytest.mark.parametrize("leased", [0, 1280, 9000])
def test_an_uplink_too_small_for_ipv6_is_the_nodes_whatever_was_asked(leased: int, asked: int | None) -> None:
    message = refusal(NodeError, lease_for(2, 0, mtu=leased), 2, 1329, asked)
    assert "uplink ib0 on n0 has MTU 1329; a job's network needs 1330" in message


def test_an_mtu_that_the_user_asked_for_is_the_users() -> None:
    message = refusal(UserError, lease_for(2, 0, mtu=9000), 2, 1500, asked=9000)
    assert "mtu=9000 is too large: uplink ib0 on n0 allows 1450; leave mtu out" in message


@pytest.mark.parametrize("asked", [None, 4000])
def test_an_mtu_that_the_site_promised_is_the_nodes(asked: int | None) -> None:
    message = refusal(NodeError, lease_for(2, 0, mtu=9000), 2, 1500, asked)
    assert "has MTU 1500" in message and "promises 9050" in message
