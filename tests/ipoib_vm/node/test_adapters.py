# SPDX-License-Identifier: Apache-2.0
"""softib under the kernel's own IPoIB driver: what the other tests stand on. Two interfaces in two namespaces."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ipoib_vm.adapter import Adapter, duplicates, parameter, sh, wait_for_carrier
from tests.kernel.hosts import wait_for

pytestmark = pytest.mark.ipoib_vm

ONE, OTHER = Adapter(6), Adapter(7)


@pytest.fixture(scope="module", autouse=True)
def _pair() -> Iterator[None]:
    """ib6 in namespace a with 10.9.0.1, ib7 in b with 10.9.0.2."""
    for adapter, name, number in ((ONE, "a", 1), (OTHER, "b", 2)):
        sh(f"ip netns add {name}; ip link set {adapter.interface} netns {name}; ip -n {name} link set lo up")
        sh(f"ip -n {name} addr add 10.9.0.{number}/24 dev {adapter.interface}")
        sh(f"ip -n {name} link set {adapter.interface} up")
    for adapter, name in ((ONE, "a"), (OTHER, "b")):
        wait_for_carrier(adapter.interface, name)
    yield
    for adapter, name in ((ONE, "a"), (OTHER, "b")):
        sh(f"ip -n {name} link set {adapter.interface} netns 1; ip netns del {name}")


@pytest.fixture
def children() -> Iterator[None]:
    """A child c0 of either, 10.8.0.1 and 10.8.0.2, in partition 0x8001."""
    for adapter, name, number in ((ONE, "a", 1), (OTHER, "b", 2)):
        sh(f"ip -n {name} link add link {adapter.interface} name c0 type ipoib pkey 0x8001 mode datagram")
        sh(f"ip -n {name} addr add 10.8.0.{number}/24 dev c0; ip -n {name} link set c0 up")
    for name in "ab":
        wait_for_carrier("c0", name)
    yield
    for name in "ab":
        sh(f"ip -n {name} link del c0")


def reaches(address: str, size: int = 56) -> bool:
    """Whether a answers: a whole packet, or none."""
    ping = ["ip", "netns", "exec", "a", "ping", "-c3", "-i0.3", "-W2", "-q", "-Mdo", f"-s{size}", address]
    return subprocess.run(ping, stdout=subprocess.DEVNULL).returncode == 0


def test_sysfs_is_as_with_hardware() -> None:
    port = ONE.sysfs / "ports/1"
    assert (port / "state").read_text() == "4: ACTIVE\n"
    assert (port / "phys_state").read_text() == "5: LinkUp\n"
    assert (port / "rate").read_text() == "100 Gb/sec (4X EDR)\n"
    assert (port / "link_layer").read_text() == "InfiniBand\n"
    pkeys = [(port / "pkeys" / str(index)).read_text().strip() for index in range(10)]
    assert pkeys == ["0xffff", *(f"0x800{number}" for number in range(1, 9)), "0x0000"]
    guids = {Adapter(number).sysfs.joinpath("ports/1/gids/0").read_text() for number in range(8)}
    lids = {Adapter(number).sysfs.joinpath("ports/1/lid").read_text() for number in range(8)}
    assert len(guids) == len(lids) == 8
    counters = {path.name for path in (port / "counters").iterdir()}
    assert {"link_downed", "port_rcv_errors", "port_xmit_discards", "port_xmit_wait"} <= counters
    inside = sh("ip netns exec a sh -c 'ls /sys/class/net/ib6/device/infiniband'")
    assert inside == "softib6\n"


def test_packets_pass_whole_and_are_counted() -> None:
    assert reaches("10.9.0.2")  # and the address is resolved: broadcast works
    names = ("port_xmit_data", "port_xmit_packets", "port_rcv_data", "port_rcv_packets")
    before = {(adapter.interface, name): adapter.counter(name) for adapter in (ONE, OTHER) for name in names}
    assert reaches("10.9.0.2", 4092 - 28)
    for adapter in (ONE, OTHER):
        grown = [adapter.counter(name) - before[adapter.interface, name] for name in names]
        # three packets of 4092 bytes, in words of four, with headers and perhaps some others beside
        assert 3 * 4092 / 4 < grown[0] < 3 * 4092 / 4 + 1000 and 3 * 4092 / 4 < grown[2] < 3 * 4092 / 4 + 1000
        assert 3 <= grown[1] < 20 and 3 <= grown[3] < 20
    assert not reaches("10.9.0.2", 4092 - 27)


_PORTS = """
import json
from hpcnet.counters import reading
print(json.dumps([[port.device, port.state, port.speed, port.counters.tx_bytes, port.counters.rx_bytes]
                  for port in reading.ports()]))
