# SPDX-License-Identifier: Apache-2.0
"""doctor finds what is wrong with a host's kernel, its fabric and its filters, and says what to do."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster, eventually
from tests.cluster.doctor import configured, doctor, edited, only, undone, wrong

pytestmark = pytest.mark.cluster

# One machine has one kernel: what it answers is changed on its way. Argument: the kind of device it lacks.
LACKS = """
import errno, os, sys
from hpcnet.cli.main import main
from hpcnet.kernel import rtnl
send, lacking = rtnl.Rtnl.send, sys.argv[1].encode()
def answered(self, *messages, ignore=()):
    if any(lacking in message and message[4] == rtnl.RTM_NEWLINK for message in messages):
        raise rtnl.RtnlError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    send(self, *messages, ignore=ignore)
rtnl.Rtnl.send = answered
sys.exit(main(sys.argv[3:]))
"""
PYTHON = ("/opt/hpcnet/bin/python", "-I", "-c", LACKS)


@pytest.mark.parametrize(
    ("under", "says"),
    [
        *(((*PYTHON, kind), f"this kernel makes no {kind}: Operation not supported -> modprobe {kind}")
          for kind in ("veth", "vxlan", "macvlan")),
        (("strace", "-fqqo/dev/null", "-einject=unshare:error=ENOSPC"),
         "makes no network namespaces: unshare: No space left on device -> a kernel with CONFIG_NET_NS"),
    ],
    ids=["veth", "vxlan", "macvlan", "namespaces"],
)  # fmt: skip
def test_a_kernel_that_lacks_something(cluster: Cluster, under: tuple[str, ...], says: str) -> None:
    report = doctor(cluster, "n1", "--local", under=under)
    found = [each for each in report["findings"] if each["check"] == "kernel"]
    assert says in "".join(f"{each['finding']} -> {each['remedy']}" for each in found)
    assert [each["status"] for each in found] == ["fail"]


def test_a_kernel_without_nat(cluster: Cluster) -> None:
    nft = """#!/bin/sh
