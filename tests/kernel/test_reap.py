# SPDX-License-Identifier: Apache-2.0
"""Cleanup on one node, with Slurm's commands standing in: everything of a dead job goes, and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.kernel.hosts import (
    Host,
    SlowNft,
    built,
    ended,
    job_environment,
    lease_of,
    require_root,
    wait_for,
)
from tests.kernel.test_remove import JOURNAL, LOST

require_root()
pytestmark = pytest.mark.kernel

HPCNET = (sys.executable, "-I", "-m", "hpcnet")
ENVIRONMENT = job_environment(lease_of(), "n[1-3]")
DIRECT = job_environment(replace(lease_of(), mode="direct", vni=0, shared=True), "n[1-3]")
SHARED = "[direct]\nallow_shared = true\n"
_SQUEUE = """#!/bin/sh
[ ! -e /run/slurm/silent ] || { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }
cat /run/slurm/jobs
"""
_SCONTROL = """#!/bin/sh
echo 'ClusterName             = lab'
"""


class Slurmctld:
    """What squeue and scontrol say on one host: the only false thing here."""

    def __init__(self, host: Host) -> None:
        self._host = host
        host.run("mkdir", "-p", "/run/slurm")
        for name, text in (("squeue", _SQUEUE), ("scontrol", _SCONTROL)):
            host.write(f"/run/slurm/{name}", text)
        host.run("sh", "-c", "chmod +x /run/slurm/*")
        self.has()
        for name in ("squeue", "scontrol"):
            host.run("mount", "--bind", f"/run/slurm/{name}", f"/usr/bin/{name}")

    def has(self, *lines: str) -> None:
        """Jobs that have nodes: ``17 RUNNING n[1-2]``."""
        self._host.write("/run/slurm/jobs", "".join(f"{line}\n" for line in lines))

    def silent(self) -> None:
        """It does not answer any more."""
        self._host.run("touch", "/run/slurm/silent")

    def close(self) -> None:
        """Slurm's own commands again."""
        self._host.run("sh", "-c", "umount /usr/bin/squeue /usr/bin/scontrol; rm -r /run/slurm")


@pytest.fixture
def slurmctld(hosts: list[Host]) -> Iterator[Slurmctld]:
    made = Slurmctld(hosts[0])
    yield made
    made.close()


def cleanup(host: Host, *options: str, code: int = 0, min_age: int = 0) -> dict[str, Any]:
    """The JSON report."""
    done = host.hpcnet("cleanup", "--json", "--min-age", str(min_age), *options)
    assert done.returncode == code, done.stderr + done.stdout
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def only(report: dict[str, Any]) -> dict[str, Any]:
    [network] = report["networks"]
    assert isinstance(network, dict)
    return network


LEFTOVERS = {
    "all of it": "true",
    "device gone": "ip -n hpcnet-17 link del hpcvx",
    "pin gone": "ip netns del hpcnet-17",
    "entries only": "rm -r /run/hpcnet/jobs/17; ip netns del hpcnet-17",
    "refusal only": "rm -r /run/hpcnet/jobs/17/*; ip netns del hpcnet-17; echo no > /run/hpcnet/jobs/17/refused",
    "an older version's journal": f'sed -i \'s/"uid"/"colour": 5, "uid"/\' {JOURNAL}',
    "wrong types": f'sed -i \'s/"vni": [0-9]*/"vni": [5]/\' {JOURNAL}',
    **LOST,
}


@pytest.mark.usefixtures("slurmctld")
@pytest.mark.parametrize("how", LEFTOVERS)
def test_a_dry_run_shows_and_cleanup_removes(hosts: list[Host], pristine: list[dict[str, str]], how: str) -> None:
    host = hosts[0]
    built(hosts[:1], ENVIRONMENT)
    host.run("sh", "-c", LEFTOVERS[how])
    before = host.state()
    planned = cleanup(host, "--dry-run", code=1)
    assert host.state() == before
    done = cleanup(host)
    assert host.state() == pristine[0]
    assert [network["done"] for network in planned["networks"]] == ["found"] * len(planned["networks"])
    assert [network["done"] for network in done["networks"]] == ["removed"] * len(planned["networks"])
    assert planned["networks"] or planned["filter"]
    assert cleanup(host)["networks"] == []


