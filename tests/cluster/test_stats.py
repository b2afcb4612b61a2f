# SPDX-License-Identifier: Apache-2.0
"""``hpcnet stats`` of jobs that really move data: it is right, it is the owner's, and it leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any, Callable

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually

pytestmark = pytest.mark.cluster

MEGABYTES = 400  # so many that what is in sockets' buffers when iperf3 ends, and is never sent, is little


def sender(wait: str = "", options: str = "") -> str:
    """A job whose second node sends to its first; it prints iperf3's own report, and then moves nothing more."""
    return f"""
srun bash -c '
{wait}
if [ $SLURM_PROCID = 0 ]; then exec timeout 60 iperf3 -s -1 -B $HPCNET_ADDRESS > /dev/null; fi
for try in {{1..40}}; do
  report=$(iperf3 -4 -c n1 -n {MEGABYTES}M {options} --json)
  case $report in *error*) ;; *) echo "$report"; exit 0;; esac
  sleep 0.3
done
exit 1'
echo ready
exec sleep 120
"""


SENDER = sender()
TRAFFIC = sender("until [ -e go ]; do sleep 0.2; done", "-b 1200M")
"""The same, once it finds the file "go" in its directory."""

_ETHERNET_IP_TCP = 14 + 20 + 32
"""Bytes of headers in a packet of hpc0: Ethernet, IPv4, TCP with timestamps."""


def stats(cluster: Cluster, *argv: str, user: str = "alice", check: bool = True) -> Any:
    return cluster.run("hpcnet", "stats", *argv, user=user, check=check)


def interface(document: dict[str, Any], node: str, kind: str = "tasks") -> dict[str, Any]:
    [job] = document["jobs"]
    [sample] = [each for each in job["nodes"] if each["node"] == node]
    [found] = [each for each in sample["interfaces"] if each["kind"] == kind]
    assert isinstance(found, dict)
    return found


@contextmanager
def watching(cluster: Cluster, *argv: str, user: str = "alice") -> Iterator[subprocess.Popen[str]]:
    """``hpcnet stats`` at work on the login node."""
    script = 'cd /tmp; PATH=/run/counting:$PATH exec hpcnet stats "$@"'
    command = cluster.lab.command("login", ["sh", "-c", script, "sh", *argv], user)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, process.communicate()
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def steps(cluster: Cluster, job: int) -> list[str]:
    return cluster.root("ctl", "squeue", "-hs", f"--jobs={job}", "-o", "%j").split()


def samplers(cluster: Cluster, hosts: Sequence[str] = ("login", *NODES)) -> list[str]:
    """Command lines of samplers and of the srun that would start one."""
    script = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -oE 'hpcnet sample ([0-9]+|all)' || true"
    return [found for host in hosts for found in cluster.root(host, "sh", "-c", script).splitlines()]


def files(cluster: Cluster, hosts: Sequence[str] = ("login", *NODES)) -> set[str]:
    """alice's, where a program may leave some."""
    find = "find /home /tmp /var/tmp /dev/shm /run -user alice 2>/dev/null || true"
    return {f"{host}:{path}" for host in hosts for path in cluster.root(host, "sh", "-c", find).splitlines()}


@contextmanager
def counted(cluster: Cluster) -> Iterator[Callable[[], list[float]]]:
    """When a viewer called squeue, Unix seconds."""
    log = cluster.lab.layout.home("alice") / "calls"
    script = '#!/bin/sh\ndate +%s.%N >> /home/alice/calls; exec /usr/bin/squeue "$@"\n'
    cluster.lab.run("login", ["sh", "-c", "mkdir /run/counting; cat > /run/counting/squeue"], stdin=script)
    cluster.root("login", "chmod", "-R", "755", "/run/counting")
    try:
        yield lambda: [float(text) for text in log.read_text().split()]
    finally:
        cluster.root("login", "rm", "-r", "/run/counting")
        log.unlink(missing_ok=True)


