# SPDX-License-Identifier: Apache-2.0
"""The packet filter's two layers: who may send to the VXLAN port, and from whom a job's packets are taken.

n1 and n2 are the job's, n3 is not. (Forged packets of local users and of root: tests/cluster/test_isolation.py.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Host, built, job_environment, lease_of, require_root, wait_for

require_root()
pytestmark = pytest.mark.kernel

LEASE = lease_of()
ENVIRONMENT = job_environment(LEASE, "n[1-2]")

# argv: user, port, bytes inside, VNI of each datagram that is sent as one packet (UDP_SEGMENT, udp(7))
SEND = """
import os, socket, struct, sys
user, port, length, *vnis = map(int, sys.argv[1:])
os.setuid(user)
inner = bytes.fromhex("02420a800002024200000099") + b"\\x08\\x00" + bytes(length)
datagrams = [struct.pack("!II", 0x08000000, vni << 8) + inner for vni in vnis]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IP, 10, 0)  # fragments are allowed
if len(vnis) > 1:
    udp.setsockopt(socket.IPPROTO_UDP, 103, len(datagrams[0]))
try:
    udp.sendto(b"".join(datagrams), ("172.31.0.2", port))
except PermissionError:
    print("refused")
"""
NOBODY, OTHER_VNI = 65534, 77


def send(host: Host, *vnis: int, user: int = 0, port: int = 4789, length: int = 40, inside: str = "") -> str:
    """Send forged VXLAN packets to n2, in a namespace of the host if one is named."""
    enter = ("ip", "netns", "exec", inside) if inside else ()
    numbers = map(str, (user, port, length, *vnis))
    return host.run(*enter, "python3", "-c", SEND, *numbers).stdout.strip()


def received(host: Host) -> int:
    """Packets that the job's VXLAN device has received, when all that is on the way has come."""
    host.run("ping", "-c1", "-W1", "-q", "172.31.0.3")
    text = host.in_job(17, "ip", "-s", "-j", "link", "show", "hpcvx").stdout
    return int(json.loads(text)[0]["stats64"]["rx"]["packets"])


@pytest.fixture
def job(hosts: list[Host], pristine: list[dict[str, str]]) -> Iterator[list[Host]]:
    """The hosts, with the job on n1 and n2; their filters are as at boot afterwards."""
    built(hosts[:2], ENVIRONMENT)
    yield hosts
    for host in hosts:
        host.run("nft", "-f", "-", text="flush ruleset\n" + pristine[0]["filter"])


def unfiltered(host: Host, chain: str) -> None:
    """As on a host where hpcnet is not installed, or whose root does not care."""
    host.run("nft", "flush", "chain", "inet", "hpcnet", chain)


def elements(host: Host) -> set[tuple[int, str]]:
    """VNI and address of each element of the set."""
    found = json.loads(host.run("nft", "-j", "list", "set", "inet", "hpcnet", "vtep").stdout)["nftables"]
    return {tuple(entry["concat"]) for item in found for entry in item.get("set", {}).get("elem", ())}


def test_each_peer_is_an_element_while_the_job_is_there(hosts: list[Host]) -> None:
    environment = job_environment(LEASE, "n[1-3]")
    built(hosts[:1], environment)
    assert elements(hosts[0]) == {(LEASE.vni, "172.31.0.2"), (LEASE.vni, "172.31.0.3")}
    hosts[0].hook("epilog", environment)
    assert elements(hosts[0]) == set()


def test_two_jobs_have_each_their_own_elements(hosts: list[Host]) -> None:
    other = lease_of(4)
    built(hosts[:1], ENVIRONMENT)
    built(hosts[:1], job_environment(other, "n[1,3]", 24))
    assert elements(hosts[0]) == {(LEASE.vni, "172.31.0.2"), (other.vni, "172.31.0.3")}
    hosts[0].hook("epilog", ENVIRONMENT)
    assert elements(hosts[0]) == {(other.vni, "172.31.0.3")}


def test_loading_the_table_again_keeps_the_elements_and_mends_the_chains(job: list[Host]) -> None:
    before = job[0].run("nft", "list", "ruleset").stdout
    unfiltered(job[0], "input")
    assert job[0].hpcnet("filter", "load").returncode == 0
    assert job[0].run("nft", "list", "ruleset").stdout == before


@pytest.mark.parametrize("nodes", ["n1", "n[1-2]"])
def test_a_prolog_loads_the_table_where_it_is_missing(hosts: list[Host], nodes: str) -> None:
    environment = job_environment(LEASE, nodes)
    built(hosts[:1], environment)
    expected = hosts[0].run("nft", "list", "ruleset").stdout
    hosts[0].hook("epilog", environment)
    hosts[0].run("nft", "delete", "table", "inet", "hpcnet")
    built(hosts[:1], environment)
    assert hosts[0].run("nft", "list", "ruleset").stdout == expected


def test_a_peer_gets_in(job: list[Host]) -> None:
    """What the tests below refuse would arrive: the forgery is a good one."""
    unfiltered(job[0], "postrouting")
    before = received(job[1])
    assert send(job[0], LEASE.vni) == ""
    assert received(job[1]) == before + 1