ORPHANS = {
    "element": "rm /run/hpcnet/tracked",
    "connections": "nft delete table inet hpcnet_egress",
    "both": "true",
}


@pytest.mark.parametrize("how", ORPHANS)
def test_a_way_out_of_which_nothing_else_is_left(
    hosts: list[Host], slurmctld: Slurmctld, pristine: list[dict[str, str]], how: str
) -> None:
    """With a live job beside it, and without; the last one takes the table along."""
    host = hosts[0]
    for index, job_id in enumerate((17, 18)):
        lease = replace(lease_of(index), egress="host")
        built([host], job_environment(lease, "n1", job_id))
    host.run("sh", "-c", f"rm -r /run/hpcnet/jobs/17; ip netns del hpcnet-17; {ORPHANS[how]}")
    wait_for(lambda: "hpce17" not in host.run("ip", "-br", "link").stdout, "the link stays")
    slurmctld.has("18 RUNNING n1")
    planned = {network["job_id"]: network for network in cleanup(host, "--dry-run", code=1)["networks"]}
    assert planned[17]["done"] == "found" and planned[18]["kind"] == "live"
    assert planned[17]["what"] == ["the way out by hpce17 in table hpcnet_egress"]
    cleanup(host)
    assert "hpce17" not in host.run("nft", "list", "ruleset").stdout
    slurmctld.has()
    cleanup(host)
    assert host.state() == pristine[0]


@pytest.mark.usefixtures("slurmctld")
@pytest.mark.parametrize("journal", ["kept", "lost"])
@pytest.mark.parametrize("mode", ["vxlan", "direct"])
def test_a_namespace_without_a_pin_that_a_process_keeps_loses_its_devices(
    hosts: list[Host], pristine: list[dict[str, str]], mode: str, journal: str
) -> None:
    host = hosts[0]
    host.configure(SHARED)
    built([host], ENVIRONMENT if mode == "vxlan" else DIRECT)
    left = host.start_in_job(17, "sh", "-c", "echo ready; read word; ip -br link")
    assert left.stdout is not None and left.stdout.readline() == "ready\n"
    host.run("ip", "netns", "del", "hpcnet-17")
    if journal == "lost":
        host.run("rm", "-r", "/run/hpcnet/jobs/17")
    network = only(cleanup(host))
    assert network["serial"] == 100 and network["cluster"] == "lab"
    assert host.state() == pristine[0]
    out, _ = left.communicate("go on\n", timeout=60)
    assert [line.split()[0] for line in out.splitlines()] == ["lo"]


def test_epilog_finds_the_devices_in_a_namespace_without_a_pin(
    hosts: list[Host], pristine: list[dict[str, str]]
) -> None:
    built(hosts[:1], ENVIRONMENT)
    left = hosts[0].start_in_job(17, "sh", "-c", "echo ready; read word; ip -br link")
    assert left.stdout is not None and left.stdout.readline() == "ready\n"
    hosts[0].run("ip", "netns", "del", "hpcnet-17")
    assert hosts[0].hook("epilog", {"SLURM_JOB_ID": "17"}).returncode == 0
    out, _ = left.communicate("go on\n", timeout=60)
    assert [line.split()[0] for line in out.splitlines()] == ["lo"]
    assert hosts[0].state() == pristine[0]


def test_another_hosts_job_of_the_same_name_is_not_touched(hosts: list[Host], slurmctld: Slurmctld) -> None:
    """Hosts that share a process table see each other's namespaces."""
    built(hosts[:2], ENVIRONMENT)
    theirs = hosts[1].start_in_job(17, "sh", "-c", "echo ready; read word; ip -br link")
    assert theirs.stdout is not None and theirs.stdout.readline() == "ready\n"
    cleanup(hosts[0])
    cleanup(hosts[0])
    hosts[0].hook("epilog", ENVIRONMENT)
    out, _ = theirs.communicate("go on\n", timeout=60)
    assert {line.split("@")[0].split()[0] for line in out.splitlines()} == {"lo", "hpcvx", "hpc0"}


