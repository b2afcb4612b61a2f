# SPDX-License-Identifier: Apache-2.0
"""Two jobs on the same nodes at the same time: neither reaches the other, nor the hosts."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


class Pair:
    """alice's and bob's jobs, both over n1 and n2."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.alice = cluster.hold("--network=ib", "-w", "n[1-2]", "-n2")
        self.bob = cluster.hold("--network=ib", "-w", "n[1-2]", "-n2", user="bob")
        self.alices, self.bobs = cluster.lease(self.alice), cluster.lease(self.bob)

    def bobs_address(self, rank: int) -> str:
        """IPv4 address of bob's tasks on the node with this rank."""
        return str(IPv4Network(self.bobs["ipv4"])[rank + 1])

    def as_alice(self, *argv: str) -> int:
        """Exit code of a command in a task of alice's on n1."""
        step = ("srun", f"--jobid={self.alice}", "--overlap", "-N1", "-n1", "-w", "n1")
        return self.cluster.run(*step, *argv, check=False).returncode


@pytest.fixture
def pair(cluster: Cluster) -> Iterator[Pair]:
    yield Pair(cluster)


def test_two_jobs_have_different_vnis_and_addresses(pair: Pair) -> None:
    assert pair.alices["vni"] != pair.bobs["vni"]
    assert not IPv4Network(pair.alices["ipv4"]).overlaps(IPv4Network(pair.bobs["ipv4"]))
    assert not IPv6Network(pair.alices["ipv6"]).overlaps(IPv6Network(pair.bobs["ipv6"]))


@pytest.mark.parametrize("rank", [0, 1], ids=["own node", "other node"])
def test_ping_and_iperf3_do_not_reach_the_other_job(pair: Pair, rank: int) -> None:
    target = pair.bobs_address(rank)
    assert pair.as_alice("ping", "-c1", "-W1", "-q", "n2") == 0
    assert pair.as_alice("ping", "-c1", "-W1", "-q", target) != 0
    listen = ("srun", f"--jobid={pair.bob}", "--overlap", "-N1", "-n1", "-w", f"n{rank + 1}")
    pair.cluster.run("sh", "-c", f"{' '.join(listen)} timeout 10 iperf3 -s -1 > /dev/null 2>&1 &", user="bob")
    reach = ("srun", f"--jobid={pair.bob}", "--overlap", "-N1", "-n1", "-w", "n1", "bash", "-c")
    waits = "for try in {1..40}; do ss -Hltn | grep -q 5201 && exit 0; sleep 0.1; done; exit 1"
    on = ("srun", f"--jobid={pair.bob}", "--overlap", "-N1", "-n1", "-w", f"n{rank + 1}", "bash", "-c", waits)
    pair.cluster.run(*on, user="bob")
    assert pair.as_alice("timeout", "3", "iperf3", "-c", target, "-t1", "--connect-timeout", "1000") != 0
    pair.cluster.run(*reach, f"iperf3 -c {target} -t1", user="bob")


def test_arp_is_not_answered_by_the_other_job_even_for_root_in_the_network(pair: Pair) -> None:
    # root with a forged on-link route: the question goes out, and nobody of the other job hears it
    target, inside = pair.bobs_address(1), ("ip", "netns", "exec", f"hpcnet-{pair.alice}")
    pair.cluster.root("n1", *inside, "ip", "route", "add", f"{target}/32", "dev", "hpc0")
    pair.cluster.root("n1", *inside, "ping", "-c1", "-W1", "-q", target, check=False)
    seen = pair.cluster.root("n1", *inside, "ip", "neigh", "show", target)
    assert "FAILED" in seen or "INCOMPLETE" in seen
    assert "lladdr" not in seen


def test_a_task_without_a_way_out_reaches_neither_its_host_nor_the_fabric(cluster: Cluster) -> None:
    ping = "for a in 172.30.1.1 172.30.0.1 172.31.1.1 172.31.1.2; do ping -c1 -W1 -q $a >&2 && echo $a; done; true"
    for egress, reached in (("none", 0), ("host", 4)):
        lines = cluster.srun("-wn1", f"--network=ib,egress={egress}", "sh", "-c", ping)
        assert len(lines) == reached


def test_the_host_does_not_reach_the_job(pair: Pair) -> None:
    for rank in (0, 1):
        done = pair.cluster.lab.run("n1", ["ping", "-c1", "-W1", "-q", pair.bobs_address(rank)], check=False)
        assert done.returncode != 0