"""

# Adapters have their counters only in the machine's own view of them, which the lab's hosts get like this too.
_HOST = """
machine=$(mktemp -d)
mount --bind /sys "$machine"
mount -t sysfs sysfs /sys
for adapter in "$machine"/class/infiniband/*; do
    adapter=$(readlink -f "$adapter")
    mount --bind "$adapter" "/sys${adapter#"$machine"}"
done
exec "$@"
"""


def test_hpcnet_reads_the_port_of_a_host_and_no_others(children: None) -> None:
    """What ``hpcnet stats`` and hpcnet-tui show; a host is a namespace with a /sys of its own."""

    def port() -> list[Any]:
        enter = ["nsenter", "--net=/run/netns/a", "unshare", "--mount", "sh", "-ec", _HOST, "sh"]
        command = [*enter, sys.executable, "-c", _PORTS]
        [found] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert found[:3] == ["softib6/1", "ACTIVE", 100_000_000_000]
        return list(found[3:])

    before = port()
    assert reaches("10.8.0.2", 4000)
    assert all(12_000 < after - start < 20_000 for start, after in zip(before, port()))


def test_iperf3_passes() -> None:
    server = subprocess.Popen(["ip", "netns", "exec", "b", "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    wait_for(lambda: "5201" in sh("ip netns exec b ss -Hltn"), "iperf3 does not listen", 60)
    report = json.loads(sh("ip netns exec a iperf3 -c 10.9.0.2 -n4M --json"))
    server.wait(timeout=60)
    assert report["end"]["sum_received"]["bytes"] > 1_000_000


def introduce(*places: tuple[str, str]) -> None:
    """Tell each of two c0, by namespace and IPv4 address, the other's hardware address: without broadcast."""
    shown = {name: json.loads(sh(f"ip -n {name} -j link show c0"))[0]["address"] for name, _ in places}
    for (name, _), (other, address) in (places, places[::-1]):
        sh(f"ip -n {name} neigh replace {address} lladdr {shown[other]} dev c0 nud permanent")


def test_a_partition_is_only_for_its_members(children: None) -> None:
    assert reaches("10.8.0.2")
    sh("ip -n b link del c0; ip -n b link add link ib7 name c0 type ipoib pkey 0x8002 mode datagram")
    sh("ip -n b addr add 10.8.0.2/24 dev c0; ip -n b link set c0 up")
    wait_for_carrier("c0", "b")
    introduce(("a", "10.8.0.1"), ("b", "10.8.0.2"))
    refused = OTHER.refused("bad_pkey")
    assert not reaches("10.8.0.2")
    assert OTHER.refused("bad_pkey") >= refused + 3  # they came as far as the port
    with parameter("partitions", "N"):
        assert reaches("10.8.0.2")


def test_a_connection_that_a_partition_breaks_is_made_again(children: None) -> None:
    for name in "ab":
        sh(f"ip -n {name} link set c0 type ipoib mode connected; ip -n {name} link set c0 mtu 65520")
    wait_for(lambda: reaches("10.8.0.2", 65520 - 28), "no packet of 65520 bytes passes", 60)
    refused = OTHER.refused("bad_pkey")
    with OTHER.with_control("pkeys", "0xffff 0x8002"):
        assert not reaches("10.8.0.2", 60_000)
    assert OTHER.refused("bad_pkey") > refused
    wait_for_carrier("c0", "b")
    wait_for(lambda: reaches("10.8.0.2", 60_000), "the connection does not come back", 60)


def test_a_pkey_that_is_taken_away_is_gone_at_once_and_comes_back(children: None) -> None:
    assert reaches("10.8.0.2")
    with OTHER.with_control("pkeys", "0xffff 0x8002"):
        assert (OTHER.sysfs / "ports/1/pkeys/1").read_text() == "0x8002\n"
        assert not reaches("10.8.0.2")
        assert reaches("10.9.0.2")
    wait_for_carrier("c0", "b")
    wait_for(lambda: reaches("10.8.0.2"), "the partition does not come back", 60)


def test_a_cable_can_be_pulled_and_put_back() -> None:
    downed = ONE.counter("link_downed")
    with ONE.with_control("port", "down"):
        assert (ONE.sysfs / "ports/1/state").read_text() == "1: DOWN\n"
        wait_for_carrier("ib6", "a", there=False)
        assert not reaches("10.9.0.2")
    assert ONE.counter("link_downed") == downed + 1
    wait_for_carrier("ib6", "a")
    wait_for(lambda: reaches("10.9.0.2"), "the link does not come back", 60)


def dad_has_ended(namespace: str, interface: str) -> bool:
    shown = sh(f"ip -n {namespace} -6 addr show {interface}")
    return "scope link" in shown and "tentative" not in shown


def test_two_children_have_one_link_local_address_of_themselves() -> None:
    """Why hpcnet gives each child its own: the kernel makes it of the port's GUID, and finds the duplicate."""
    found = duplicates()
    sh("ip netns add a2")
    places = (("a", "c1"), ("a2", "c2"))
    for name, child in places:
        sh(f"ip -n a link add link ib6 name {child} netns {name} type ipoib pkey 0x8001")
        sh(f"ip -n {name} link set {child} up")
        wait_for_carrier(child, name)
        if name == "a":
            wait_for(lambda: dad_has_ended("a", "c1"), "duplicate address detection does not end", 60)
    wait_for(lambda: "dadfailed" in sh("ip -n a2 -6 addr show c2"), "no duplicate is found", 60)
    assert duplicates() == found + 1  # so tests of jobs can tell that there is none
    one, other = (re.findall(r"fe80:\S+", sh(f"ip -n {name} -6 addr show {child}")) for name, child in places)
    assert one == other and len(one) == 1
    sh("ip -n a2 link del c2; ip -n a link del c1; ip netns del a2")


def test_a_child_whose_namespace_dies_comes_back_to_the_machine() -> None:
    """Not to its parent's namespace, and down. So do 6.1 and 6.12; kernels of before netns_refund destroyed it."""
    for name in ("c3", "c4"):
        sh(f"ip netns add {name}; ip -n a link add link ib6 name child netns {name} type ipoib pkey 0x8001")
        sh(f"ip -n {name} link set child up alias {name}; ip netns del {name}")
        wait_for(lambda: f"alias {name}" in sh("ip -o link"), "the child does not come back", 60)  # noqa: B023
    shown = [line for line in sh("ip -d -o link").splitlines() if "pkey 0x8001" in line]
    names = [line.split(": ")[1].partition("@")[0] for line in shown]
    assert names[0] == "child" and names[1].startswith("dev")
    assert all(" state DOWN " in line for line in shown), shown
    for name in names:
        sh(f"ip link del {name}")


@pytest.mark.parametrize("kind", ["macvlan mode bridge", "ipvlan"])
def test_the_kernel_gives_ipoib_no_macvlan(kind: str) -> None:
    add = ["ip", "-n", "a", "link", "add", "link", "ib6", "name", "m0", "type", *kind.split()]
    refused = subprocess.run(add, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "Invalid argument" in refused.stderr