def test_a_host_that_is_no_peer_does_not_get_in(job: list[Host]) -> None:
    unfiltered(job[2], "postrouting")
    before = received(job[1])
    assert send(job[2], LEASE.vni) == ""
    assert received(job[1]) == before


def test_a_peer_of_another_job_does_not_get_in(job: list[Host]) -> None:
    built(job[1:3], job_environment(lease_of(4), "n[2-3]", 24))
    unfiltered(job[2], "postrouting")
    before = received(job[1])
    assert send(job[2], LEASE.vni) == ""
    assert received(job[1]) == before


@pytest.mark.parametrize(("sender", "arrives"), [(0, 1), (2, 0)], ids=["peer", "no peer"])
def test_fragments_are_judged_as_a_whole(job: list[Host], sender: int, arrives: int) -> None:
    job[sender].run("ip", "route", "add", "172.31.0.2", "dev", "ib0", "mtu", "1400")
    unfiltered(job[sender], "postrouting")
    before = received(job[1])
    assert send(job[sender], LEASE.vni, length=4000) == ""
    job[sender].run("ip", "route", "del", "172.31.0.2")
    assert received(job[1]) == before + arrives


@pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "nobody"])
def test_a_datagram_in_many_fragments_is_refused_at_its_sender(job: list[Host], user: int) -> None:
    job[0].run("ip", "route", "add", "172.31.0.2", "dev", "ib0", "mtu", "1400")
    said = send(job[0], LEASE.vni, length=4000, user=user)
    job[0].run("ip", "route", "del", "172.31.0.2")
    assert said == "refused"


def test_our_vni_does_not_leave_behind_another_one_in_one_packet(job: list[Host]) -> None:
    before = received(job[1])
    assert send(job[0], OTHER_VNI, LEASE.vni, LEASE.vni, user=NOBODY) == "refused"
    assert received(job[1]) == before


def test_our_vni_does_not_reach_the_own_node_behind_another_one(job: list[Host]) -> None:
    before = received(job[1])
    assert send(job[1], OTHER_VNI, LEASE.vni, LEASE.vni, user=NOBODY) == "refused"
    assert received(job[1]) == before


@pytest.fixture
def translated(job: list[Host]) -> Iterator[Host]:
    """n1, whose site has an output DNAT of UDP 5000 to the VXLAN port."""
    rules = "table ip site { chain output { type nat hook output priority -100; udp dport 5000 dnat to :4789; }; }"
    job[0].run("nft", "-f", "-", text=rules)
    yield job[0]
    job[0].run("nft", "delete", "table", "ip", "site")


@pytest.mark.parametrize("filtered", [True, False])
def test_a_translated_port_is_judged_as_what_it_becomes(job: list[Host], translated: Host, filtered: bool) -> None:
    if not filtered:
        unfiltered(translated, "postrouting")
    before = received(job[1])
    assert send(translated, LEASE.vni, user=NOBODY, port=5000) == ("refused" if filtered else "")
    assert received(job[1]) == before + (0 if filtered else 1)


@pytest.fixture
def container(job: list[Host]) -> Iterator[Host]:
    """n1 with a container behind a masquerade, as Docker makes it: its packets come from a peer's address."""
    host = job[0]
    commands = """
        ip netns add box
        ip link add box0 type veth peer name eth0 netns box
        ip addr add 192.0.2.1/24 dev box0
        ip link set box0 up
        ip -n box addr add 192.0.2.2/24 dev eth0
        ip -n box link set eth0 up
        ip -n box route add default via 192.0.2.1
        sysctl -qw net.ipv4.ip_forward=1
    """
    rules = "table ip docker { chain post { type nat hook postrouting priority 100; oifname ib0 masquerade; }; }"
    host.run("sh", "-ec", commands)
    host.run("nft", "-f", "-", text=rules)
    ping = ("ip", "netns", "exec", "box", "ping", "-c1", "-W1", "-q", "172.31.0.2")
    wait_for(lambda: host.run(*ping, check=False).returncode == 0, "the container does not reach the fabric")
    yield host
    host.run("nft", "delete", "table", "ip", "docker")
    host.run("sh", "-ec", "sysctl -qw net.ipv4.ip_forward=0; ip link del box0; ip netns del box")


@pytest.mark.parametrize("filtered", [True, False])
def test_a_containers_packets_to_the_vxlan_port_are_not_forwarded(
    job: list[Host], container: Host, filtered: bool
) -> None:
    if not filtered:
        unfiltered(container, "forward")
    before = received(job[1])
    assert send(container, LEASE.vni, inside="box") == ""
    assert received(job[1]) == before + (0 if filtered else 1)


def test_a_vni_that_is_not_ours_gets_in_from_anywhere(job: list[Host]) -> None:
    vxlan = ("type", "vxlan", "id", str(OTHER_VNI), "dev", "ib0", "dstport", "4789")
    job[1].run("sh", "-ec", f"ip link add other {' '.join(vxlan)}; ip link set other up")
    unfiltered(job[2], "postrouting")
    send(job[2], OTHER_VNI)
    text = job[1].run("ip", "-s", "-j", "link", "show", "other").stdout
    job[1].run("ip", "link", "del", "other")
    assert json.loads(text)[0]["stats64"]["rx"]["packets"] == 1
