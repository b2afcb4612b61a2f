# SPDX-License-Identifier: Apache-2.0
"""``hpcnet check``: what of a job's network is missing, foreign or silent on this node."""

from __future__ import annotations

import json

import pytest

from tests.kernel.hosts import Fabric, Host, built, job_environment, lease_of, require_root

require_root()
pytestmark = pytest.mark.kernel

LEASE = lease_of()
ENVIRONMENT = job_environment(LEASE, "n[1-2]")


def report(host: Host, code: int) -> dict[str, object]:
    """The one job's report, of a check that exits so; whatever is as it should be is left out."""
    result = host.hpcnet("check", "--json")
    assert result.returncode == code, result.stderr
    (found,) = json.loads(result.stdout)
    assert found.pop("job_id") == 17
    assert found.pop("clean") is (code == 0)
    return {key: value for key, value in found.items() if value}


def test_a_node_without_jobs_is_clean(hosts: list[Host]) -> None:
    result = hosts[0].hpcnet("check")
    assert (result.returncode, result.stdout) == (0, "no job has a network on this node\n")


@pytest.mark.parametrize("endpoints", [0, 4])
def test_a_network_as_it_was_built_is_clean(hosts: list[Host], endpoints: int) -> None:
    built(hosts, job_environment(lease_of(endpoints=endpoints), "n[1-3]"))
    assert report(hosts[0], 0) == {}


ALIAS = "alias hpcnet:lab:17:100"
HPCVX = f"device hpcvx vxlan id {LEASE.vni} local 172.31.0.1 port 4789 mtu 65470"
HPC0 = "device hpc0 macvlan mac 02:42:0a:80:00:01 mtu 65470"
MAC = "02:42:0a:80:00:02"

DIFFERENCES: dict[str, tuple[str, list[str], list[str]]] = {
    "IPv4 address": (
        "ip -n hpcnet-17 addr del 10.128.0.1/26 dev hpc0",
        ["address 10.128.0.1/26 on hpc0", f"neighbour 10.128.0.2 has {MAC}"],  # as the kernel does
        [],
    ),
    "IPv6 address": (
        "ip -n hpcnet-17 addr del fd68:7063:6e65::1/64 dev hpc0",
        ["address fd68:7063:6e65::1/64 on hpc0"],
        [],
    ),
    "other address": (
        "ip -n hpcnet-17 addr add 192.0.2.1/24 dev hpc0",
        [],
        ["address 192.0.2.1/24 on hpc0"],
    ),
    "neighbour": (
        "ip -n hpcnet-17 neigh del 10.128.0.2 dev hpc0",
        [f"neighbour 10.128.0.2 has {MAC}"],
        [],
    ),
    "other neighbour": (
        "ip -n hpcnet-17 neigh replace 10.128.0.2 lladdr 02:00:00:00:00:09 dev hpc0",
        [f"neighbour 10.128.0.2 has {MAC}"],
        ["neighbour 10.128.0.2 has 02:00:00:00:00:09"],
    ),
    "forwarding": (
        f"bridge -n hpcnet-17 fdb del {MAC} dev hpcvx dst 172.31.0.2",
        [f"forwarding {MAC} to 172.31.0.2"],
        [],
    ),
    "flooding": (
        "bridge -n hpcnet-17 fdb append 00:00:00:00:00:00 dev hpcvx dst 172.31.0.9",
        [],
        ["forwarding 00:00:00:00:00:00 to 172.31.0.9"],
    ),
    "filter element": (
        "nft delete element inet hpcnet vtep '{ 6815744 . 172.31.0.2 }'",
        ["filter admits VNI 6815744 from 172.31.0.2"],
        [],
    ),
    "other filter element": (
        "nft add element inet hpcnet vtep '{ 6815744 . 172.31.0.9 }'",
        [],
        ["filter admits VNI 6815744 from 172.31.0.9"],
    ),
    "tasks' device down": (
        # a device that is down has lost its IPv6 addresses and its neighbours
        "ip -n hpcnet-17 link set hpc0 down",
        [
            "address fd68:7063:6e65::1/64 on hpc0",
            "address fe80::a80:1/64 on hpc0",
            f"{HPC0} up {ALIAS}",
            f"neighbour 10.128.0.2 has {MAC}",
            f"neighbour fd68:7063:6e65::2 has {MAC}",
        ],
        [f"{HPC0} down {ALIAS}"],
    ),
    "MTU": (
        "ip -n hpcnet-17 link set hpcvx mtu 9000",
        [f"{HPC0} up {ALIAS}", f"{HPCVX} up {ALIAS}"],
        [
            f"{HPC0} up {ALIAS}".replace("65470", "9000"),
            f"{HPCVX} up {ALIAS}".replace("65470", "9000"),
        ],
    ),
    "ifalias": (
        "ip -n hpcnet-17 link set hpc0 alias theirs",
        [f"{HPC0} up {ALIAS}"],
        [f"{HPC0} up alias theirs"],
    ),
    "MAC": (
        "ip -n hpcnet-17 link set hpc0 address 02:00:00:00:00:09",
        [
            f"{HPC0} up {ALIAS}",
            f"neighbour 10.128.0.2 has {MAC}",
            f"neighbour fd68:7063:6e65::2 has {MAC}",
        ],
        [f"{HPC0} up {ALIAS}".replace("02:42:0a:80:00:01", "02:00:00:00:00:09")],
    ),
    "other device": (
        "ip -n hpcnet-17 link add br7 address 02:00:00:00:00:09 type bridge",
        [],
        ["device br7 bridge mac 02:00:00:00:00:09 mtu 1500 down"],
    ),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_a_difference_is_shown(hosts: list[Host], what: str) -> None:
    command, missing, foreign = DIFFERENCES[what]
    built(hosts[: 1 if missing else 2], ENVIRONMENT)  # peers are asked only when nothing is missing
    hosts[0].run("sh", "-c", command)
    expected = {"missing": missing, "foreign": foreign}
    found = report(hosts[0], 1)
    hosts[0].run("nft", "flush", "set", "inet", "hpcnet", "vtep")  # Epilog takes away what Prolog added
    assert found == {key: sorted(value) for key, value in expected.items() if value}


def test_a_filter_without_its_rules_is_shown_for_a_job_without_peers_too(hosts: list[Host]) -> None:
    built(hosts[:1], job_environment(LEASE, "n1"))
    hosts[0].run("nft", "add rule inet hpcnet input accept; flush chain inet hpcnet forward")
    lost = ['filter rule iifname "hpcvx*" drop', 'filter rule oifname "ib0" udp dport 4789 drop']
    assert report(hosts[0], 1) == {"missing": lost[::-1], "foreign": ["filter rule accept"]}
    hosts[0].run("nft", "delete", "table", "inet", "hpcnet")
    assert report(hosts[0], 1) == {"missing": ["filter table inet hpcnet"]}
    hosts[0].hpcnet("filter", "load")
    assert report(hosts[0], 0) == {}


def test_all_is_missing_when_the_namespace_is_gone(hosts: list[Host]) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].run("sh", "-c", "ip -n hpcnet-17 link del hpcvx; ip netns del hpcnet-17")
    found = report(hosts[0], 1)
    assert list(found) == ["missing"]
    assert len(str(found["missing"]).split(", ")) == 8


