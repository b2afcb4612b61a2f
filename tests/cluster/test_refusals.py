# SPDX-License-Identifier: Apache-2.0
"""Who pays for which error: the user reads a line, the job fails closed, a node drains only for its own fault."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually

pytestmark = pytest.mark.cluster

_FAILED = "Unable to allocate resources: Unspecified error"


def refused(cluster: Cluster, *argv: str) -> list[str]:
    """Lines on stderr of a submission that is refused."""
    done = cluster.run(*argv, check=False, stdin="#!/bin/sh\ntrue\n")
    assert done.returncode != 0 and not done.stdout
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("ib,foo=1", 'unknown key "foo"; known: mode, mtu, pkey, ipoib, endpoints, join, egress, docker, env'),
        ("ib,mode=fast", 'mode="fast": must be vxlan or direct'),
        ("ib,mode=direct", "mode=direct is not offered here; offered: vxlan"),
        ("ib,mtu=abc", 'mtu="abc": must be an integer from 1280 to 65520'),
        ("ib,mtu=65500", "mtu=65500 is too large for mode=vxlan here; at most 65470"),
        ("ib,pkey=0x8001", "pkey=0x8001 needs mode=direct; here it would be mode=vxlan"),
        ("ib,pkey=0x8000", 'pkey="0x8000": must be a partition key such as 0x8001, or auto'),
        ("ib,ipoib=connected", "ipoib=connected needs mode=direct; here it would be mode=vxlan"),
        ("ib,endpoints=0", 'endpoints="0": must be an integer from 1 to 1024'),
        ("ib,endpoints=100", "endpoints=128 (a power of two) is more than is offered here; at most 64"),
        ("ib,join=maybe", 'join="maybe": must be tasks or none'),
        ("ib,egress=nat", 'egress="nat": must be host or none'),
        ("ib,docker=yes", "docker=yes is not offered here; offered: no"),
        ("ib,mtu=9000,mtu=9000", "mtu is given twice"),
        ("ib,,", "an empty part between commas; write ib[,key=value]..."),
        ("ib,mtu", 'mtu="": must be an integer from 1280 to 65520'),
    ],
)
def test_a_wrong_option_is_refused_at_submit_in_one_line(cluster: Cluster, option: str, message: str) -> None:
    first, *rest = refused(cluster, "srun", f"--network={option}", "true")
    assert first == f"srun: error: --network=ib: {message}"
    assert rest == [f"srun: error: {_FAILED}"]
    [batch, _] = refused(cluster, "sbatch", f"--network={option}")
    assert batch.replace("sbatch", "srun") == first
    allocation = refused(cluster, "salloc", f"--network={option}", "true")
    assert first.replace("srun", "salloc") in allocation


def test_a_heterogeneous_job_is_refused_at_submit(cluster: Cluster) -> None:
    lines = refused(cluster, "srun", "--network=ib", "-n1", ":", "--network=ib", "-n1", "true")
    text = "a heterogeneous job cannot have a job network for now; submit one job, or several"
    assert f"srun: error: 0: --network=ib: {text}" in lines


def test_a_forged_token_is_stripped(cluster: Cluster) -> None:
    forged = "mine hpcnet:lease::v=1,serial=1,mode=vxlan,vni=6815744 text"
    job = cluster.sbatch("sleep 60", f"--comment={forged}")
    assert cluster.record(job)["Comment"].split() == ["mine", "text"]
    cluster.run("scontrol", "update", f"jobid={job}", f"comment={forged}")
    assert cluster.record(job)["Comment"].split() == ["mine", "text"]


def test_a_users_edit_of_the_comment_keeps_the_lease(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "--comment=first")
    before = cluster.record(job)["Comment"]
    cluster.run("scontrol", "update", f"jobid={job}", "comment=second hpcnet:asked:")
    assert cluster.record(job)["Comment"] == before.replace("first", "second")
    lines = cluster.run("scontrol", "update", f"jobid={job}", "numnodes=1", check=False)
    assert lines.returncode != 0


def step(cluster: Cluster, job: int, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a step in a job of alice's, from outside."""
    return cluster.run("srun", f"--jobid={job}", "--overlap", *argv, check=False)


def test_a_step_that_asks_by_itself_gets_a_hint(cluster: Cluster) -> None:
    job = cluster.hold()
    done = step(cluster, job, "--network=ib", "echo", "ran")
    assert done.returncode != 0 and "ran" not in done.stdout
    assert "hpcnet: this job has no network of its own; ask for it at sbatch/salloc/srun time" in done.stderr
    assert step(cluster, job, "--network=other", "echo", "ran").stdout == "ran\n"


def test_variables_of_an_outer_job_are_dropped(cluster: Cluster) -> None:
    inner = "env | grep -c ^HPCNET_; srun env | grep -c ^HPCNET_; true"
    script = f"cd; echo outer $HPCNET_JOB_ID; sbatch -W -o inner.out --wrap '{inner}'; cat inner.out"
    job = cluster.sbatch(script, "--network=ib")
    assert cluster.finished(job) == "COMPLETED"
    lines = cluster.output(job).splitlines()
    assert lines[0] == f"outer {job}"
    assert lines[-2:] == ["0", "0"]


