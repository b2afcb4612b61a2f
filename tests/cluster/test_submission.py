# SPDX-License-Identifier: Apache-2.0
"""Every way into a job, and every way out of it."""

from __future__ import annotations

import re

import pytest

from tests.cluster.cluster import Cluster, eventually

pytestmark = pytest.mark.cluster

_ADDRESS = "ip -o -4 addr show hpc0 | grep -o 10.128.*/.."
"""Prints the address of the task's interface; free of quotes, to stand in any."""


def is_address(line: str) -> bool:
    """Whether a line is an address of the pool with its prefix."""
    return re.fullmatch(r"10\.128\.\d+\.\d+/\d+", line) is not None


def test_srun(cluster: Cluster) -> None:
    assert all(map(is_address, cluster.srun("-N3", "--network=ib", "sh", "-c", _ADDRESS)))


def test_sbatch_with_the_option_on_the_command_line(cluster: Cluster) -> None:
    job = cluster.sbatch(f"srun sh -c '{_ADDRESS}'", "--network=ib", "-N2")
    assert cluster.finished(job) == "COMPLETED"
    lines = cluster.output(job).splitlines()
    assert len(lines) == 2 and all(map(is_address, lines))


def test_sbatch_with_the_option_in_the_script(cluster: Cluster) -> None:
    script = f"#!/bin/sh\n#SBATCH --network=ib,mtu=4000\n#SBATCH --nodes=2\nsrun sh -c '{_ADDRESS}'\n"
    job = cluster.sbatch(script)
    assert cluster.finished(job) == "COMPLETED"
    lines = cluster.output(job).splitlines()
    assert len(lines) == 2 and all(map(is_address, lines)), lines


def test_salloc(cluster: Cluster) -> None:
    done = cluster.run("salloc", "-N2", "--network=ib", "srun", "sh", "-c", _ADDRESS)
    assert len(done.stdout.splitlines()) == 2 and all(map(is_address, done.stdout.splitlines()))


def test_sallocs_shell_on_the_node_stays_in_the_hosts_network(cluster: Cluster) -> None:
    # the interactive step is srun --interactive --pty; its shell reads from here
    words = "ip -c=never -o link; srun ip -o link; exit\n"
    done = cluster.run("salloc", "-N1", "--network=ib,egress=none", stdin=words)
    seen = [
        line.split(":")[1].strip().partition("@")[0]
        for line in done.stdout.splitlines()
        if re.match(r"\d+: ", line)
    ]
    assert seen == ["lo", "eth0", "ib0", "lo", "hpcvx", "hpc0"]


def test_tasks_of_an_array_on_one_node_have_networks_of_their_own(cluster: Cluster) -> None:
    script = f"srun sh -c '{_ADDRESS}'; sleep 2"
    job = cluster.sbatch(script, "--network=ib", "--array=1-3", "-w", "n1")
    eventually("three tasks run", lambda: len(cluster.root("n1", "ls", "/run/hpcnet/jobs").split()) == 3)
    assert cluster.root("n1", "ip", "netns").count("hpcnet-") == 3
    states = {cluster.finished(f"{job}_{task}") for task in (1, 2, 3)}
    assert states == {"COMPLETED"}
    found = [cluster.output(job, str(task)).strip() for task in (1, 2, 3)]
    assert all(map(is_address, found)) and len(set(found)) == 3
    for task in (1, 2, 3):
        assert cluster.words(f"{job}_{task}").startswith("hpcnet:lease:")


def test_a_requeued_job_gets_a_new_lease_and_runs_again(cluster: Cluster) -> None:
    script = (
        f"echo run $SLURM_RESTART_COUNT; srun -N1 -n1 sh -c '{_ADDRESS}'; [ $SLURM_RESTART_COUNT ] || sleep 60"
    )
    job = cluster.sbatch(
        script, "--network=ib", "-N2", "--requeue", "--comment=my own words", "--open-mode=append"
    )
    eventually("the first run has its address", lambda: "10.128" in cluster.output(job))
    first = cluster.lease(job)
    cluster.run("scontrol", "requeue", str(job))
    # Slurm lets it begin when the first run's credential has expired, two minutes later.
    assert cluster.finished(job, 180) == "COMPLETED"
    second = cluster.lease(job)
    assert second["serial"] > first["serial"] and second["vni"] != first["vni"]
    record = cluster.record(job)
    assert record["Restarts"] == "1"
    words = cluster.words(job)
    assert words.startswith("my own words hpcnet:lease:") and words.count("hpcnet:") == 1


def test_no_requeue(cluster: Cluster) -> None:
    job = cluster.sbatch("srun true", "--network=ib", "-N2", "--no-requeue")
    assert cluster.finished(job) == "COMPLETED"


def test_scancel_while_running(cluster: Cluster) -> None:
    job = cluster.sbatch("srun sleep 60", "--network=ib", "-N3")
    eventually("its step runs", lambda: f"{job}.0" in cluster.root("ctl", "squeue", "-s", "-h", "-o", "%i"))
    cluster.run("scancel", str(job))
    assert cluster.finished(job) == "CANCELLED"


@pytest.mark.parametrize("wait", ["0", "0.02", "0.05", "0.1", "0.2"])
def test_scancel_while_starting(cluster: Cluster, wait: str) -> None:
    submit = "sbatch --parsable -o /dev/null -N3 --network=ib --wrap 'srun sleep 60'"
    submit = f"job=$({submit}); sleep {wait}; scancel $job; echo $job"
    job = int(cluster.run("bash", "-c", submit).stdout)
    assert cluster.finished(job) == "CANCELLED"


def test_the_network_outlives_a_restart_of_slurmd(cluster: Cluster) -> None:
    job = cluster.sbatch("sleep 8; srun ping -c1 -W2 -q n1", "--network=ib", "-w", "n[1-2]", "-N2")
    eventually("it is built", lambda: f"hpcnet-{job}" in cluster.root("n2", "ip", "netns"))
    cluster.lab.restart("slurmd", "n2")
    assert cluster.finished(job) == "COMPLETED", cluster.output(job)
