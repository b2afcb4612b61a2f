# SPDX-License-Identifier: Apache-2.0
"""The segment in detail: silent at its start, no address of its own, and nothing of it in the host."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hpcnet import names
from tests.kernel.hosts import Host, built, job_environment, lease_of, plan_of, require_root

require_root()
pytestmark = pytest.mark.kernel

LEASE = lease_of(endpoints=4)
ENVIRONMENT = job_environment(LEASE, "n[1-2]")
COUNT = """
table netdev count {
  counter sent { }
  chain egress { type filter hook egress device ib0 priority 0; udp dport 4789 counter name sent; }
}
"""


def device(host: Host, name: str) -> dict[str, Any]:
    """A device of the job's network as ``ip`` shows it."""
    (found,) = json.loads(host.in_job(17, "ip", "-j", "-d", "addr", "show", name).stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def host(hosts: list[Host]) -> Host:
    built(hosts[:1], ENVIRONMENT)
    return hosts[0]


def test_the_vxlan_device_is_as_leased_and_learns_little(host: Host) -> None:
    data = device(host, "hpcvx")["linkinfo"]["info_data"]
    assert (data["id"], data["local"], data["port"]) == (LEASE.vni, "172.31.0.1", 4789)
    assert data["learning"] is True
    assert data["limit"] == 5 + 64
    assert "remote" not in data
    assert "group" not in data


def test_no_entry_floods(host: Host) -> None:
    assert "00:00:00:00:00:00" not in host.in_job(17, "bridge", "fdb", "show", "dev", "hpcvx").stdout


def test_the_vxlan_device_has_no_address_at_all(host: Host) -> None:
    assert device(host, "hpcvx")["addr_info"] == []
    assert " addrgenmode none " in host.in_job(17, "ip", "-d", "link", "show", "hpcvx").stdout


def test_the_tasks_device_has_the_planned_addresses_and_no_others(host: Host) -> None:
    tasks = plan_of(LEASE, 2).tasks
    found = device(host, "hpc0")
    assert found["address"] == tasks.mac
    assert " addrgenmode none " in host.in_job(17, "ip", "-d", "link", "show", "hpc0").stdout
    assert {(entry["local"], entry["prefixlen"], entry["scope"]) for entry in found["addr_info"]} == {
        (str(tasks.ipv4), 26, "global"),
        (str(tasks.ipv6), 64, "global"),
        (str(tasks.link_local), 64, "link"),
    }


def test_addresses_are_usable_at_once(host: Host) -> None:
    for entry in device(host, "hpc0")["addr_info"]:
        assert not entry.get("tentative")
        assert entry["family"] == "inet" or entry["nodad"]


@pytest.mark.parametrize("name", ["hpcvx", "hpc0"])
def test_every_device_carries_the_jobs_identity(host: Host, name: str) -> None:
    found = device(host, name)
    assert found["group"] == str(names.DEVICE_GROUP)
    assert found["ifalias"] == names.alias("lab", 17, LEASE.serial)
    assert found["mtu"] == 65470


def test_loopback_is_up(host: Host) -> None:
    assert "UP" in device(host, "lo")["flags"]
    host.in_job(17, "ping", "-c1", "-W1", "-q", "127.0.0.1")


SYSCTLS = {
    "net.ipv6.conf.hpcvx.disable_ipv6": "1",
    "net.ipv6.conf.hpc0.disable_ipv6": "0",
    "net.ipv6.conf.hpc0.accept_ra": "0",
    "net.ipv6.conf.hpc0.router_solicitations": "0",
    "net.ipv6.conf.hpc0.accept_dad": "0",
    "net.ipv6.conf.hpc0.dad_transmits": "0",
    "net.ipv6.conf.all.accept_ra": "0",
    "net.ipv4.conf.hpc0.rp_filter": "1",
    "net.ipv4.ip_forward": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
    "net.ipv4.ip_local_port_range": "20000 60999",
    "net.core.somaxconn": "4096",
}


def test_the_namespaces_sysctls_are_set_on_purpose(host: Host) -> None:
    shown = host.lines(f"sysctl {' '.join(SYSCTLS)}", 17)
    assert shown == {f"{key} = {value}" for key, value in SYSCTLS.items()}


def test_a_user_without_privileges_can_ping(host: Host) -> None:
    ping = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)"
    host.in_job(17, "python3", "-c", f"import os, socket; os.setuid(20001); {ping}")


def test_nothing_of_a_job_is_in_the_hosts_namespace(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    built(hosts[:1], ENVIRONMENT)
    now = hosts[0].state()
    for what in ("links", "addresses", "routes", "neighbours", "forwarding"):
        assert now[what] == pristine[0][what]
    assert "hpcnet-17" in now["namespaces"]


@pytest.fixture
def counted(hosts: list[Host]) -> Iterator[list[Host]]:
    """n1 and n2, which count the VXLAN packets that they send."""
    for host in hosts[:2]:
        host.run("nft", "-f", "-", text=COUNT)
    yield hosts[:2]
    for host in hosts[:2]:
        host.run("nft", "delete", "table", "netdev", "count")


def sent(hosts: list[Host]) -> list[int]:
    """VXLAN packets that each host has sent."""
    counters = [host.run("nft", "-j", "list", "counters", "netdev").stdout for host in hosts]
    return [json.loads(text)["nftables"][1]["counter"]["packets"] for text in counters]


def test_the_first_packet_is_the_jobs_own_and_is_answered_at_once(counted: list[Host]) -> None:
    built(counted, ENVIRONMENT)
    time.sleep(1)  # no event to wait for: by default, the kernel would have sent a dozen packets by now
    assert sent(counted) == [0, 0]
    for count, peer in enumerate((plan_of(LEASE, 2, "n2").tasks.ipv6, plan_of(LEASE, 2, "n2").tasks.ipv4), 1):
        counted[0].in_job(17, "ping", "-c1", "-W1", "-q", str(peer))
        assert sent(counted) == [count, count]


def test_a_broadcast_stays_on_the_node(counted: list[Host]) -> None:
    built(counted, ENVIRONMENT)
    counted[0].in_job(17, "ping", "-c1", "-W0.1", "-q", "10.128.0.40", check=False)
    assert sent(counted) == [0, 0]
