# SPDX-License-Identifier: Apache-2.0
"""Somebody who means harm, below Slurm: as a user of a host, and as root in a container of a job.

Job 17 (n1, n2) is the attacker's where it is a job that attacks; job 26, on the same nodes, is somebody
else's, and must not notice. What the filter alone is for: test_filter.py.
As users of a cluster: tests/cluster/test_abuse.py, test_poison.py.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

import pytest

from hpcnet.kernel.segment import LEARNED
from hpcnet.model import Endpoint
from tests.kernel.hosts import (
    Host,
    built,
    ended,
    job_environment,
    lease_of,
    plan_of,
    removed,
    require_root,
    wait_for,
)
from tests.kernel.test_filter import NOBODY, received, send

require_root()
pytestmark = pytest.mark.kernel

OURS, THEIRS = lease_of(), lease_of(6)
EGRESS = lease_of(egress="host")
ENVIRONMENT = job_environment(OURS, "n[1-2]")
VICTIM = job_environment(lease_of(6, egress="host"), "n[1-2]", 26)
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")

INNER = "ffffffffffff" + "024200000099" + "0800" + 40 * "00"
FRAME = bytes.fromhex(f"08000000{OURS.vni:06x}00{INNER}")
SEND = f"""
import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[1] == 'inherited':
    import os
    os.setuid({NOBODY})
try:
    udp.sendto({FRAME!r}, ('172.31.0.2', 4789))
except PermissionError:
    print('refused')
"""
ESCAPED = "".join(f"\\x{byte:02x}" for byte in FRAME)
# bash keeps the privileges that its setuid bit gives it only with -p
BASH = f"""
cp /bin/bash /run/su-bash; chmod u+s /run/su-bash
{" ".join(AS_NOBODY)} /run/su-bash -p -c '
[ "$UID:$EUID" = {NOBODY}:0 ] || echo not setuid
printf "{ESCAPED}" > /dev/udp/172.31.0.2/4789 || echo refused' 2> /run/said
rm /run/su-bash; grep -q 'not permitted' /run/said || cat /run/said
"""
SENDERS = {
    "root of a user namespace": (
        *AS_NOBODY,
        "unshare",
        "--user",
        "--map-root-user",
        "/usr/bin/python3",
        "-c",
        SEND,
        "own",
    ),
    "a root socket that nobody inherited": ("python3", "-c", SEND, "inherited"),
    "a setuid-root program": ("bash", "-c", BASH),
}


@pytest.fixture
def job(hosts: list[Host], pristine: list[dict[str, str]]) -> Iterator[list[Host]]:
    """The hosts, with job 17 on n1 and n2; their filters are as at boot afterwards."""
    built(hosts[:2], ENVIRONMENT)
    yield hosts
    for host in hosts:
        host.run("nft", "-f", "-", text="flush ruleset\n" + pristine[0]["filter"])


@pytest.mark.parametrize("how", SENDERS)
def test_no_other_identity_sends_to_the_vxlan_port(job: list[Host], how: str) -> None:
    before = received(job[1])
    assert job[0].run(*SENDERS[how]).stdout.split() == ["refused"]
    assert received(job[1]) == before
    job[0].run("nft", "flush", "chain", "inet", "hpcnet", "postrouting")
    assert job[0].run(*SENDERS[how]).stdout.split() == []
    assert received(job[1]) == before + 1, "the packet is a good one"


@pytest.mark.parametrize("when", ["before its Prolog", "after its Epilog"])
def test_a_peers_users_cannot_send_while_the_peer_has_no_network(hosts: list[Host], when: str) -> None:
    built(hosts[1:2], ENVIRONMENT)
    if when == "after its Epilog":
        built(hosts[:1], ENVIRONMENT)
        removed(hosts[:1], ENVIRONMENT)
    before = received(hosts[1])
    assert send(hosts[0], OURS.vni, user=NOBODY) == "refused"
    assert received(hosts[1]) == before


SITE = """
table inet site {
  chain input { type filter hook input priority 0; policy accept; udp dport 9 drop; }
  chain forward { type filter hook forward priority 0; policy drop; ct state established accept; }
}
table ip nat {
  chain post { type nat hook postrouting priority 100; oifname "ib0" ip saddr 192.0.2.0/24 masquerade; }
}
"""


def test_the_sites_own_rules_stay_as_they_are(hosts: list[Host]) -> None:
    def rules() -> str:
        return "".join(
            hosts[0].run("nft", "list", "table", *name.split()).stdout for name in ("inet site", "ip nat")
        )

    hosts[0].run("nft", "-f", "-", text=SITE)
    try:
        before = rules()
        environment = job_environment(EGRESS, "n[1-2]")
        built(hosts[:1], environment)
        assert rules() == before
        assert hosts[0].hpcnet("filter", "load").returncode == 0
        removed(hosts[:1], environment)
        assert rules() == before
    finally:
        hosts[0].run("sh", "-c", "nft delete table inet site; nft delete table ip nat")


# ---------------------------------------------------- from inside a job, as root of a container


LOOK = "ip -s addr | awk '/TX:/ {getline; next} 1'; ip -4 route; ip -6 route; ip neigh; ip -6 neigh; bridge fdb"


class Victim:
    """Job 26 of somebody else, on the attacker's nodes, and the nodes themselves."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts = hosts[:2]
        built(self.hosts, VICTIM)
        self.before = self.look()

    def endpoint(self, node: str) -> Endpoint:
        return plan_of(THEIRS, 2, node, 26).tasks

    def look(self) -> list[str]:
        """All that a packet would change, but for what it sends itself (MLD); on the nodes no counters."""
        seen: list[str] = []
        for host in self.hosts:
            texts = host.run("nsenter", "--net=/run/netns/hpcnet-26", "sh", "-c", LOOK).stdout
            own = host.run(
                "sh", "-c", "ip -o addr; ip -4 route; ip -6 route; ip neigh show dev hpce26; nft list ruleset"
            )
            seen += [
                f"{host.name}: {line}" for line in (texts + own.stdout.replace(" tentative", "")).splitlines()
            ]
        return seen

    def is_untouched(self) -> None:
        changes = list(difflib.unified_diff(self.before, self.look(), lineterm="", n=2))
        assert not changes, "\n".join(changes)


