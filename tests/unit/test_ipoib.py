# SPDX-License-Identifier: Apache-2.0
"""mode=direct on InfiniBand, as far as a machine without any goes: the request, and what sysfs tells of a port."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest

from hpcnet.errors import NodeError, SiteError
from hpcnet.kernel import child, infiniband, interior, rtnl
from hpcnet.kernel.links import Link
from hpcnet.model import Lease
from hpcnet.names import DEVICE_GROUP, TASKS_DEVICE
from hpcnet.plan import plan

HEADERS = 16 + 16  # struct nlmsghdr, struct ifinfomsg
LOOPBACK = 1  # index of lo: no InfiniBand, so the kernel refuses what ip asks it


def asked_by_iproute2(*words: str, directory: Path) -> bytes:
    """The RTM_NEWLINK that ``ip link add link lo ...`` sends; the kernel refuses it, whoever runs this."""
    strace, ip = shutil.which("strace"), shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if strace is None or ip is None:
        pytest.skip("strace or iproute2 is not installed; tools/bootstrap installs both")
    trace = directory / "trace"
    command = [strace, "-e", "trace=sendmsg", "-e", "write=all", "-o", str(trace), ip, "link", "add", "link", "lo"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    sent = dumped(trace.read_text(encoding="ascii")) if trace.exists() else []
    if not sent:
        pytest.skip(f"strace traces nothing here: {done.stderr.strip()[:100]}")
    assert struct.unpack_from("=IH", sent[-1]) == (len(sent[-1]), rtnl.RTM_NEWLINK)
    return sent[-1]


def dumped(trace: str) -> list[bytes]:
    """The buffers of a trace: `` * 3 bytes in buffer 0`` and lines of `` | 00000  68 00 00  h.. |``."""
    buffers = re.split(r"(?m)^ \* \d+ bytes in buffer \d+$", trace)[1:]
    lines = (re.findall(r"(?m)^ \| [0-9a-f]{5}  (.{49})", buffer) for buffer in buffers)
    return [bytes.fromhex(" ".join(found)) for found in lines]


def ordered(data: bytes, offset: int) -> list[tuple[int, bytes]]:
    """Attributes in their order."""
    found = []
    while offset < len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found.append((kind, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


@pytest.mark.parametrize("mode", ["datagram", "connected"])
@pytest.mark.parametrize("pkey", ["0x8001", "0xffff"])
def test_the_request_is_iproute2s_byte_for_byte(tmp_path: Path, pkey: str, mode: str) -> None:
    theirs = asked_by_iproute2(
        *("name", TASKS_DEVICE, "group", str(DEVICE_GROUP)),
        *("type", "ipoib", "pkey", pkey, "mode", mode, "umcast", "0"),
        directory=tmp_path,
    )
    ours = child.new_ipoib(pkey, mode, LOOPBACK, namespace=7)
    kind, flags = struct.unpack_from("=HH", ours, 4)
    assert (kind, flags | rtnl.ACK) == struct.unpack_from("=HH", theirs, 4)
    assert ours[16:HEADERS] == theirs[16:HEADERS]
    namespace = (rtnl.IFLA_NET_NS_FD, struct.pack("=I", 7))  # a descriptor: no two programs have the same
    assert ordered(ours, HEADERS) == [namespace, *ordered(theirs, HEADERS)]


GUID = "00:02:c9:03:00:ab:cd:ef"


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sysfs of a machine with ib0 on the second port of mlx5_0; returns the port's directory."""
    monkeypatch.setattr(infiniband, "SYSFS", tmp_path)
    net = tmp_path / "class/net/ib0"
    (net / "device").mkdir(parents=True)
    for number in (1, 2):
        made = tmp_path / f"class/infiniband/mlx5_0/ports/{number}"
        for name in ("pkeys", "gids"):
            (made / name).mkdir(parents=True)
        (made / "state").write_text("4: ACTIVE\n")
        (made / "gids/0").write_text(f"fe80:0000:0000:0000:0002:c903:00ab:cde{'0f'[number - 1]}\n")
        for place, pkey in enumerate(("0xffff", "0x8001", "0x0002", "0x0000")):
            (made / "pkeys" / str(place)).write_text(pkey + "\n")
    (net / "device/infiniband").symlink_to(tmp_path / "class/infiniband")
    for name, text in (
        ("dev_port", "1"),
        ("mode", "connected"),
        ("pkey", "0x8001"),
        ("address", f"80:00:{GUID}"),
        ("ifindex", "3"),
        ("iflink", "3"),
    ):
        (net / name).write_text(text + "\n")
    return made


@pytest.mark.parametrize("pkey", ["0xffff", "0x8001"])
def test_a_port_that_has_the_partition(port: Path, pkey: str) -> None:
    infiniband.require("ib0", "n1", pkey)