@pytest.fixture
def broken_node(cluster: Cluster) -> Iterator[Cluster]:
    """n2's uplink is down."""
    cluster.root("n2", "ip", "link", "set", "ib0", "down")
    yield cluster
    cluster.root("ctl", "scancel", "--user=alice")
    cluster.root("n2", "ip", "link", "set", "ib0", "up")
    # the kernel forgot ib0's link-local address; the baseline has it again only when it is made anew
    eventually(
        "ib0 has its address", lambda: "fe80" in cluster.root("n2", "ip", "-6", "addr", "show", "dev", "ib0")
    )
    cluster.root("ctl", "scontrol", "update", "nodename=n2", "state=resume", check=False)  # it may be idle


def test_a_node_whose_uplink_is_down_drains_and_the_job_goes_elsewhere(broken_node: Cluster) -> None:
    cluster = broken_node
    job = cluster.sbatch("srun true", "--network=ib", "-w", "n2")
    eventually("n2 drains", lambda: "drain" in cluster.node_states()["n2"])
    assert "uplink ib0 is down on n2; bring it up (ip link set ib0 up)" in cluster.log("n2")
    assert f"hpcnet-{job}" not in cluster.root("n2", "ip", "netns")
    eventually("Slurm has it requeued, held and not lost", lambda: cluster.state_of(job) == "PENDING")
    cluster.run("scancel", str(job))
    assert cluster.srun("-N2", "--network=ib", "hostname") and cluster.node_states()["n1"] != "drained"


def test_a_job_without_a_network_runs_on_that_node(broken_node: Cluster) -> None:
    assert broken_node.srun("-w", "n2", "hostname") == ["n2"]


@pytest.mark.parametrize("how", ["srun", "sbatch"])
def test_a_site_error_refuses_the_job_with_its_reason_and_drains_nothing(cluster: Cluster, how: str) -> None:
    # the nodes' peers are not in the hosts file under this name: nobody's fault but the site's
    cluster.lab.configure(hpcnet={"fabric": {"peers_name": "{node}-fabric"}})
    try:
        if how == "srun":
            done = cluster.run("srun", "-N2", "--network=ib", "echo", "ran", check=False)
            code, text, job = done.returncode, done.stdout + done.stderr, None
        else:
            job = cluster.sbatch("echo ran", "--network=ib", "-N2")
            code, text = int(cluster.finished(job) == "FAILED"), cluster.output(job)
        assert code != 0 and "ran" not in text
        assert "gets no network, so it does not start: node n1 has no address on the fabric: add n1-fabric" in text
        assert set(cluster.node_states().values()) <= {"idle", "completing", "allocated"}
    finally:
        cluster.settle()
        cluster.lab.configure()


def test_a_job_whose_controller_gave_no_lease_does_not_start(cluster: Cluster) -> None:
    cluster.lab.configure(slurm={"PrologSlurmctld": None})
    try:
        done = cluster.run("srun", "--network=ib", "echo", "ran", check=False)
        assert done.returncode != 0 and "ran" not in done.stdout
        assert "the controller gave it no lease" in done.stderr
    finally:
        cluster.settle()
        cluster.lab.configure()


def test_a_node_whose_prolog_is_not_ours_starts_no_task_of_the_job(cluster: Cluster) -> None:
    cluster.lab.configure(slurm={"Prolog": None})
    try:
        assert cluster.srun("echo", "ran") == ["ran"]
        job = cluster.sbatch("echo ran; srun echo ran", "--network=ib")
        assert cluster.finished(job) == "FAILED"
        assert "ran\n" not in cluster.output(job)
        assert "or the node's Prolog did not run hpcnet" in cluster.output(job)
    finally:
        cluster.settle()
        cluster.lab.configure()


def test_a_broken_configuration_refuses_only_jobs_that_ask(cluster: Cluster) -> None:
    cluster.lab.configure(hpcnet={"hooks": {"colour": "red"}})
    try:
        assert cluster.srun("-N3", "echo", "ran") == ["ran"] * 3
        lines = refused(cluster, "srun", "--network=ib", "true")
        assert "hpcnet.toml" in lines[0] and "colour" in lines[0]
    finally:
        cluster.lab.configure()


def test_policy_who_may_ask_and_who_gets_one_by_default(cluster: Cluster) -> None:
    cluster.lab.configure(hpcnet={"submit": {"partitions": ["debug"], "default_partitions": ["debug"]}})
    try:
        assert refused(cluster, "srun", "--network=ib", "true")[0].startswith(
            "srun: error: --network=ib: partition"
        )
        assert cluster.srun("-p", "debug", "sh", "-c", "echo $HPCNET_INTERFACE") == ["hpc0"]
        assert cluster.srun("-p", "debug", "--network=none", "sh", "-c", "echo $HPCNET_INTERFACE") == [""]
        assert cluster.srun("sh", "-c", "echo $HPCNET_INTERFACE") == [""]
    finally:
        cluster.settle()
        cluster.lab.configure()


def test_no_hook_left_a_traceback_in_any_log(cluster: Cluster) -> None:
    for host in ("ctl", *NODES):
        assert "Traceback" not in cluster.log(host)
        assert "internal error" not in cluster.log(host)


def test_where_docker_is_not_offered_it_is_refused_at_submit(cluster: Cluster) -> None:
    refused = cluster.run("sbatch", "--network=ib,docker=yes", "-N1", "--wrap=true", check=False)
    assert refused.returncode != 0
    assert "docker=yes is not offered here; offered: no" in refused.stderr
