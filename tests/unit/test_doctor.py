# SPDX-License-Identifier: Apache-2.0
"""How doctor judges facts; tests/cluster/test_doctor*.py have the facts of real hosts."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from hpcnet import config
from hpcnet.config import Site
from hpcnet.doctor import containers, fabric, kernel, packets, permissions, plugin, remains, vxlanport
from hpcnet.doctor.model import FAIL, OK, WARN, Finding
from hpcnet.doctor.permissions import Entry
from hpcnet.doctor.vxlanport import Device, Socket
from hpcnet.kernel import infiniband, links
from hpcnet.kernel.infiniband import Port
from hpcnet.kernel.links import Link
from hpcnet.reap import DEAD, FOREIGN, LIVE, UNKNOWN, Network, Report, Verdict
from hpcnet.remains import Remains

IB0 = Link(2, "ib0", "", 65520, 0x1, 0, "", 6, b"", {}, 1)
OWN = IPv4Address("172.31.0.1")
WANTED = config.Fabric(mtu=65520)
PORT = Port("mlx5_0/1", "ACTIVE", frozenset({0xFFFF}), "100 Gb/sec (4X EDR)")


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    assert (finding.remedy == "") == (finding.status == OK)
    return finding


# Kernel and fabric.


def test_a_kernel_that_lacks_something() -> None:
    found = kernel.judge_kernel({"network namespaces": "", "vxlan": "Operation not supported"}, "", True)
    assert only(found).status == FAIL and "no vxlan: Operation not supported" in found[0].text
    assert "modprobe vxlan" in found[0].remedy
    without_nat = only(kernel.judge_kernel({"veth": ""}, "nft refused hpcnet's packet filter: No such file", True))
    assert without_nat.status == FAIL and "egress=host" in without_nat.text
    assert "no rootless containers" in only(kernel.judge_kernel({"veth": ""}, "", False)).text


@pytest.mark.parametrize(
    ("uplink", "status", "says"),
    [
        (fabric.Uplink(None), FAIL, "there is no interface ib0"),
        (fabric.Uplink(IB0, (str(OWN),)), OK, "ib0 is up, MTU 65520, Ethernet, 172.31.0.1"),
        (fabric.Uplink(replace(IB0, flags=0), (str(OWN),)), FAIL, "ib0 is down"),
        (fabric.Uplink(replace(IB0, operstate=2), (str(OWN),)), FAIL, "no carrier"),
        (fabric.Uplink(replace(IB0, mtu=2044), (str(OWN),)), FAIL, "MTU 2044, less than"),
        (fabric.Uplink(replace(IB0, mtu=65535), (str(OWN),)), WARN, "more than [fabric] mtu"),
        (fabric.Uplink(replace(IB0, hardware=772), (str(OWN),)), FAIL, "neither Ethernet nor InfiniBand"),
        (fabric.Uplink(IB0, ("10.0.0.1", "fe80::1")), FAIL, "has not 172.31.0.1"),
        (
            fabric.Uplink(replace(IB0, hardware=32), (str(OWN),), "connected", "0xffff", PORT),
            OK,
            "IPoIB connected 0xffff, port mlx5_0/1 100 Gb/sec (4X EDR), 172.31.0.1",
        ),
        (
            fabric.Uplink(
                replace(IB0, hardware=32), (str(OWN),), "connected", "0xffff", replace(PORT, state="INIT")
            ),
            FAIL,
            "port mlx5_0/1 of ib0 is INIT, not ACTIVE",
        ),
        (fabric.Uplink(replace(IB0, hardware=32), (str(OWN),), "connected", "0xffff"), WARN, "no InfiniBand port"),
    ],
)
def test_uplinks(uplink: fabric.Uplink, status: str, says: str) -> None:
    found = only(fabric.judge_uplink(uplink, WANTED, OWN))
    assert found.status == status and says in found.text


def test_an_mtu_that_nobody_says() -> None:
    found = only(fabric.judge_uplink(fabric.Uplink(IB0, (str(OWN),)), config.Fabric(), OWN))
    assert found.status == WARN and "set [fabric] mtu = 65520" in found.remedy


def test_an_uplink_where_no_network_is_built() -> None:
    assert only(fabric.elsewhere(fabric.judge_uplink(fabric.Uplink(None), WANTED, None))).status == OK
    down = fabric.judge_uplink(fabric.Uplink(replace(IB0, flags=0)), WANTED, None)
    assert only(fabric.elsewhere(down)).status == WARN


def test_the_port_of_an_ipoib_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = tmp_path / "class/net/ib0/device/infiniband/mlx5_0/ports/1"
    (port / "pkeys").mkdir(parents=True)
    for file, text in {"state": "2: INIT", "rate": "100 Gb/sec (4X EDR)", "pkeys/0": "0xffff"}.items():
        (port / file).write_text(f"{text}\n", encoding="ascii")
    net = tmp_path / "class/net/ib0"
    for file, text in {"mode": "connected", "pkey": "0xffff", "dev_port": "0"}.items():
        (net / file).write_text(f"{text}\n", encoding="ascii")
    monkeypatch.setattr(infiniband, "SYSFS", tmp_path)
    monkeypatch.setattr(links, "find", lambda netlink, name: replace(IB0, hardware=32))
    monkeypatch.setattr(links, "addresses", lambda netlink: [(2, f"{OWN}/16"), (3, "10.0.0.1/8")])
    uplink = fabric.read_uplink("ib0")
    assert (uplink.addresses, uplink.mode, uplink.port) == ((str(OWN),), "connected", replace(PORT, state="INIT"))
    assert only(fabric.judge_uplink(uplink, WANTED, OWN)).status == FAIL


def by_hosts(tmp_path: Path, text: str) -> Site:
    file = tmp_path / "hosts"
    file.write_text(text, encoding="utf-8")
    return replace(Site(), fabric=config.Fabric(peers_file=str(file)))


def test_addresses_of_all_nodes(tmp_path: Path) -> None:
    def judged(text: str) -> Finding:
        return only(fabric.judge_addresses(["n1", "n2"], by_hosts(tmp_path, text)))

    assert judged("172.31.0.1 n1-ib\n172.31.0.2 n2-ib\n").status == OK
    missing = judged("172.31.0.1 n1-ib\n")
    assert missing.status == FAIL and "n2 has no address" in missing.text and "add n2-ib to" in missing.remedy
    twice = judged("172.31.0.1 n1-ib n2-ib\n")
    assert twice.status == FAIL and "n1 and n2 both have 172.31.0.1" in twice.text
    pool = judged("10.128.0.1 n1-ib\n172.31.0.2 n2-ib\n")
    assert pool.status == FAIL and "n1 has 10.128.0.1, which is in [pool] ipv4" in pool.text


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
hpce17\t0100800A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
eth1\t0000A00A\t00000000\t0001\t0\t0\t0\t0000F8FF\t0\t0\t0
"""


