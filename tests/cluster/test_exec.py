# SPDX-License-Identifier: Apache-2.0
"""``hpcnet exec``: into a job's network from outside, and who may not."""

from __future__ import annotations

import subprocess

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

SEES = ("sh", "-c", 'echo "$(hostname) $HPCNET_ADDRESS $(getent ahostsv4 n2 | head -1)"; ip -o link | cut -d: -f2')


def enter(
    cluster: Cluster, *words: str, user: str = "alice", on: str = "login"
) -> subprocess.CompletedProcess[str]:
    """``hpcnet exec`` with these words."""
    return cluster.run("hpcnet", "exec", *words, user=user, on=on, check=False)


def test_its_owner_by_a_step_and_root_on_the_node(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib,egress=none", "-w", "n[1-2]", "-N2")
    first = cluster.lease(job)["ipv4"].partition("/")[0].rsplit(".", 1)
    own, other = (f"{first[0]}.{int(first[1]) + rank}" for rank in (1, 2))
    seen = [f"n1 {own} {other}", "lo", "hpcvx", "hpc0"]
    for who, on in (("alice", "login"), ("alice", "n2"), ("root", "n1")):
        done = enter(cluster, str(job), "--node", "n1", "--", *SEES, user=who, on=on)
        lines = [" ".join(line.split()).partition("@")[0] for line in done.stdout.splitlines()]
        assert [line.replace(" STREAM n2", "") for line in lines] == seen, done.stderr
    assert enter(cluster, str(job), "--", "sh", "-c", "exit 7").returncode == 7
    assert enter(cluster, str(job), "--", "sh", "-c", "exit 7", user="root", on="n1").returncode == 7
    # a terminal, where there is one
    tty = f"script -qec 'hpcnet exec {job} -- tty' /dev/null"
    for user, on in (("alice", "login"), ("root", "n1")):
        # "in": script(1) may echo the end of its own input first
        assert "/dev/pts/" in cluster.run("sh", "-c", tty, user=user, on=on).stdout
    # a command is none of srun's options, whatever it is called
    odd = enter(cluster, str(job), "--", "-x", "n1")
    assert odd.returncode == 2 and "-x: No such file or directory" in odd.stderr


def test_from_the_batch_script(cluster: Cluster) -> None:
    inside = "hpcnet exec $SLURM_JOB_ID --node n2 -- sh -c 'hostname; cat /sys/class/net/hpc0/operstate'"
    job = cluster.sbatch(
        f"{inside}; hpcnet exec $SLURM_JOB_ID -- sh -c 'exit 7'", "--network=ib", "-w", "n[1-2]", "-N2"
    )
    assert cluster.finished(job) == "FAILED" and cluster.record(job)["ExitCode"] == "7:0"
    assert cluster.output(job).splitlines()[0] == "n2"


def test_what_cannot_be_entered_is_said_in_one_line(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-w", "n1")
    plain, outside = cluster.hold(), cluster.hold("--network=ib,join=none")
    for words, user, on, code, says in (
        ([str(job)], "bob", "login", 2, f"job {job} is alice's; only its owner may enter it"),
        ([str(job), "--node", "n3"], "alice", "login", 2, "node 'n3' is not among the job's nodes n1"),
        ([str(plain)], "alice", "login", 2, f"job {plain} has no network"),
        ([str(outside)], "alice", "login", 2, f"job {outside} has join=none"),
        ([str(job)], "root", "n2", 3, f"job {job} has no network on this host"),
        ([str(job), "--node", "n2"], "root", "n1", 2, "this is n1; as root, run it on n2 itself"),
        ([str(job), "--", "/no/such"], "root", "n1", 2, "/no/such: No such file or directory"),
        (["x"], "alice", "login", 2, "'x' is not a job id"),
    ):
        done = enter(cluster, *words, user=user, on=on)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert says in done.stderr.splitlines()[-1]
    cluster.run("scancel", str(job))
    cluster.finished(job)
    assert f"job {job} is CANCELLED; its network is there while it runs" in enter(cluster, str(job)).stderr