_FORGE = """
import socket, struct, sys
vni, target, mac, address = int(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3]), sys.argv[4]
inner = mac + bytes.fromhex("024200000099") + b"\\x08\\x00"
icmp = bytes.fromhex("0800f7ff00000000")
own = socket.inet_aton(address)
ip = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 1, 0, own, own))
total = sum(struct.unpack("!10H", ip))
total = (total & 0xffff) + (total >> 16)
ip[10:12] = struct.pack("!H", ~total & 0xffff)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    for _ in range(10):
        udp.sendto(struct.pack("!II", 0x08000000, vni << 8) + inner + bytes(ip) + icmp, (target, 4789))
except PermissionError:
    sys.exit(77)
"""


def received(pair: Pair) -> int:
    """Packets that bob's VXLAN device on n2 has received."""
    text = pair.cluster.root("n2", "ip", "-n", f"hpcnet-{pair.bob}", "-s", "-j", "link", "show", "hpcvx")
    import json

    return int(json.loads(text)[0]["stats64"]["rx"]["packets"])


@pytest.mark.parametrize("host", ["n1", "n2", "n3", "login", "ctl"])
@pytest.mark.parametrize("user", ["alice", "root"])
def test_a_forged_vxlan_packet_does_not_get_in(pair: Pair, host: str, user: str) -> None:
    address = pair.bobs_address(1)
    mac = "0242" + bytes(map(int, address.split("."))).hex()
    before = received(pair)
    argv = ["python3", "-", str(pair.bobs["vni"]), "172.31.1.2", mac, address]
    done = pair.cluster.lab.run(host, argv, user=user, stdin=_FORGE, check=False)
    assert done.returncode == 77, done.stderr
    assert received(pair) == before


def test_a_forged_packet_would_get_in_without_the_filter(pair: Pair) -> None:
    """The test above can fail: with the filter gone the same packets arrive."""
    address = pair.bobs_address(1)
    mac = "0242" + bytes(map(int, address.split("."))).hex()
    saved = pair.cluster.root("n1", "nft", "list", "ruleset")
    pair.cluster.root("n1", "nft", "flush", "chain", "inet", "hpcnet", "postrouting")
    try:
        before = received(pair)
        argv = ["python3", "-", str(pair.bobs["vni"]), "172.31.1.2", mac, address]
        pair.cluster.lab.run("n1", argv, user="alice", stdin=_FORGE)
        assert received(pair) == before + 10
    finally:
        pair.cluster.lab.run("n1", ["nft", "-f", "-"], stdin="flush ruleset\n" + saved)


def test_a_vni_that_is_not_ours_is_left_alone(cluster: Cluster) -> None:
    """Other users of the VXLAN port, such as Docker swarm, live on beside hpcnet."""
    make = (
        "ip link add other type vxlan id 77 local {own} remote {peer} dstport 4789;"
        "ip addr add 192.0.2.{n}/24 dev other; ip link set other up"
    )
    for number, other in ((1, 2), (2, 1)):
        own, peer = f"172.31.1.{number}", f"172.31.1.{other}"
        cluster.root(f"n{number}", "sh", "-c", make.format(own=own, peer=peer, n=number))
    try:
        cluster.root("n1", "ping", "-c1", "-W1", "-q", "192.0.2.2")
    finally:
        for node in ("n1", "n2"):
            cluster.root(node, "ip", "link", "del", "other")


def test_docker_swarm_lives_on_beside_a_job(pair: Pair) -> None:
    """Its overlay networks are VXLAN on the same port, and their packets meet our filter on both nodes."""
    cluster, first = pair.cluster, "172.31.1.1"
    try:
        cluster.root("n1", "docker", "swarm", "init", f"--advertise-addr={first}")
        token = cluster.root("n1", "docker", "swarm", "join-token", "-q", "worker").strip()
        cluster.root("n2", "docker", "swarm", "join", "--advertise-addr=172.31.1.2", "--token", token, first)
        cluster.root("n1", "docker", "network", "create", "--driver=overlay", "--attachable", "theirs")
        run = ("docker", "run", "--network=theirs", "--rm")
        cluster.root("n2", *run, "--detach", "--stop-signal=KILL", "--name=server", "hpcnet-lab", "sleep", "60")
        cluster.root("n1", *run, "hpcnet-lab", "ping", "-c1", "-W2", "-q", "server")
        assert pair.as_alice("ping", "-c1", "-W1", "-q", "n2") == 0
    finally:
        cluster.root("n2", "docker", "rm", "--force", "server", check=False)
        for node in ("n2", "n1"):
            cluster.root(node, "docker", "swarm", "leave", "--force", check=False)
            cluster.root(node, "docker", "network", "rm", "docker_gwbridge", check=False)