def test_the_adapters_of_an_interface(port: Path) -> None:
    assert infiniband.adapters_of("ib0") == "mlx5_0"
    assert infiniband.adapters_of("eth0") == ""


def test_the_port_is_found_by_its_guid_where_the_adapter_shows_no_device(port: Path, tmp_path: Path) -> None:
    (tmp_path / "class/net/ib0/device/infiniband").unlink()
    (tmp_path / "class/infiniband/mlx5_0/ports/1/state").write_text("1: DOWN\n")
    infiniband.require("ib0", "n1", "0x8001")
    (port / "gids/0").write_text("fe80::1\n")
    with pytest.raises(
        NodeError, match=r"no InfiniBand port of uplink ib0 is found on n1, neither under .*/device"
    ):
        infiniband.require("ib0", "n1", "0x8001")


@pytest.mark.parametrize(("text", "says"), [("2: INIT", "is INIT, not ACTIVE"), ("", "is in no known state")])
def test_a_port_that_is_not_active_is_the_nodes(port: Path, text: str, says: str) -> None:
    (port / "state").write_text(text)
    with pytest.raises(NodeError, match=f"port mlx5_0/2 of uplink ib0 on n1 {says}"):
        infiniband.require("ib0", "n1", "0x8001")
    assert f"port mlx5_0/2 of uplink ib0 on n1 {says}" in infiniband.no_carrier("ib0", "n1")


def test_no_carrier_without_a_port_that_sysfs_shows(port: Path) -> None:
    (port / "gids/0").write_text("fe80::1\n")
    (infiniband.sysfs() / "class/net/ib0/device/infiniband").unlink()
    assert "uplink ib0 has no carrier on n1; check its cable" in infiniband.no_carrier("ib0", "n1")


@pytest.mark.parametrize(
    ("pkey", "says"),
    [("0x8003", "is not in partition 0x8003"), ("0x8002", "is a limited member of partition 0x8002")],
)
def test_a_partition_that_the_port_is_not_fully_in_is_the_sites(port: Path, pkey: str, says: str) -> None:
    with pytest.raises(SiteError, match=f"port mlx5_0/2 of uplink ib0 on n1 {says}"):
        infiniband.require("ib0", "n1", pkey)


def test_a_child_can_have_no_child(port: Path, tmp_path: Path) -> None:
    """Only one made by the file ``create_child`` has a file ``parent``; each has its parent's index."""
    (tmp_path / "class/net/ib0/iflink").write_text("7\n")
    with pytest.raises(NodeError, match=r"set \[fabric\] uplink to its parent, interface 7"):
        infiniband.require("ib0", "n1", "0x8001")
    (tmp_path / "class/net/ib7").mkdir()
    (tmp_path / "class/net/ib7/ifindex").write_text("7\n")
    with pytest.raises(NodeError, match=r"is an IPoIB child itself .* set \[fabric\] uplink to its parent ib7"):
        infiniband.require("ib0", "n1", "0x8001")


def test_facts_of_an_uplink(port: Path, tmp_path: Path) -> None:
    assert infiniband.ipoib_facts("ib0") == ("connected", "0x8001")
    (tmp_path / "class/net/ib0/mode").unlink()  # a driver that has datagram only
    assert infiniband.ipoib_facts("ib0") == ("datagram", "0x8001")


@pytest.mark.parametrize(
    ("ipoib", "kind", "says"),
    [
        ("datagram", SiteError, "n1 could not join partition 0x8001 within 0 s; see whether the subnet manager"),
        ("", NodeError, "hpc0 on n1 has no carrier; check uplink ib0"),
    ],
)
def test_no_carrier_in_time(monkeypatch: pytest.MonkeyPatch, ipoib: str, kind: type[Exception], says: str) -> None:
    monkeypatch.setattr(child, "CARRIER_SECONDS", 0.0)
    link = Link(9, TASKS_DEVICE, "ipoib", 2044, rtnl.IFF_UP, DEVICE_GROUP, "", 2, b"", {}, 32)
    monkeypatch.setattr(interior, "existing", lambda netlink, name: link)
    lease = Lease(7, "direct", 0, IPv4Network("10.9.0.0/29"), IPv6Network("fd09::/64"), pkey="0x8001", shared=True)
    if not ipoib:
        lease = replace(lease, pkey="none")
    wanted = plan(
        lease, ["n1"], "n1", {"n1": IPv4Address("10.2.0.1")}, cluster="lab", job_id=12, uid=1001, uplink="ib0",
        uplink_mtu=2044, uplink_ipoib=ipoib, uplink_pkey="0xffff",
    )  # fmt: skip
    with rtnl.Rtnl() as netlink, pytest.raises(kind, match=says):
        child._with_carrier(netlink, wanted)
