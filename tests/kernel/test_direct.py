# SPDX-License-Identifier: Apache-2.0
"""mode=direct on Ethernet: Prolog gives each node a macvlan child of its uplink, Epilog leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from hpcnet.model import Lease
from tests.kernel.hosts import (
    Host,
    built,
    ended,
    job_environment,
    lease_of,
    plan_of,
    removed,
    require_root,
)

require_root()
pytestmark = pytest.mark.kernel

CONFIG = "/etc/hpcnet/hpcnet.toml"
SITE = '[hooks]\nlog = "/run/hpcnet.log"\n'
ALLOWED = SITE + '[offer]\nmodes = ["vxlan", "direct"]\n[direct]\nallow_shared = true\n'


@pytest.fixture
def hosts(hosts: list[Host]) -> Iterator[list[Host]]:
    """Hosts of a site that allows shared networks."""
    for host in hosts:
        host.write(CONFIG, ALLOWED)
    yield hosts
    for host in hosts:
        host.write(CONFIG, SITE)


def direct_lease(index: int = 0, **changes: Any) -> Lease:
    """The lease with this number out of the default pool of mode=direct."""
    ipv4 = IPv4Network((int(IPv4Network("10.192.0.0/10").network_address) + 64 * index, 26))
    ipv6 = IPv6Network((int(IPv6Network("fd68:7063:6e66::/48").network_address) + (index << 64), 64))
    return lease_of(index, **{"mode": "direct", "vni": 0, "shared": True, "ipv4": ipv4, "ipv6": ipv6, **changes})


def ping_everyone(hosts: list[Host], lease: Lease, job_id: int = 17) -> None:
    for host in hosts:
        for other in hosts:
            tasks = plan_of(lease, len(hosts), other.name).tasks
            for address in (tasks.ipv4, tasks.ipv6):
                host.in_job(job_id, "ping", "-c1", "-W1", "-q", str(address))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_nodes_of_a_job_reach_each_other_and_nothing_is_left(
    hosts: list[Host], pristine: list[dict[str, str]], size: int
) -> None:
    environment = job_environment(direct_lease(), f"n[1-{size}]" if size > 1 else "n1")
    built(hosts[:size], environment)
    ping_everyone(hosts[:size], direct_lease())
    for host in hosts[:size]:
        assert [line for line in host.lines("ip -o link") if "hpc" in line] == []
        assert host.hpcnet("check").stdout.splitlines() == ["job 17: ok"]
    removed(hosts[:size], environment)
    assert [host.state() for host in hosts] == pristine


def test_what_is_built(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    lease = direct_lease(mtu=9000, endpoints=4)
    built(hosts[:1], job_environment(lease, "n[1-2]"))
    plan = plan_of(lease, 2)
    inside = " ".join(hosts[0].lines("ip -d -o link show hpc0", 17))
    assert f"link/ether {plan.tasks.mac} " in inside and "macvlan mode bridge" in inside
    assert "mtu 9000 " in inside and "addrgenmode none" in inside and ",UP" in inside
    assert len(hosts[0].lines("ip -o link", 17)) == 2  # lo and hpc0
    assert hosts[0].lines("ip neigh show", 17) == {
        f"{address} dev hpc0 lladdr {peer.mac} PERMANENT"
        for peer in plan.peers
        for address in (peer.ipv4, peer.ipv6)
    }
    assert hosts[0].state()["filter"] == pristine[0]["filter"]


def test_the_mtu_is_the_uplinks(hosts: list[Host]) -> None:
    built(hosts[:1], job_environment(direct_lease(), "n1"))
    assert "mtu 65520 " in " ".join(hosts[0].lines("ip -o link show hpc0", 17))


def test_nothing_is_sent_before_the_first_packet(hosts: list[Host]) -> None:
    """No ARP, no router solicitation, no duplicate address detection; MLD is what a snooping switch wants."""
    hook = "type filter hook egress device ib0 priority 0"
    others = "ether saddr != 02:42:0a:c0:00:01 accept"
    chain = f"{hook}; {others}; icmpv6 type {{ mld-listener-report, mld2-listener-report }} accept; counter"
    hosts[0].run("nft", "-f", "-", text=f"table netdev seen {{\nchain out {{ {chain}\n}}\n}}\n")
    try:
        built(hosts[:1], job_environment(direct_lease(), "n[1-2]"))
        hosts[0].in_job(17, "sleep", "1.5")
        sent = hosts[0].run("nft", "list", "table", "netdev", "seen").stdout
        assert "packets 0 " in sent, sent
    finally:
        hosts[0].run("nft", "delete", "table", "netdev", "seen")


MISSING = {
    "address": "ip -n hpcnet-17 addr del 10.192.0.1/26 dev hpc0",
    "neighbour": "ip -n hpcnet-17 neigh del fd68:7063:6e66::2 dev hpc0",
    "link down": "ip -n hpcnet-17 link set hpc0 down",
    "device": "ip -n hpcnet-17 link del hpc0",
    "identity": "ip -n hpcnet-17 link set hpc0 alias ''",
    "namespace": "ip netns del hpcnet-17",
    "directory": "rm -r /run/hpcnet/jobs/17",
}


@pytest.mark.parametrize("what", MISSING)
def test_prolog_again_repairs(hosts: list[Host], what: str) -> None:
    lease = direct_lease()
    environment = job_environment(lease, "n[1-2]")
    built(hosts[:2], environment)
    hosts[0].run("sh", "-c", MISSING[what])
    built(hosts[:1], environment)
    assert hosts[0].hpcnet("check").stdout.splitlines() == ["job 17: ok"]
    ping_everyone(hosts[:2], lease)


def test_check_names_what_differs(hosts: list[Host]) -> None:
    built(hosts[:1], job_environment(direct_lease(), "n1"))
    hosts[0].in_job(17, "ip", "link", "set", "hpc0", "mtu", "1500")
    found = hosts[0].hpcnet("check")
    assert found.returncode == 1
    assert "missing  device hpc0 macvlan mac 02:42:0a:c0:00:01 mtu 65520 up" in found.stdout
    assert "foreign  device hpc0 macvlan mac 02:42:0a:c0:00:01 mtu 1500 up" in found.stdout


def test_epilog_twice_and_without_a_journal(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    environment = job_environment(direct_lease(), "n1")
    built(hosts[:1], environment)
    hosts[0].run("rm", "-r", "/run/hpcnet/jobs/17")
    removed(hosts[:1], environment)
    removed(hosts[:1], environment)
    assert hosts[0].state() == pristine[0]


def test_a_process_that_stays_in_the_namespace_loses_its_interface(hosts: list[Host]) -> None:
    environment = job_environment(direct_lease(), "n1")
    built(hosts[:1], environment)
    left = hosts[0].start_in_job(17, "sh", "-c", "read line; ip -o link")
    removed(hosts[:1], environment)
    assert left.stdin and left.stdout
    output, _ = left.communicate("go\n", timeout=60)
    assert "lo:" in output and "hpc0" not in output


STRAY = """
ip link add name {name} group 6844526 type veth peer name straypeer
ip link set {name} alias hpcnet:lab:{job}:100
"""


def test_a_child_that_came_back_to_the_host_goes_with_its_job_and_no_other(
    hosts: list[Host], pristine: list[dict[str, str]]
) -> None:
    """As an IPoIB child does whose namespace died; any interface of ours in the host's namespace is one."""
    hosts[0].run("sh", "-ec", STRAY.format(name="hpc0", job=17))
    removed(hosts[:1], job_environment(direct_lease(), "n1", 18))
    assert "hpc0" in hosts[0].run("ip", "-o", "link").stdout
    removed(hosts[:1], job_environment(direct_lease(), "n1", 17))
    assert hosts[0].state() == pristine[0]


