# SPDX-License-Identifier: Apache-2.0
"""What stands where a job's network should: another run's is replaced, what is not hpcnet's is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.kernel.hosts import (
    Host,
    built,
    job_environment,
    lease_of,
    plan_of,
    removed,
    require_root,
)

require_root()
pytestmark = pytest.mark.kernel

ENVIRONMENT = job_environment(lease_of(), "n[1-2]")
PIN = "/run/netns/hpcnet-17"


def node_error(host: Host, environment: dict[str, str]) -> str:
    """The message of a Prolog that must drain its node and leave nothing of its job."""
    result = host.hook("prolog", environment)
    assert result.returncode == 1, result.stderr
    job = environment["SLURM_JOB_ID"]
    assert job not in host.run("ls", "/run/hpcnet/jobs").stdout.split()
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 900},
        {"serial": 900, "vni": 6815900},
        {"serial": 900, "vni": 6815900, "endpoints": 4, "mtu": 9000},
    ],
)
@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_another_run_of_the_job_replaces_the_network_of_the_one_before(
    hosts: list[Host], changes: dict[str, int], journal: str
) -> None:
    new = job_environment(lease_of(**changes), "n[1-2]")
    built(hosts[:1], new)
    expected = hosts[0].state(), hosts[0].lines("ip neigh; bridge fdb", 17)
    removed(hosts[:1], new)
    built(hosts[:1], job_environment(lease_of(endpoints=8), "n[1-3]"))
    if journal == "lost":
        hosts[0].run("rm", "/run/hpcnet/jobs/17/journal")
    built(hosts[:1], new)
    assert (hosts[0].state(), hosts[0].lines("ip neigh; bridge fdb", 17)) == expected


def test_a_network_over_other_nodes_is_replaced(hosts: list[Host]) -> None:
    built(hosts[:1], ENVIRONMENT)
    expected = hosts[0].state(), hosts[0].lines("ip neigh; bridge fdb", 17)
    removed(hosts[:1], ENVIRONMENT)
    built(hosts[:1], job_environment(lease_of(), "n[1-3]"))
    built(hosts[:1], ENVIRONMENT)
    assert (hosts[0].state(), hosts[0].lines("ip neigh; bridge fdb", 17)) == expected


def test_a_corrected_address_of_a_peer_leaves_nothing_of_the_wrong_one(hosts: list[Host]) -> None:
    built(hosts[:1], ENVIRONMENT)
    expected = hosts[0].state(), hosts[0].lines("bridge fdb", 17)
    removed(hosts[:1], ENVIRONMENT)
    hosts[0].configure('[fabric]\npeers_file = "/run/peers"')
    for address in ("172.31.0.77", "172.31.0.2"):
        hosts[0].write("/run/peers", f"172.31.0.1 n1-ib\n{address} n2-ib\n")
        built(hosts[:1], ENVIRONMENT)
    assert (hosts[0].state(), hosts[0].lines("bridge fdb", 17)) == expected


@pytest.fixture
def stranger(hosts: list[Host]) -> Iterator[Host]:
    """n1 with somebody else's namespace of our name."""
    hosts[0].run("ip", "netns", "add", "hpcnet-17")
    hosts[0].run("ip", "-n", "hpcnet-17", "link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
    yield hosts[0]
    hosts[0].run("ip", "netns", "del", "hpcnet-17")


@pytest.mark.parametrize("hooks", [("prolog",), ("prolog", "epilog"), ("epilog",)])
def test_a_namespace_of_our_name_with_a_foreign_device_is_left_untouched(
    stranger: Host, hooks: tuple[str, ...]
) -> None:
    before = stranger.state(), stranger.lines("ip -d addr; sysctl -a -r '^net'", 17)
    for hook in hooks:
        stranger.hook(hook, ENVIRONMENT)
    assert (stranger.state(), stranger.lines("ip -d addr; sysctl -a -r '^net'", 17)) == before


def test_a_refused_job_leaves_a_foreign_namespace_of_its_name_untouched(stranger: Host) -> None:
    before = stranger.lines("ip -d addr", 17)
    assert stranger.hook("prolog", job_environment(None, "n[1-2]")).returncode == 0
    assert stranger.lines("ip -d addr", 17) == before


def test_prolog_names_the_foreign_devices_and_drains_the_node(stranger: Host) -> None:
    message = node_error(stranger, ENVIRONMENT)
    assert "namespace hpcnet-17 on n1 holds veth7, veth8" in message or "holds veth8, veth7" in message


def test_epilog_names_the_foreign_devices_and_passes(stranger: Host) -> None:
    result = stranger.hook("epilog", ENVIRONMENT)
    assert result.returncode == 0
    assert "namespace hpcnet-17 holds veth" in result.stderr


def test_a_foreign_vxlan_with_our_devices_name_is_left_untouched(hosts: list[Host]) -> None:
    hosts[0].run("ip", "netns", "add", "hpcnet-17")
    vxlan = ("vxlan", "id", "6815744", "local", "172.31.0.1", "dev", "ib0", "dstport", "4789")
    hosts[0].run("ip", "link", "add", "hpcvx", "netns", "hpcnet-17", "type", *vxlan)
    assert "holds hpcvx" in node_error(hosts[0], ENVIRONMENT)
    assert hosts[0].in_job(17, "ip", "link", "show", "hpcvx").returncode == 0
    hosts[0].run("sh", "-c", "ip -n hpcnet-17 link del hpcvx; ip netns del hpcnet-17")


def test_a_regular_file_in_the_place_of_the_pin_is_replaced(hosts: list[Host]) -> None:
    hosts[0].run("touch", PIN)
    built(hosts[:1], ENVIRONMENT)
    removed(hosts[:1], ENVIRONMENT)
    assert hosts[0].run("ls", PIN, check=False).returncode != 0


def test_an_empty_namespace_of_our_name_is_adopted(hosts: list[Host]) -> None:
    hosts[0].run("ip", "netns", "add", "hpcnet-17")
    built(hosts[:2], ENVIRONMENT)
    hosts[0].in_job(17, "ping", "-c1", "-W1", "-q", "10.128.0.2")


def test_a_link_in_the_place_of_the_pin_leads_to_nobody_elses_namespace(hosts: list[Host]) -> None:
    hosts[0].run("ip", "netns", "add", "other")
    hosts[0].run("ln", "-s", "/run/netns/other", PIN)
    built(hosts[:1], ENVIRONMENT)
    other = hosts[0].run("ip", "-n", "other", "-br", "link").stdout
    removed(hosts[:1], ENVIRONMENT)
    assert [line.split()[0] for line in other.splitlines()] == ["lo"]
    assert hosts[0].run("ip", "netns", "exec", "other", "true").returncode == 0
    hosts[0].run("ip", "netns", "del", "other")


def test_a_vni_of_another_job_drains_the_node_and_leaves_that_job_as_it_was(hosts: list[Host]) -> None:
    theirs = lease_of(6)
    built(hosts[:2], job_environment(theirs, "n[1-2]", 26))
    before = hosts[0].state()
    ours = replace(lease_of(), vni=theirs.vni)
    message = node_error(hosts[0], job_environment(ours, "n[1-3]"))
    assert f"VNI {theirs.vni} is in use on n1 already" in message
    assert hosts[0].state() == before
    hosts[0].in_job(26, "ping", "-c1", "-W1", "-q", str(plan_of(theirs, 2, "n2").tasks.ipv4))


def test_a_vni_of_a_device_of_the_host_drains_the_node(hosts: list[Host]) -> None:
    hosts[0].run("ip", "link", "add", "theirs", "type", "vxlan", "id", "6815744", "dev", "ib0", "dstport", "4789")
    before = hosts[0].state()
    message = node_error(hosts[0], ENVIRONMENT)
    after = hosts[0].state()
    hosts[0].run("ip", "link", "del", "theirs")
    assert "VNI 6815744 is in use on n1 already, by a device that is not of this job" in message
    assert after == before