RAW = """
import socket, struct, sys
def raw(device):
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.bind((device, 0))
    return made
def mac(text): return bytes.fromhex(text.replace(':', ''))
def v4(text): return socket.inet_aton(text)
def v6(text): return socket.inet_pton(socket.AF_INET6, text)
def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def ip4(source, target, protocol, body):
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, target)
    return head[:10] + struct.pack('!H', checksum(head)) + head[12:] + body
def ping4(source, target): return ip4(source, target, 1, bytes.fromhex('0800f7ff00000000'))
def icmp6(source, target, body):
    pseudo = source + target + struct.pack('!I3xB', len(body), 58)
    body = body[:2] + struct.pack('!H', checksum(pseudo + body)) + body[4:]
    return struct.pack('!IHBB', 6 << 28, len(body), 58, 255) + source + target + body
def arp(operation, mac, address, target_mac, target):
    return struct.pack('!HHBBH', 1, 0x800, 6, 4, operation) + mac + address + target_mac + target
def router_advertisement(source, mac):
    prefix = struct.pack('!BBBBIII', 3, 4, 64, 0xc0, 86400, 86400, 0) + v6('2001:db8:bad::')
    body = struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0) + prefix + b'\\1\\1' + mac
    return icmp6(source, v6('ff02::1'), body)
def neighbour_advertisement(source, target, claimed, mac):
    return icmp6(source, target, struct.pack('!BBHI', 136, 0, 0, 0xa0000000) + claimed + b'\\2\\1' + mac)
"""


@pytest.fixture
def victim(hosts: list[Host]) -> Victim:
    built(hosts[:2], job_environment(EGRESS, "n[1-2]"))
    return Victim(hosts)


ADVERTISE = (
    RAW
    + """
own = mac(open('/sys/class/net/hpc0/address').read().strip())
for device in ('hpc0', 'hpcvx', 'hpcout'):
    for source in ('fe80::1', 'fe80::a80:1'):
        raw(device).send(mac('333300000001') + own + b'\\x86\\xdd' + router_advertisement(v6(source), own))
"""
)
BOX = """
ip netns add box
ip -n hpcnet-17 link add link hpcvx name eth0 netns box type macvlan mode bridge
ip netns exec box sysctl -qw net.ipv6.conf.eth0.accept_ra=2
ip -n box link set eth0 up
"""