def test_a_child_that_came_back_to_the_host_is_not_in_the_next_jobs_way(hosts: list[Host]) -> None:
    hosts[0].run("sh", "-ec", STRAY.format(name="hpc0", job=17))
    built(hosts[:1], job_environment(direct_lease(1), "n1", 18))
    assert "hpc0" not in hosts[0].run("ip", "-o", "link").stdout


def test_a_hosts_own_interface_of_that_name_is_named_and_stays(hosts: list[Host]) -> None:
    hosts[0].run("ip", "link", "add", "hpc0", "type", "veth", "peer", "name", "other")
    try:
        refused = hosts[0].hook("prolog", job_environment(direct_lease(), "n1"))
        assert refused.returncode == 1
        assert "n1 itself has an interface hpc0, which hpcnet did not make" in refused.stderr
        assert hosts[0].jobs() == []
    finally:
        hosts[0].run("ip", "link", "del", "hpc0")


def test_where_the_site_does_not_allow_shared_networks_it_is_refused(hosts: list[Host]) -> None:
    hosts[0].write(CONFIG, SITE)
    refused = hosts[0].hook("prolog", job_environment(direct_lease(), "n1"))
    assert refused.returncode == 0
    assert "refused: its network of mode=direct would be shared with other jobs" in refused.stderr
    assert hosts[0].run("cat", "/run/hpcnet/jobs/17/refused").stdout.startswith("its network of mode=direct")
    assert "hpcnet-17" not in hosts[0].run("ip", "netns").stdout


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pkey": "0x8001"}, "pkey=0x8001 needs InfiniBand, but uplink ib0 on n1 is Ethernet"),
        ({"ipoib": "connected"}, "ipoib=connected needs InfiniBand, but uplink ib0 on n1 is Ethernet"),
        ({"pkey": "0x8010", "shared": False}, "pkey=0x8010 needs InfiniBand"),
        ({"shared": False}, "pkey none of its lease is not in [direct] pkey_pool"),
    ],
)
def test_what_ethernet_has_not_is_refused_and_no_node_drains(
    hosts: list[Host], changes: dict[str, Any], says: str
) -> None:
    refused = hosts[0].hook("prolog", job_environment(direct_lease(**changes), "n1"))
    assert refused.returncode == 0
    assert f"refused: {says}" in refused.stderr