rules=$(cat)
case $rules in
*masquerade*) echo "Error: Could not process rule: No such file or directory" >&2; exit 1 ;;
esac
printf %s "$rules" | /tmp/nft "$@"
"""
    cluster.lab.run("n1", ["sh", "-c", "cat >/tmp/other; chmod +x /tmp/other"], stdin=nft)
    begin = "cp /usr/sbin/nft /tmp/nft; mount --bind /tmp/other /usr/sbin/nft"
    with undone(cluster, "n1", begin, "umount /usr/sbin/nft; rm /tmp/nft /tmp/other"):
        said = only(cluster, "n1", "kernel", "fail", "--local")
    assert "egress=host: nft refused" in said and "-> CONFIG_NFT_MASQ, CONFIG_NFT_CT" in said


def test_an_uplink_that_is_not_as_it_should_be(cluster: Cluster) -> None:
    address = "ip address {} 172.31.1.3/16 dev ib0"
    for uplink, says in (
        ("ib7", "there is no interface ib7 -> load its driver, or correct [fabric] uplink"),
        ("lo", "lo is neither Ethernet nor InfiniBand (ARPHRD 772) -> set [fabric] uplink"),
    ):
        with configured(cluster, "n3", f"sed -i 's/^uplink = .*/uplink = \"{uplink}\"/'"):
            status, finding, remedy = wrong(cluster, "n3", "--local")["uplink"]
            assert status == "fail" and says in f"{finding} -> {remedy}"
    for breaks, mends, says in (
        (
            "ip link set ib0 mtu 2044",
            "ip link set ib0 mtu 65520",
            "ib0 has MTU 2044, less than [fabric] mtu = 65520",
        ),
        (address.format("del"), address.format("add"), "ib0 has not 172.31.1.3"),
        ("ip link set ib0 down", "ip link set ib0 up", "ib0 is down -> ip link set ib0 up"),
    ):
        with undone(cluster, "n3", breaks, mends):
            assert says in only(cluster, "n3", "uplink", "fail")
    with undone(cluster, "switch", "ip link set n3-ib0 down", "ip link set n3-ib0 up"):
        assert "ib0 has no carrier" in only(cluster, "n3", "uplink", "fail")
    eventually("ib0 has a carrier", lambda: wrong(cluster, "n3") == {})
    ready = "ip -6 -o addr show dev ib0 | grep -c tentative"
    eventually("ib0 has its IPv6 address", lambda: cluster.root("n3", "sh", "-c", ready, check=False) == "0\n")


def test_addresses_that_clash(cluster: Cluster) -> None:
    for command, says in (
        ("sed -i s/172.31.1.3/172.31.1.2/", "n2 and n3 both have 172.31.1.2 -> correct /etc/hosts"),
        ("sed -i s/172.31.1.3/10.128.5.5/", "n3 has 10.128.5.5, which is in [pool] ipv4 = 10.128.0.0/"),
        ("sed -i /n3-ib/d", "node n3 has no address on the fabric -> add n3-ib to /etc/hosts"),
    ):
        with edited(cluster, "n1", "/etc/hosts", f"{command} /etc/hosts"):
            assert says in only(cluster, "n1", "addresses", "fail")
    with undone(cluster, "n1", "ip address add 10.128.9.9/32 dev eth0", "ip address del 10.128.9.9/32 dev eth0"):
        assert "eth0 of this host has 10.128.9.9, which is in [pool] ipv4" in only(cluster, "n1", "pools", "fail")
    with undone(cluster, "n1", "ip route add 10.129.0.0/16 dev eth0", "ip route del 10.129.0.0/16 dev eth0"):
        assert "routes 10.129.0.0/16 by eth0" in only(cluster, "n1", "pools", "warn")


def test_a_packet_filter_that_is_not_loaded_or_is_another_one(cluster: Cluster) -> None:
    for host, command, says in (
        ("n1", "nft delete table inet hpcnet", "is not loaded"),
        ("login", "nft flush chain inet hpcnet postrouting", "- udp dport 4789 meta skuid"),
    ):
        with undone(cluster, host, command, "hpcnet filter load"):
            said = only(cluster, host, "filter", "fail")
        assert says in said and "-> hpcnet filter load" in said


def test_a_firewall_in_the_way(cluster: Cluster) -> None:
    rules = "add table inet site; add chain inet site {0} {{ type filter hook {0} priority 0; policy drop; }}"
    accept = "; add rule inet site input udp dport 4789 accept"
    with undone(cluster, "n1", f"nft '{rules.format('input')}{accept}'", "nft delete table inet site"):
        # management, which is dropped too, is not hpcnet's concern
        assert "firewall" not in wrong(cluster, "n1", "--local")
    for hook in ("input", "output"):
        with undone(cluster, "n1", f"nft '{rules.format(hook)}'", "nft delete table inet site"):
            said = only(cluster, "n1", "firewall", "fail", "--local")
        assert f"chain inet site {hook} drops UDP 4789 ({hook}) by ib0" in said and "-> allow what comes" in said
    with undone(cluster, "n1", f"nft '{rules.format('forward')}'", "nft delete table inet site"):
        assert "drops what goes out by a job's link" in only(cluster, "n1", "firewall", "warn")


def test_others_on_the_port_of_vxlan(cluster: Cluster) -> None:
    bind = 'import socket, time; s = socket.socket(2, 2); s.bind(("", 4789)); print(1, flush=True); time.sleep(60)'
    start = f"python3 -c '{bind}' >/tmp/bound 2>&1 & echo $! >/tmp/pid"
    # only where nobody holds it for the kernel
    free = "while grep -q :12B5 /proc/net/udp; do sleep 0.05; done"
    with undone(cluster, "n1", f"ip netns del hpcnet; {free}", "hpcnet filter load"):
        said = only(cluster, "n1", "port", "fail")
        assert "UDP port 4789 is not held for jobs" in said and "-> hpcnet filter load" in said
    begin = f"ip netns del hpcnet; {free}; {start}; until [ -s /tmp/bound ]; do sleep 0.05; done"
    end = f"kill $(cat /tmp/pid); rm /tmp/pid /tmp/bound; {free}; hpcnet filter load"
    with undone(cluster, "n1", begin, end):
        said = only(cluster, "n1", "port", "fail")
        assert "python3 (process" in said and "has UDP port 4789" in said
    begin = f"ip netns del hpcnet; {free}; ip link add vx1 up type vxlan external dstport 4789"
    with undone(cluster, "n1", begin, f"ip link del vx1; {free}; hpcnet filter load"):
        said = only(cluster, "n1", "port", "fail")
        assert (
            "takes UDP port 4789 in a form that hpcnet's cannot share" in said
            and "-> give it another port" in said
        )
    ours = "VXLAN device vx1 in this host, VNI 6815744, which hpcnet did not make, is in [pool] vni"
    for options, status, says in (
        ("id 6815744 dev ib0", "fail", ours),
        ("external", "warn", "cannot come up: hpcnet holds UDP port 4789"),
    ):
        add = f"ip link add vx1 type vxlan {options} dstport 4789"
        with undone(cluster, "n1", add, "ip link del vx1"):
            assert says in only(cluster, "n1", "port", status)
    hidden = "ip netns add x; ip link add vx2 netns x type vxlan id 6815745 dstport 4789 dev ib0"
    with undone(cluster, "n1", hidden, "ip netns del x"):
        assert "VXLAN device vx2 in net:[" in only(cluster, "n1", "port", "fail")
    with undone(cluster, "n1", "ip link add vx1 type vxlan id 42 dstport 4789 dev ib0", "ip link del vx1"):
        assert wrong(cluster, "n1") == {}