def test_pools_that_are_in_use() -> None:
    routed = fabric.routes(ROUTES)
    assert routed == [("hpce17", IPv4Network("10.128.0.1/32")), ("eth1", IPv4Network("10.160.0.0/13"))]
    found = only(fabric.judge_pools([], routed, Site()))
    assert found.status == WARN and "10.160.0.0/13 by eth1" in found.text
    own = [("lo", "127.0.0.1/8"), ("lo", "::1/128"), ("eth0", "10.130.0.1/16")]
    assert only(fabric.judge_pools(own, [], Site())).status == FAIL
    assert only(fabric.judge_pools(own[:2], routed[:1], Site())).status == OK
    # a pool that nobody is given addresses of may be anybody's
    assert only(fabric.judge_pools([("eth0", "10.192.0.1/16")], [], Site())).status == OK


# Files.


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (Entry("/opt", 0, 0o40755), ""),
        (Entry("/opt", 0, 0o40775), ""),
        (Entry("/opt", 0, 0o40775, 4), "mode 0775"),
        (Entry("/opt", 0, 0o40757), "mode 0757"),
        (Entry("/tmp", 0, 0o41777), ""),
        (Entry("/opt/hook", 0, 0o101777), "mode 1777"),
        (Entry("/opt", 1000, 0o40755), "belongs to uid 1000, not to root"),
    ],
)
def test_who_may_change_a_file(entry: Entry, says: str) -> None:
    found = permissions.judge([entry])
    assert [each.status for each in found] == ([FAIL] if says else [])
    assert says in "".join(each.text for each in found)