def in_container(host: Host, script: str, *arguments: str) -> str:
    """Run a program as root in the job's network, as a container with NET_RAW may; its own /sys."""
    mounted = 'mount -t sysfs sysfs /sys; exec "$@"'
    enter = ("nsenter", "--net=/run/netns/hpcnet-17", "unshare", "--mount", "sh", "-c", mounted, "sh")
    return host.run(*enter, "python3", "-c", script, *arguments).stdout


def test_a_router_advertisement_of_a_container_is_taken_by_no_host_and_no_other_job(
    hosts: list[Host], victim: Victim
) -> None:
    tasks = hosts[1].lines("ip -6 addr; ip -6 route; ip -6 neigh", 17)
    hosts[0].run("sh", "-ec", BOX)
    try:
        taken = ("sh", "-c", "ip -n box -6 route show default | grep -q fe80::1")
        # the container's own link-local address is tentative at first, and it hears nothing then
        wait_for(
            lambda: (
                in_container(hosts[0], ADVERTISE) + "" == "" and hosts[0].run(*taken, check=False).returncode == 0
            ),
            "the advertisement is no good one",
        )
    finally:
        hosts[0].run("ip", "netns", "del", "box")
    victim.is_untouched()
    assert hosts[1].lines("ip -6 addr; ip -6 route; ip -6 neigh", 17) == tasks


FLOOD = (
    RAW
    + """
out, target = raw('hpcvx'), mac(sys.argv[1])
for number in range(20000):
    out.send(target + b'\\2\\6' + struct.pack('!I', number) + b'\\x88\\xb5' + bytes(46))
"""
)


def test_twenty_thousand_macs_fill_no_forwarding_table(hosts: list[Host], victim: Victim) -> None:
    peer = plan_of(OURS, 2, "n2").tasks
    in_container(hosts[0], FLOOD, peer.mac)

    def entries() -> list[dict[str, object]]:
        found = json.loads(hosts[1].in_job(17, "bridge", "-j", "fdb", "show", "dev", "hpcvx").stdout)
        assert isinstance(found, list)
        return found

    wait_for(lambda: len(entries()) > 1, "nothing was learned at all")
    static = [entry for entry in entries() if entry.get("state") == "permanent"]
    assert [entry["mac"] for entry in static] == [plan_of(OURS, 2, "n1").tasks.mac]
    assert len(entries()) <= len(static) + LEARNED
    hosts[1].in_job(17, "ping", "-c1", "-W1", "-q", str(plan_of(OURS, 2, "n1").tasks.ipv4))
    victim.is_untouched()


SPOOF = (
    RAW
    + """
own_mac, own4, own6, peer_mac, peer4, peer6, local = sys.argv[1:]
own_mac, peer_mac, own4, peer4, own6, peer6 = mac(own_mac), mac(peer_mac), v4(own4), v4(peer4), v6(own6), v6(peer6)
for device in ('hpc0', 'hpcvx', 'hpcout'):
    out = raw(device)
    for target in (peer_mac, own_mac, b'\\xff' * 6, mac('333300000001'), mac('024200000001'), mac(local)):
        for source in (own_mac, peer_mac):
            head = target + source
            out.send(head + b'\\x08\\x00' + ping4(own4, peer4))
            out.send(head + b'\\x08\\x00' + ping4(v4('10.128.0.1'), peer4))
            out.send(head + b'\\x08\\x06' + arp(2, source, peer4, target, own4))
            out.send(head + b'\\x08\\x06' + arp(1, source, own4, bytes(6), own4))
            out.send(head + b'\\x86\\xdd' + neighbour_advertisement(own6, peer6, own6, source))
            out.send(head + b'\\x86\\xdd' + neighbour_advertisement(own6, v6('ff02::1'), peer6, source))
            forged = struct.pack('!HHHH', 4789, 4789, 60, 0) + bytes.fromhex(FRAME)
            out.send(head + b'\\x08\\x00' + ip4(v4('172.31.0.1'), v4('172.31.0.2'), 17, forged))
            out.send(head + b'\\x08\\x00' + ip4(v4('10.128.0.1'), v4('172.31.0.1'), 17, forged))
"""
)