def test_stats_agrees_with_iperf3(cluster: Cluster) -> None:
    job = cluster.sbatch(SENDER, "--network=ib", "-N2", "-w", "n[1-2]")
    eventually("iperf3 has ended", lambda: "ready" in cluster.output(job))
    report = json.loads(cluster.output(job).partition("ready")[0])
    sent = report["end"]["sum_sent"]["bytes"]
    assert sent >= MEGABYTES << 20
    document = json.loads(stats(cluster, str(job), "--json").stdout)
    assert document["schema"] == 1
    sender, receiver = (interface(document, node)["counters"] for node in ("n2", "n1"))
    for found, packets in ((sender["tx_bytes"], "tx_packets"), (receiver["rx_bytes"], "rx_packets")):
        # a counted packet may stand for many of the wire's (segmentation offload): its headers are counted once
        headers = _ETHERNET_IP_TCP * (sender if packets == "tx_packets" else receiver)[packets]
        assert found == pytest.approx(sent + headers, rel=0.03)
    assert interface(document, "n2", "segment")["counters"]["tx_bytes"] == pytest.approx(sent, rel=0.03)
    first = ip_network(cluster.lease(job)["ipv4"])[1]
    assert interface(document, "n1")["addresses"][0].partition("/")[0] == str(first)


def test_rates_are_those_of_the_traffic(cluster: Cluster) -> None:
    job = cluster.sbatch(TRAFFIC, "--network=ib", "-N2", "-w", "n[1-2]", "--chdir=/home/alice")
    go = cluster.lab.layout.home("alice") / "go"
    eventually("the job runs", lambda: cluster.state_of(job) == "RUNNING")
    try:
        with watching(cluster, str(job), "--watch", "0.5") as viewer:
            seen = (
                each for each in iter(lambda: line(viewer), {}) if each.get("node") == "n2" and each["interfaces"]
            )
            first = before = next(seen)
            go.touch()
            summed, rate = 0.0, 1.0
            while rate or "ready" not in cluster.output(job):
                now = next(seen)
                rate = now["interfaces"][0]["rates"]["tx_bytes"]
                summed += rate * (now["clock"] - before["clock"])
                before = now
    finally:
        go.unlink(missing_ok=True)
    sent = json.loads(cluster.output(job).partition("ready")[0])["end"]["sum_sent"]["bytes"]
    assert summed == pytest.approx(sent, rel=0.03)
    counted = [each["interfaces"][0]["counters"]["tx_bytes"] for each in (first, now)]
    assert summed == pytest.approx(counted[1] - counted[0])


