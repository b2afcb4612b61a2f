# SPDX-License-Identifier: Apache-2.0
"""Leases on a real controller: full pools, restarts, a lost store, many jobs at once."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from tests.cluster.cluster import Cluster, eventually

pytestmark = pytest.mark.cluster

_FIRST = 6815744


@pytest.fixture
def pool_of_two(cluster: Cluster) -> Iterator[Cluster]:
    """A site with two networks, and two licences for them."""
    cluster.lab.configure(slurm={"Licenses": "hpcnet:2"}, hpcnet={"pool": {"vni": [_FIRST, _FIRST + 1]}})
    yield cluster
    cluster.settle()
    cluster.lab.configure()


def test_five_jobs_and_two_networks_three_wait_and_none_dies(pool_of_two: Cluster) -> None:
    cluster = pool_of_two
    script = "srun -N1 -n1 ip -o link show hpc0 > /dev/null && echo joined; sleep 3"
    jobs = [cluster.sbatch(script, "--network=ib", "--no-requeue", "-w", "n[1-2]") for _ in range(5)]
    eventually("two of them run", lambda: sum(cluster.state_of(job) == "RUNNING" for job in jobs) == 2)
    waiting = [cluster.record(job) for job in jobs if cluster.state_of(job) == "PENDING"]
    assert len(waiting) == 3
    assert all(record["Licenses"] == "hpcnet:1" for record in waiting)
    eventually("Slurm says why", lambda: any(cluster.record(job)["Reason"] == "Licenses" for job in jobs))
    assert [cluster.finished(job, 120) for job in jobs] == ["COMPLETED"] * 5
    assert [cluster.output(job) for job in jobs] == ["joined\n"] * 5
    vnis = [cluster.lease(job)["vni"] for job in jobs]
    assert set(vnis) == {_FIRST, _FIRST + 1}


def test_a_full_pool_without_licences_refuses_with_its_reason(pool_of_two: Cluster) -> None:
    cluster = pool_of_two
    settings: dict[str, dict[str, object]] = {
        "pool": {"vni": [_FIRST, _FIRST], "wait": 1},
        "submit": {"licence": ""},
    }
    cluster.lab.configure(hpcnet=settings)
    cluster.hold("--network=ib")
    done = cluster.run("srun", "--network=ib", "echo", "ran", check=False)
    assert done.returncode != 0 and "ran" not in done.stdout
    assert "gets no network, so it does not start: all 1 networks of the pool are held" in done.stderr


def test_a_job_larger_than_the_pool_is_told_so(cluster: Cluster) -> None:
    cluster.lab.configure(hpcnet={"pool": {"ipv4": "10.128.0.0/28"}})
    try:
        done = cluster.run("srun", "-N3", "--network=ib,endpoints=8", "true", check=False)
        assert done.returncode != 0
        assert (
            "3 nodes with 8 endpoints each need an IPv4 /26, but the pool is 10.128.0.0/28 in all" in done.stderr
        )
    finally:
        cluster.settle()
        cluster.lab.configure()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_slurmctld_restarted_in_the_middle(cluster: Cluster, number: int) -> None:
    script = "echo started; sleep 15; srun ping -c1 -W2 -q n1 > /dev/null && echo reached"
    job = cluster.sbatch(script, "--network=ib", "-N2", "-w", "n[1-2]", "--no-requeue")
    eventually("it runs", lambda: "started" in cluster.output(job))
    before = cluster.lease(job)
    # slurmctld saves its state every few seconds; what it has not saved when it is killed is Slurm's loss
    marker = "/var/spool/slurmctld/marker"
    cluster.root("ctl", "touch", marker)
    saved = ("find", "/var/spool/slurmctld/job_state", "-newer", marker)
    eventually("slurmctld has saved the job", lambda: cluster.root("ctl", *saved, check=False))
    cluster.lab.restart("slurmctld", number=number)
    assert cluster.lease(job) == before
    assert cluster.finished(job) == "COMPLETED", cluster.output(job)
    assert cluster.output(job) == "started\nreached\n"


def test_slurmctld_restarted_while_a_lease_is_made(cluster: Cluster) -> None:
    job = cluster.sbatch("srun -N1 -n1 true && echo joined", "--network=ib", "-N3")
    cluster.lab.restart("slurmctld")
    assert cluster.finished(job) == "COMPLETED", cluster.output(job)
    assert cluster.output(job) == "joined\n"


def test_a_lost_store_is_made_anew_from_the_job_records(cluster: Cluster) -> None:
    first = cluster.hold("--network=ib", "-w", "n1")
    before = cluster.log("ctl")
    cluster.root("ctl", "rm", "/var/spool/slurmctld/hpcnet.sqlite")
    second = cluster.hold("--network=ib", "-w", "n1")
    assert cluster.lease(first)["vni"] != cluster.lease(second)["vni"]
    assert cluster.lease(second)["serial"] > cluster.lease(first)["serial"]
    networks = [IPv4Network(cluster.lease(job)["ipv4"]) for job in (first, second)]
    assert not networks[0].overlaps(networks[1])
    said = cluster.log("ctl")[len(before) :]
    [restored] = re.findall(r"made anew; leases restored from job records: (\d+)", said)
    assert int(restored) >= 1


def test_forty_jobs_at_once_have_forty_networks(cluster: Cluster) -> None:
    submit = (
        "sbatch --parsable -o /dev/null -N2 --network=ib --wrap 'srun -N2 ping -c1 -W5 -q $(hostname); sleep 1'"
    )
    jobs = [
        int(line) for line in cluster.run("bash", "-c", f"for i in $(seq 40); do {submit}; done").stdout.split()
    ]
    assert [cluster.finished(job, 240) for job in jobs] == ["COMPLETED"] * 40
    shown = json.loads(cluster.run("hpcnet", "list", "--all", "--json").stdout)
    leases = [entry["lease"] for entry in shown if entry["job"] in jobs]
    assert len({lease["serial"] for lease in leases}) == 40
    assert len({lease["vni"] for lease in leases}) == 40


def test_the_lease_of_a_lost_node_rests_until_the_node_has_booted(pool_of_two: Cluster) -> None:
    cluster = pool_of_two
    cluster.lab.configure(hpcnet={"pool": {"vni": [_FIRST, _FIRST + 1], "wait": 1}, "submit": {"licence": ""}})
    lost = cluster.hold("--network=ib", "-w", "n[2-3]", "--no-requeue")
    cluster.lab.power_off("n3")
    cluster.root("ctl", "scontrol", "update", "nodename=n3", "state=down", "reason=test")
    try:
        assert cluster.finished(lost) == "NODE_FAIL"
        other = cluster.hold("--network=ib", "-w", "n1")
        assert cluster.lease(other)["vni"] != cluster.lease(lost)["vni"]
        done = cluster.run("srun", "-w", "n1", "--network=ib", "echo", "ran", check=False)
        assert "ran" not in done.stdout and "all 2 networks of the pool are held" in done.stderr
        cluster.reboot("n3")
        assert cluster.srun("-w", "n1", "--network=ib", "echo", "ran") == ["ran"]
    finally:
        cluster.settle(idle=("n1", "n2"))
        cluster.root("ctl", "scontrol", "update", "nodename=n3", "state=resume", check=False)
        cluster.lab.configure()
        cluster.load_filter("n3")


def test_list_and_show_as_any_user(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib,mtu=9000", "-N2", "-w", "n[1-2]")
    listed = [line.split() for line in cluster.run("hpcnet", "list", user="bob").stdout.splitlines()]
    lease = cluster.lease(job)
    assert listed[0] == ["JOB", "USER", "STATE", "MODE", "VNI", "SUBNET", "MTU", "NODES"]
    assert [str(job), "alice", "RUNNING", "vxlan", str(lease["vni"]), lease["ipv4"], "9000", "n[1-2]"] in listed
    shown = json.loads(cluster.run("hpcnet", "show", str(job), "--json", user="bob").stdout)
    assert [entry["node"] for entry in shown["addresses"]] == ["n1", "n2"]
    assert shown["asked"] == "ib,mtu=9000"
    assert cluster.run("hpcnet", "show", "999999", check=False).returncode == 1


def test_commands_without_slurmctld_say_so(cluster: Cluster) -> None:
    cluster.lab.stop_daemon("ctl", "slurmctld")
    try:
        done = cluster.run("hpcnet", "list", check=False)
        assert done.returncode == 3
        assert re.fullmatch(r"hpcnet: .*(slurmctld|slurm controller).*\n", done.stderr)
    finally:
        cluster.lab.start_daemon("ctl", "slurmctld")
        cluster.lab.await_idle()