def test_spoofed_addresses_reach_no_other_job(hosts: list[Host], victim: Victim) -> None:
    """MAC, IP, ARP, neighbour advertisements and VXLAN in the victim's name, by each device of the attacker's."""
    own, peer = victim.endpoint("n1"), victim.endpoint("n2")
    link = hosts[0].run("sh", "-c", "cat /sys/class/net/hpce17/address").stdout.strip()
    inner = f"08000000{THEIRS.vni:06x}00{peer.mac.replace(':', '')}{INNER[12:]}"
    texts = map(str, (own.mac, own.ipv4, own.ipv6, peer.mac, peer.ipv4, peer.ipv6, link))
    in_container(hosts[0], SPOOF.replace("FRAME", repr(inner)), *texts)
    received(hosts[1])  # what is on the way has come
    victim.is_untouched()


# ------------------------------------------------------------------- records that users wrote


RECORDS = [
    "hpcnet:lease::v=1,serial=1,mode=$(touch /run/executed),vni=1",
    "hpcnet:lease:`touch /run/executed`:v=1",
    "hpcnet:lease::v=1;touch\t/run/executed;",
    "hpcnet:refused::$(touch /run/executed)%s%n\x1b[2J",
    "hpcnet:lease:../../../run/executed:" + "v=1," * 200,
    "hpcnet:lease::v=1,serial=-1,mode=vxlan,vni=99999999999999999999,ipv4=0.0.0.0/0,ipv6=::/0",
    "hpcnet:asked:" + "\u0669" * 100,
    "hpcnet:\udcff\udcfe:",
    "hpcnet:lease:" + "x" * 100_000,
]


@pytest.mark.parametrize("text", RECORDS, ids=range(len(RECORDS)))
def test_a_record_that_a_user_wrote_builds_nothing_and_runs_nothing(hosts: list[Host], text: str) -> None:
    before = hosts[0].state()
    result = hosts[0].hook("prolog", {**ENVIRONMENT, "SLURM_JOB_COMMENT": text})
    assert result.returncode == 0
    [line] = result.stderr.splitlines()
    assert "hpcnet prolog: job 17: refused: " in line and line.isprintable() and len(line) < 600
    assert {**hosts[0].state(), "files": ""} == {**before, "files": ""}
    assert hosts[0].run("ls", "/run/executed", check=False).returncode != 0


@pytest.mark.parametrize("first", [False, True], ids=["a mount already", "not a mount yet"])
def test_who_locks_the_directory_of_namespaces_does_not_hold_up_a_prolog(hosts: list[Host], first: bool) -> None:
    """``ip netns`` takes a lock that every user may take."""
    if first:
        hosts[0].run("umount", "-R", "/run/netns")
    hosts[0].configure(deadline=5)
    holder = hosts[0].start(*AS_NOBODY, "flock", "/run/netns", "sh", "-c", "echo held; exec cat")
    assert holder.stdout and holder.stdout.readline() == "held\n"
    built(hosts[:1], ENVIRONMENT)
    removed(hosts[:1], ENVIRONMENT)
    assert ended(holder) == (0, "")
    assert hosts[0].hpcnet("filter", "load").stderr == ""


TAKE = """
import socket
v4, v6 = socket.AF_INET, socket.AF_INET6
for family, address, option in (
    (v4, '', None), (v4, '127.0.0.1', None), (v4, '172.31.0.1', None),
    (v6, '::', None), (v6, '::ffff:127.0.0.1', None),
    (v4, '', socket.SO_REUSEADDR), (v4, '', socket.SO_REUSEPORT), (v4, '', socket.SO_BINDTODEVICE),
):
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == v6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if option:
        udp.setsockopt(socket.SOL_SOCKET, option, b'ib0' if option == socket.SO_BINDTODEVICE else 1)
    try:
        udp.bind((address, 4789))
        print('has it', family, address, option)
    except OSError as error:
        assert error.errno == 98, error
print('tried')
"""


def test_no_program_takes_the_vxlan_port_and_so_a_node_out_of_service(hosts: list[Host]) -> None:
    assert hosts[0].run(*AS_NOBODY, "/usr/bin/python3", "-c", TAKE).stdout == "tried\n"
    built(hosts[:2], ENVIRONMENT)
    removed(hosts[:2], ENVIRONMENT)
    assert hosts[0].run(*AS_NOBODY, "/usr/bin/python3", "-c", TAKE).stdout == "tried\n"
    assert hosts[0].lines("ip -br link", 0) == {
        line for line in hosts[0].lines("ip -br link") if "hpc" not in line
    }