def test_a_stray_in_the_hosts_namespace_is_removed_and_a_foreign_one_stays(
    hosts: list[Host], slurmctld: Slurmctld, pristine: list[dict[str, str]]
) -> None:
    host = hosts[0]
    script = (
        "for name in hpc0 hpcvx0 hpc7 theirs; do ip link add $name type bridge; done\n"
        "ip link set hpc0 group 6844526; ip link set hpc0 alias hpcnet:lab:17:100\n"  # ours
        "ip link set hpcvx0 alias hpcnet:lab:17:100\n"  # no group
        "ip link set hpc7 group 6844526\n"  # no alias
        "ip link set theirs group 6844526; ip link set theirs alias hpcnet:17"  # no alias of ours
    )
    host.run("sh", "-c", script)
    network = only(cleanup(host))
    left = {name for name in ("hpc0", "hpcvx0", "hpc7", "theirs") if name in host.run("ip", "-br", "link").stdout}
    host.run("sh", "-c", "for name in hpcvx0 hpc7 theirs; do ip link del $name; done")
    assert network["what"] == ["the host's namespace: hpc0"] and network["done"] == "removed"
    assert left == {"hpcvx0", "hpc7", "theirs"}


FOREIGN = {
    "empty": "true",
    "with a device": "ip -n hpcnet-17 link add veth7 type veth peer name veth8",
    "with a device called as ours": "ip -n hpcnet-17 link add hpc0 type bridge",
    "with a device and a directory": (
        "ip -n hpcnet-17 link add veth7 type veth peer name veth8; mkdir /run/hpcnet/jobs/17"
    ),
    "with another job's device": (
        "ip -n hpcnet-17 link add hpc0 group 6844526 type bridge; mkdir /run/hpcnet/jobs/17;"
        "ip -n hpcnet-17 link set hpc0 alias hpcnet:lab:18:100"
    ),
}


@pytest.mark.usefixtures("slurmctld")
@pytest.mark.parametrize("how", FOREIGN)
def test_a_foreign_namespace_of_our_name_stays(hosts: list[Host], how: str) -> None:
    host = hosts[0]
    host.run("sh", "-c", f"ip netns add hpcnet-17; {FOREIGN[how]}")
    before = host.lines("ip -d addr; sysctl -a -r '^net'", 17)
    report = cleanup(host)
    after = host.lines("ip -d addr; sysctl -a -r '^net'", 17)
    host.run("sh", "-c", "ip netns del hpcnet-17; rm -rf /run/hpcnet/jobs/17")
    kinds = {network["job_id"]: network["kind"] for network in report["networks"]}
    assert kinds[17] == "foreign"
    assert after == before


def test_a_live_jobs_network_stays(hosts: list[Host], slurmctld: Slurmctld) -> None:
    built(hosts[:1], ENVIRONMENT)
    before = hosts[0].state()
    for line in ("17 RUNNING n[1-3]", "17 COMPLETING n1", "17 CONFIGURING"):
        slurmctld.has(line)
        assert only(cleanup(hosts[0]))["kind"] == "live"
    slurmctld.has("17 RUNNING n[2-3]")
    assert only(cleanup(hosts[0], "--dry-run", code=1))["reason"].startswith("Slurm has the job on other nodes")
    assert hosts[0].state() == before


def test_without_slurmctld_everything_stays_and_the_exit_code_says_so(
    hosts: list[Host], slurmctld: Slurmctld
) -> None:
    built(hosts[:1], ENVIRONMENT)
    before = hosts[0].state()
    slurmctld.silent()
    network = only(cleanup(hosts[0], code=3))
    assert network["done"] == "kept"
    assert "cannot reach slurmctld" in network["reason"] and "Unable to contact" in network["reason"]
    assert len(network["reason"].splitlines()) == 1
    assert hosts[0].state() == before


def test_what_an_earlier_boot_left_needs_no_slurmctld(
    hosts: list[Host], slurmctld: Slurmctld, pristine: list[dict[str, str]]
) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].run("sh", "-c", f'sed -i \'s/"boot_id": "[^"]*"/"boot_id": "older"/\' {JOURNAL}')
    slurmctld.silent()
    assert only(cleanup(hosts[0], "--boot"))["done"] == "kept"  # the kernel has it, so it is of this boot
    hosts[0].run("sh", "-c", "ip netns del hpcnet-17; nft flush set inet hpcnet vtep")
    assert only(cleanup(hosts[0], "--boot", min_age=60))["done"] == "removed"
    assert hosts[0].state() == pristine[0]