def test_an_uplink_in_a_bridge_is_the_nodes(hosts: list[Host]) -> None:
    """An interface that the kernel gives no macvlan child; what was built by then is gone again."""
    hosts[0].run("sh", "-ec", "ip link add br9 type bridge; ip link set ib0 master br9")
    try:
        refused = hosts[0].hook("prolog", job_environment(direct_lease(), "n1"))
        assert refused.returncode == 1
        assert "uplink ib0 on n1 is a port of a bridge or bond, so it can have no child" in refused.stderr
        assert hosts[0].jobs() == []
    finally:
        hosts[0].run("ip", "link", "del", "br9")


def test_an_uplink_smaller_than_the_lease_is_the_nodes(hosts: list[Host]) -> None:
    hosts[0].run("ip", "link", "set", "ib0", "mtu", "9000")
    try:
        refused = hosts[0].hook("prolog", job_environment(direct_lease(mtu=9001), "n1"))
        assert refused.returncode == 1
        assert "uplink ib0 on n1 has MTU 9000" in refused.stderr and "promises 9001" in refused.stderr
    finally:
        hosts[0].run("ip", "link", "set", "ib0", "mtu", "65520")


def test_the_same_job_in_the_other_mode_is_built_anew(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    """Requeued with another lease, while the old run's Epilog never came."""
    built(hosts[:1], job_environment(direct_lease(), "n1"))
    built(hosts[:1], job_environment(lease_of(1), "n1"))
    assert "hpcvx" in hosts[0].in_job(17, "ip", "-o", "link").stdout
    built(hosts[:1], job_environment(direct_lease(2), "n1"))
    assert "hpcvx" not in hosts[0].in_job(17, "ip", "-o", "link").stdout
    assert hosts[0].state()["filter"] == pristine[0]["filter"]


def test_both_modes_beside_each_other(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    vxlan, direct = job_environment(lease_of(1), "n[1-2]", 41), job_environment(direct_lease(2), "n[1-2]", 42)
    prologs = [host.start_hook("prolog", job) for host in hosts[:2] for job in (vxlan, direct)]
    assert [ended(process)[0] for process in prologs] == [0] * 4
    ping_everyone(hosts[:2], lease_of(1), 41)
    ping_everyone(hosts[:2], direct_lease(2), 42)
    removed(hosts[:2], direct)
    ping_everyone(hosts[:2], lease_of(1), 41)
    removed(hosts[:2], vxlan)
    assert [host.state() for host in hosts] == pristine