def test_what_a_job_learned_by_itself_is_not_foreign(hosts: list[Host]) -> None:
    built(hosts[:2], ENVIRONMENT)
    hosts[0].in_job(17, "ping", "-c1", "-W0.1", "-q", "10.128.0.40", check=False)  # an unknown neighbour
    hosts[0].run(
        "bridge",
        "-n",
        "hpcnet-17",
        "fdb",
        "add",
        "02:00:00:00:00:07",
        "dev",
        "hpcvx",
        "dst",
        "172.31.0.2",
        "dynamic",
    )
    assert report(hosts[0], 0) == {}


def test_a_peer_without_the_network_is_silent(hosts: list[Host]) -> None:
    built(hosts[:2], job_environment(LEASE, "n[1-3]"))
    assert report(hosts[0], 1) == {"silent": ["n3"]}


def test_a_hop_that_is_too_small_makes_the_peer_behind_it_silent(fabric: Fabric, hosts: list[Host]) -> None:
    built(hosts, job_environment(LEASE, "n[1-3]"))
    fabric.switch.run("ip", "link", "set", "p2", "mtu", "9000")
    try:
        hosts[0].in_job(17, "ping", "-c1", "-W1", "-q", "10.128.0.2")
        assert report(hosts[0], 1) == {"silent": ["n2"]}
    finally:
        fabric.switch.run("ip", "link", "set", "p2", "mtu", "65520")
        fabric.switch.run("ip", "link", "set", "fabric", "mtu", "65520")


def test_a_network_of_an_earlier_boot_is_said_to_be_one(hosts: list[Host]) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].write("/run/boot_id", "11111111-2222-3333-4444-555555555555\n")
    hosts[0].run("mount", "--bind", "/run/boot_id", "/proc/sys/kernel/random/boot_id")
    try:
        assert "before this node was booted" in str(report(hosts[0], 1)["problem"])
    finally:
        hosts[0].run("umount", "/proc/sys/kernel/random/boot_id")


def test_a_prolog_after_a_reboot_builds_anew(hosts: list[Host]) -> None:
    hosts[0].write("/run/boot_id", "11111111-2222-3333-4444-555555555555\n")
    hosts[0].run("mount", "--bind", "/run/boot_id", "/proc/sys/kernel/random/boot_id")
    built(hosts[:2], ENVIRONMENT)
    hosts[0].run("umount", "/proc/sys/kernel/random/boot_id")
    built(hosts[:1], ENVIRONMENT)
    assert report(hosts[0], 0) == {}


def test_a_refused_job_says_why(hosts: list[Host]) -> None:
    hosts[0].hook("prolog", job_environment(None, "n[1-2]"))
    assert "refused: the controller gave it no lease" in str(report(hosts[0], 1)["problem"])


def test_a_network_without_a_journal_says_so(hosts: list[Host]) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].run("rm", "/run/hpcnet/jobs/17/journal")
    assert report(hosts[0], 1) == {"problem": "no journal of this job on this node"}


def test_one_job_of_two_can_be_checked(hosts: list[Host]) -> None:
    built(hosts[:2], ENVIRONMENT)
    built(hosts[:1], job_environment(lease_of(1), "n1", 18))
    hosts[0].run("ip", "-n", "hpcnet-18", "link", "set", "hpcvx", "down")
    assert hosts[0].hpcnet("check", "17").stdout == "job 17: ok\n"
    assert hosts[0].hpcnet("check", "18").returncode == 1