def test_a_table_a_pipe_and_a_job_that_is_not_there(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N2")
    table = stats(cluster, str(job), "--once").stdout.splitlines()
    assert table[0].split()[:4] == ["JOB", "NODE", "DEVICE", "KIND"]
    assert [row.split()[2:4] for row in table[1:3]] == [["hpc0", "tasks"], ["hpcvx", "segment"]]
    piped = cluster.run("sh", "-c", f"hpcnet stats {job} --watch 0.2 | head -n 3 | wc -l")
    assert (piped.stdout.strip(), piped.stderr) == ("3", "")
    gone = stats(cluster, "999999", check=False)
    assert gone.returncode == 1 and "job 999999 has no network" in gone.stderr
    closed = cluster.run("sh", "-c", f"hpcnet stats {job} --once >&-", check=False)
    assert closed.returncode == 2 and "standard output is closed" in closed.stderr
    cluster.root("ctl", "scancel", str(job))
    cluster.finished(job)
    ended = stats(cluster, str(job), check=False)
    assert ended.returncode == 1 and f"job {job} is CANCELLED and has no network now" in ended.stderr


def test_alice_does_not_see_bobs_counters_and_root_does(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N1", user="bob", seconds=300)
    refused = stats(cluster, str(job), check=False)
    assert refused.returncode == 3 and "bob's" in refused.stderr and not refused.stdout
    assert stats(cluster, "--json", check=False).returncode == 1
    # nor past hpcnet's own question: Slurm lets only the owner start a step
    sampler = ("/opt/hpcnet/bin/python", "-I", "-m", "hpcnet", "sample", str(job), "1")
    step = cluster.run("srun", f"--jobid={job}", "--overlap", *sampler, check=False)
    assert step.returncode != 0 and "tasks" not in step.stdout
    # nor from a step of her own on the same node
    node = cluster.record(job)["NodeList"]
    own = cluster.run("srun", "-w", node, "--overlap", "--network=ib", *sampler, check=False, stdin="")
    assert "hpc0" not in own.stdout
    # nor as root would
    everything = cluster.lab.run(node, [*sampler[:-2], "all", "1"], user="alice", check=False)
    assert "hpc0" not in everything.stdout
    # nor in a file of the node
    told = cluster.run("grep", "-rsi", "bytes", f"/run/hpcnet/jobs/{job}", on=node, check=False)
    assert told.stdout == "" and told.returncode in (1, 2), "2: some files are not hers to read"
    for user in ("bob", "root"):
        document = json.loads(stats(cluster, str(job), "--json", user=user).stdout)
        assert interface(document, node)["device"] == "hpc0"


def test_root_reads_on_the_node_itself(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib,join=none,egress=none", "-N1", "-w", "n1")
    frame = cluster.root("n1", "hpcnet", "sample", "all", "1")
    document = json.loads("".join(part.split(" ", 4)[4] for part in frame.splitlines()))
    assert [each["device"] for each in document["interfaces"]] == ["hpc0", "hpcvx"]
    outside = stats(cluster, str(job), "--once")
    assert "join=none" in outside.stdout


@pytest.mark.parametrize("victim", ["hpcnet", "srun"])
def test_a_viewer_that_is_killed_leaves_no_step_and_no_process(cluster: Cluster, victim: str) -> None:
    job = cluster.hold("--network=ib", "-N3")
    before = files(cluster)
    with watching(cluster, str(job), "--watch", "0.5") as viewer:
        assert {line(viewer)["node"] for _ in range(9)} == set(NODES)
        assert "hpcnet-stats" in steps(cluster, job)
        name = "srun" if victim == "srun" else "hpcnet"
        cluster.root("login", "pkill", f"-{signal.SIGKILL.value}", "-u", "alice", "-x", name)
        if victim == "srun":
            viewer.kill()
    eventually("the step is gone", lambda: "hpcnet-stats" not in steps(cluster, job), 40)
    eventually("no sampler is left", lambda: not samplers(cluster), 10)
    assert files(cluster) == before


def test_a_viewer_that_is_killed_while_a_node_is_off_leaves_nothing(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N3")
    with watching(cluster, str(job), "--watch", "0.5") as viewer:
        assert {line(viewer)["node"] for _ in range(9)} == set(NODES)
        cluster.lab.power_off("n3")
        try:
            cluster.root("login", "pkill", "-KILL", "-u", "alice", "-x", "hpcnet")
            eventually("no srun is left", lambda: "srun" not in cluster.root("login", "ps", "-eo", "comm"), 10)
            eventually("no sampler is left", lambda: not samplers(cluster, ("login", "n1", "n2")), 40)
        finally:
            cluster.reboot("n3")


def test_a_node_that_dies_falls_silent_and_the_rest_goes_on(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N3")
    interval = 1.0
    with watching(cluster, str(job), "--watch", str(interval)) as viewer:
        assert {line(viewer)["node"] for _ in range(9)} == set(NODES)
        died = time.time()
        cluster.lab.power_off("n3")
        try:
            after: list[str] = []
            while True:
                seen = line(viewer)
                if "silent_since" in seen:
                    break
                after.append(seen["node"])
            assert (seen["node"], seen["job"]) == ("n3", job)
            # two intervals after the last that was heard of it, and then the line has to be seen by this test
            assert seen["silent_since"] <= died + 1
            assert time.time() < seen["silent_since"] + 2 * interval + 1
            rest = [line(viewer) for _ in range(8)]
            assert {each["node"] for each in rest} == {"n1", "n2"}
        finally:
            cluster.reboot("n3")


def test_a_node_whose_sampler_ended_is_heard_again_and_so_are_all_when_the_step_did(cluster: Cluster) -> None:
    """As behind a partition: a sampler that hears nothing of its viewer ends, and its step goes on without it."""
    job = cluster.hold("--network=ib", "-N3", seconds=300)

    def until(viewer: subprocess.Popen[str], node: str) -> list[dict[str, Any]]:
        """What is said until a sample of the node comes."""
        found = [line(viewer)]
        while found[-1]["node"] != node or not found[-1].get("interfaces"):
            found.append(line(viewer))
        return found

    with counted(cluster) as calls, watching(cluster, str(job), "--watch", "0.5") as viewer:
        assert {line(viewer)["node"] for _ in range(9)} == set(NODES)
        cluster.root("n3", "pkill", "-KILL", "-u", "alice", "-f", f"hpcnet sample {job}")
        while "silent_since" not in (told := line(viewer)):
            pass
        assert told["node"] == "n3"
        meanwhile = until(viewer, "n3")
        heard = [each["clock"] for each in meanwhile if each["node"] == "n1"]
        assert max(late - early for early, late in zip(heard, heard[1:])) < 1.5, "the others' step went on"
        assert steps(cluster, job).count("hpcnet-stats") == 2
        cluster.root(
            "ctl", "sh", "-c", f"squeue -hs --jobs={job} -o '%i %j' | grep stats | cut -d' ' -f1 | xargs scancel"
        )
        for node in NODES:
            until(viewer, node)
        asked = calls()
        assert len(asked) >= 2 and min(late - early for early, late in zip(asked, asked[1:])) > 9.9
    eventually("the steps are gone", lambda: "hpcnet-stats" not in steps(cluster, job), 40)


def test_the_watch_ends_with_the_job(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N2")
    with watching(cluster, str(job), "--watch", "0.5") as viewer:
        line(viewer)
        cluster.root("ctl", "scancel", str(job))
        assert viewer.stdout is not None and viewer.stderr is not None
        rest = [json.loads(text) for text in viewer.stdout]
        assert viewer.wait(30) == 0
        assert re.search(rf"{job} ended", viewer.stderr.read())
        assert all(each["job"] == job for each in rest)


def test_what_a_job_moved_stands_in_the_log_and_in_show_when_it_has_ended(cluster: Cluster) -> None:
    shared = str(cluster.lab.layout.root / "accounts")  # every host sees it
    cluster.lab.configure(hpcnet={"hooks": {"accounts": shared}})
    try:
        script = SENDER.replace("exec sleep 120", "")
        job = cluster.sbatch(script, "--network=ib", "-N2", "-w", "n[1-2]", "--account=physics")
        assert cluster.finished(job) == "COMPLETED", cluster.output(job)
        sent = json.loads(cluster.output(job).partition("ready")[0])["end"]["sum_sent"]["bytes"]
        shown = json.loads(cluster.run("hpcnet", "show", str(job), "--json").stdout)["accounts"]
        assert [(each["node"], each["job"], each["user"], each["account"]) for each in shown] == [
            ("n1", job, "alice", "physics"),
            ("n2", job, "alice", "physics"),
        ]
        for each, way in zip(shown, ("rx_bytes", "tx_bytes")):
            [tasks] = [found for found in each["interfaces"] if found["kind"] == "tasks"]
            assert tasks["counters"][way] == pytest.approx(sent, rel=0.03)
            assert 0 < each["seconds"] < 60 and each["problem"] == ""
            script = f"sed -n 's/.* epilog: job {job}: account //p' /var/log/hpcnet.log"
            assert json.loads(cluster.root(each["node"], "sh", "-c", script)) == each
            assert each["moved"] == tasks["counters"] and each["peak"] is None
        assert "MOVED-BY" in cluster.run("hpcnet", "show", str(job)).stdout
        assert json.loads(cluster.run("hpcnet", "show", str(job), "--json", user="bob").stdout)["accounts"] == []
        # a place that cannot be written is said, and costs the job nothing
        cluster.lab.configure(hpcnet={"hooks": {"accounts": "/proc/accounts"}})
        job = cluster.sbatch("true", "--network=ib", "-w", "n1")
        assert cluster.finished(job) == "COMPLETED"
        complaint = rf"job {job}: removed; its account is not kept: /proc/accounts"
        eventually("the log says so", lambda: re.search(complaint, cluster.log("n1")))
        assert cluster.node_states()["n1"] == "idle"
    finally:
        cluster.lab.configure()
        cluster.root("ctl", "rm", "-rf", shared)