def test_many_files_are_one_line_more() -> None:
    found = permissions.judge([Entry(f"/opt/hpcnet/{number}", 7, 0o100644) for number in range(10)])
    assert len(found) == 5 and found[4].text == "6 more like these, below /opt/hpcnet"


def test_entries_are_those_of_the_name_and_of_what_it_stands_for(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = [entry.path for entry in permissions.entries([f"{tmp_path}/link/file", f"{tmp_path}/missing"])]
    assert found[0] == "/" and len(found) == len(set(found))
    assert set(found) >= {f"{tmp_path}/{each}" for each in ("link", "link/file", "real", "real/file")}
    assert f"{tmp_path}/missing" not in found


@pytest.mark.parametrize(
    ("directory", "file", "says"),
    [
        (Entry("/s", 64030, 0o40755), None, ""),
        (Entry("/s", 64030, 0o40700), Entry("/s/db", 64030, 0o100600), ""),
        (Entry("/s", 0, 0o40755), None, "/s, where [pool] store is, belongs to uid 0"),
        (Entry("/s", 64030, 0o40777), None, "mode 0777"),
        (Entry("/s", 64030, 0o40755), Entry("/s/db", 64030, 0o100644), "mode 0644"),
        (Entry("/s", 64030, 0o40755), Entry("/s/db", 0, 0o100600), "no job gets a lease"),
        (Entry("/s", 64030, 0o40755), Entry("/s/db", 99, 0o100600), "not to root or SlurmUser"),
    ],
)
def test_the_lease_store(directory: Entry, file: Entry | None, says: str) -> None:
    chain = [each for each in (directory, file) if each]
    found = permissions.judge_store("/s/db", directory, file, chain, "slurm", 64030)
    assert {each.status for each in found} == ({FAIL} if says else {OK})
    assert any(says in each.text for each in found)


def test_the_log_of_the_controllers_hooks() -> None:
    own = Entry("/var/log/hpcnet.log", 64030, 0o100644)
    assert permissions.judge_log(own.path, own, "slurm", 64030).status == OK
    for other in (replace(own, uid=0), replace(own, mode=0o100444), Entry("/var/log", 0, 0o40755), None):
        found = permissions.judge_log(own.path, other, "slurm", 64030)
        assert found.status == WARN and "chown slurm /var/log/hpcnet.log" in found.remedy


def test_the_token_of_the_metrics() -> None:
    secret = Entry("/etc/token", 0, 0o100600)
    assert permissions.judge_secret("/etc/token", [secret]) == []
    assert "is not there" in only(permissions.judge_secret("/etc/token", [])).text
    open_one = only(permissions.judge_secret("/etc/token", [replace(secret, mode=0o100644)]))
    assert open_one.status == FAIL and "chmod 0600" in open_one.remedy


# The plugin.


def test_plugstack(tmp_path: Path) -> None:
    def judged(text: str) -> list[str]:
        file = tmp_path / "plugstack.conf"
        file.write_text(text, encoding="utf-8")
        return [each.status for each in plugin.judge_stack(str(file), plugin.lines(str(file)))]

    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.conf").write_text("required /opt/hpcnet_spank.so state=/run/hpcnet\n", encoding="utf-8")
    assert judged("# first\nrequired /opt/hpcnet_spank.so\noptional /x.so\n") == []
    assert judged("include more/*.conf\nrequired /x.so\n") == []
    assert judged("include plugstack.conf\nrequired hpcnet_spank.so\n") == []
    assert judged("") == [FAIL]
    assert judged("#required /opt/hpcnet_spank.so\n") == [FAIL]
    assert judged("optional /opt/hpcnet_spank.so\n") == [FAIL]
    assert judged("required /x.so\nrequired /opt/hpcnet_spank.so\n") == [WARN]


def test_versions_of_the_plugin() -> None:
    def judged(built: plugin.Plugin) -> Finding:
        return only(plugin.judge_plugin("/opt/hpcnet_spank.so", built, (22, 5), "0.1.0"))

    assert judged(plugin.Plugin((22, 5), "0.1.0")).status == OK
    other = judged(plugin.Plugin((23, 11), "0.1.0"))
    assert other.status == FAIL and "built for Slurm 23.11, and Slurm here is 22.05" in other.text
    assert judged(plugin.Plugin((22, 5), "0.0.9")).status == WARN
    assert "(older)" in judged(plugin.Plugin((22, 5), "")).text


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + bytes(20), b"\x7fELF\x01\x01" + bytes(99)]
)
def test_what_is_no_plugin(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / plugin.NAME
    file.write_bytes(data)
    with pytest.raises((KeyError, ValueError, struct.error)):
        plugin.read(data)
    assert only(plugin.check_file(str(file))).status == FAIL
    assert "No such file" in only(plugin.check_file(f"{tmp_path}/missing")).text


# Packets, Docker, what is left.


def test_the_filters_table() -> None:
    assert only(packets.judge_filter([])).status == OK
    gone = only(packets.judge_filter(["- table inet hpcnet {", "- chain output {"]))
    assert gone.status == FAIL and "is not loaded" in gone.text
    other = only(packets.judge_filter(["- a", "+ b", "+ c", "+ d"]))
    assert other.status == FAIL and other.text.endswith("- a; + b; + c; ...")


def test_who_has_the_port() -> None:
    site = replace(Site(), fabric=config.Fabric(vxlan_port=14789))

    def judged(found: list[Socket], others: list[Device], held: bool = True) -> Finding:
        return only(vxlanport.judge_port(found, others, held, site))

    assert judged([], []).status == OK
    nobody = judged([], [], held=False)
    assert nobody.status == FAIL and "UDP port 14789 is not held" in nobody.text
    assert nobody.remedy.startswith("hpcnet filter load")
    program = judged([Socket(7, "python3", "IPv4")], [], held=False)
    assert program.status == FAIL and "python3 (process 7) has UDP port 14789" in program.text
    assert judged([Socket(7, "python3", "IPv6")], []).status == OK
    assert judged([], [Device("vx1", "this host", 42, True)]).text.endswith("beside vx1")
    assert judged([], [Device("vx1", "this host", site.pool.vni[1], True)]).status == FAIL
    theirs = Device("vx1", "net:[1]", 42, False)
    assert judged([], [theirs]).status == WARN and "cannot come up" in judged([], [theirs]).text
    ours = judged([], [theirs], held=False)
    assert ours.status == FAIL and "cannot share: no job gets a network" in ours.text
    assert "[fabric] vxlan_port" in ours.remedy


def test_docker() -> None:
    docker = config.Docker()
    good = containers.Answers("20.10.24", "", ("NetworkDriver", "IpamDriver"))
    assert only(containers.judge_docker(good, docker)).status == OK
    dead = only(containers.judge_docker(replace(good, dockerd="dockerd does not answer: x; see y"), docker))
    assert (dead.status, dead.text, dead.remedy) == (FAIL, "dockerd does not answer: x", "see y")
    assert "agent does not answer" in only(containers.judge_docker(replace(good, agent="x"), docker)).text
    assert "not hpcnet's driver" in only(containers.judge_docker(replace(good, implements=()), docker)).text


@pytest.mark.parametrize(
    ("kind", "done", "status"),
    [(DEAD, "found", WARN), (LIVE, "kept", OK), (FOREIGN, "kept", WARN), (UNKNOWN, "kept", WARN)],
)
def test_what_jobs_have_left(kind: str, done: str, status: str) -> None:
    network = Network(Remains(17, what=("hpcnet-17",)), Verdict(kind, "for a reason"), done)
    found = only(remains.judge_remains(Report(True, [network])))
    assert found.status == status
    assert status == OK or "job 17" in found.text


def test_a_namespace_of_somebody_elses() -> None:
    left = Remains(17, what=("hpcnet-17",), foreign=("br0",))
    found = only(remains.judge_remains(Report(True, [Network(left, Verdict(FOREIGN, "its namespace holds br0"))])))
    assert found.status == FAIL and "its namespace holds br0" in found.text


def test_what_the_filter_and_dockerd_have_left() -> None:
    assert "VNI 5 from 2 peers" in only(remains.judge_remains(Report(True, [], {5: ["a", "b"]}))).text
    assert only(remains.judge_remains(Report(True, [], {}, "nft is gone; install it"))).status == FAIL


@pytest.mark.parametrize(
    ("states", "status"),
    [({}, OK), ({"live": 5, "ending": 2}, OK), ({"quarantined": 1}, WARN), ({"live": 4090}, WARN)],
)
def test_how_full_the_pool_is(states: dict[str, int], status: str) -> None:
    assert only(remains.judge_leases(states, Site())).status == status