def test_a_young_network_stays(hosts: list[Host], slurmctld: Slurmctld) -> None:
    built(hosts[:1], ENVIRONMENT)
    assert only(cleanup(hosts[0], min_age=3600))["kind"] == "young"
    hosts[0].run("sh", "-c", "rm -r /run/hpcnet/jobs/17")
    assert only(cleanup(hosts[0], min_age=3600))["kind"] == "young"  # by its namespace


def test_another_clusters_network_stays(hosts: list[Host], slurmctld: Slurmctld) -> None:
    built(hosts[:1], {**ENVIRONMENT, "SLURM_CLUSTER_NAME": "west"})
    assert "of cluster west" in only(cleanup(hosts[0], code=3))["reason"]


def test_one_jobs_network_only(hosts: list[Host], slurmctld: Slurmctld) -> None:
    built(hosts[:1], ENVIRONMENT)
    built(hosts[:1], job_environment(lease_of(5), "n[1-2]", 25))
    assert only(cleanup(hosts[0], "--job", "25"))["done"] == "removed"
    assert hosts[0].jobs() == [17]
    assert hosts[0].run("nft", "list", "set", "inet", "hpcnet", "vtep").stdout.count("172.31.0") == 2


def test_a_prolog_at_work_is_not_disturbed(hosts: list[Host], slurmctld: Slurmctld, slow_nft: SlowNft) -> None:
    """Slurm does not even know the job: the lock alone keeps its network."""
    host = hosts[0]
    slow_nft.hold()
    prolog = host.start_hook("prolog", ENVIRONMENT)
    slow_nft.wait_until_called()
    network = only(cleanup(host))
    slow_nft.go_on()
    assert ended(prolog)[0] == 0
    assert network["done"] == "kept" and "Prolog or Epilog is at work" in network["reason"]
    host.in_job(17, "ip", "link", "show", "hpc0")
    assert host.hpcnet("check", "17").stdout.splitlines()[1:] in (
        [],
        ["  silent  n2", "  silent  n3"],
    )


def test_a_network_that_was_replaced_while_the_lock_was_waited_for_stays(
    hosts: list[Host], slurmctld: Slurmctld, slow_nft: SlowNft
) -> None:
    host = hosts[0]
    built([host], ENVIRONMENT)
    slow_nft.hold()
    prolog = host.start_hook("prolog", job_environment(lease_of(serial=900, vni=6815900), "n[1-3]"))
    slow_nft.wait_until_called()  # by the removal of the older one, the lock held
    cleaning = host.start(*HPCNET, "cleanup", "--json", "--min-age", "0", "--job", "17")
    wait_for(
        lambda: cleaning.poll() is not None or _tries_the_lock(cleaning.pid), "cleanup does not get to the lock"
    )
    slow_nft.go_on()
    assert ended(prolog)[0] == 0
    out, _ = cleaning.communicate(timeout=30)
    network = only(json.loads(out))
    assert (network["done"], network["reason"]) == ("kept", "it has changed since it was judged")
    host.in_job(17, "ip", "link", "show", "hpc0")


def _tries_the_lock(process: int) -> bool:
    """Whether it has the lock's file open."""
    try:
        return any(
            os.readlink(f"/proc/{process}/fd/{name}").endswith("/hpcnet/lock")
            for name in os.listdir(f"/proc/{process}/fd")
        )
    except OSError:
        return False


def test_two_cleanups_at_once_remove_everything_once(
    hosts: list[Host], slurmctld: Slurmctld, pristine: list[dict[str, str]]
) -> None:
    host = hosts[0]
    for index in range(4):
        built([host], job_environment(lease_of(index), "n[1-2]", 17 + index))
    command = (*HPCNET, "cleanup", "--json", "--min-age", "0")
    both = [host.start(*command) for _ in range(2)]
    reports = []
    for process in both:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors + out
        reports.append(json.loads(out))
    removed = [n["job_id"] for report in reports for n in report["networks"] if n["done"] == "removed"]
    assert sorted(removed) == [17, 18, 19, 20]
    assert host.state() == pristine[0]


def test_cleanup_is_roots(hosts: list[Host]) -> None:
    done = hosts[0].run("setpriv", "--reuid=65534", *HPCNET, "cleanup", check=False)
    assert done.returncode == 3 and "run it as root" in done.stderr
