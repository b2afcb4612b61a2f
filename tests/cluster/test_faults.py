# SPDX-License-Identifier: Apache-2.0
"""Things that break in the middle: daemons killed, a fabric that flaps, full disks; and many jobs in a row.

Beside these: slurmctld restarted and a store lost in test_controller, Docker in test_docker, an uplink that is
down in test_refusals, hooks at once and out of order in tests/kernel, each single step in tests/faults.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually

pytestmark = pytest.mark.cluster

MANY = 300 if os.environ.get("HPCNET_FAULTS") == "all" else 25
"""Jobs in a row; ``make test-faults`` runs 300."""

AT_ONCE = 40

# VNI, network and serial of a lease, as hpcnet's log has them; a node that drains, as slurmctld's has it.
_LEASED = re.compile(r"prolog-slurmctld: job \d+: leased VNI (\d+), ([\d./]+), .*; serial (\d+),")
_DRAINED = re.compile(r".*(?:[Dd]raining|DRAIN|[Dd]rained).*")

STORE = "/var/spool/slurmctld/hpcnet.sqlite"
_LOCKED = """
import sys
from hpcnet import journal
with journal.locked({job}): print("held", flush=True); sys.stdin.read()
"""
_STORE_LOCKED = """
import sqlite3, sys
store = sqlite3.connect("{store}", isolation_level=None); store.execute("BEGIN IMMEDIATE")
print("held", flush=True); sys.stdin.read()
"""


@contextlib.contextmanager
def holding(cluster: Cluster, host: str, script: str) -> Iterator[None]:
    """While a Python script on a host holds something."""
    python = cluster.lab.command(host, ["/opt/hpcnet/bin/python", "-I", "-c", script])
    pipe = subprocess.PIPE
    with subprocess.Popen(python, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield
        process.communicate(timeout=60)


def held(cluster: Cluster, since: int) -> list[int]:
    """Serials of the leases in the store from this one on."""
    script = f"import sqlite3; store = sqlite3.connect('{STORE}'); "
    script += f"print(*(row[0] for row in store.execute('SELECT serial FROM lease WHERE serial >= {since}')))"
    return [int(word) for word in cluster.root("ctl", "python3", "-c", script).split()]


def leases(cluster: Cluster, since: int) -> list[int]:
    """The same after those that are over were freed."""
    cluster.root("ctl", "hpcnet", "cleanup", "--min-age", "0")
    return held(cluster, since)


def reaches(cluster: Cluster, job: int) -> bool:
    """Whether tasks of a running job on n1 and n2 still reach each other."""
    ping = ("ping", "-c1", "-W2", "-q")
    step = ("srun", f"--jobid={job}", "--overlap", "-N1", "-n1")
    return all(
        cluster.run(*step, "-w", here, *ping, there, check=False).returncode == 0
        for here, there in (("n1", "n2"), ("n2", "n1"))
    )


def test_slurmctld_killed_while_a_lease_is_made(cluster: Cluster) -> None:
    cluster.srun("-wn1", "--network=ib", "true")  # the store is there
    first = max(leases(cluster, 0), default=0) + 1
    before = len(cluster.log("ctl"))
    with holding(cluster, "ctl", _STORE_LOCKED.format(store=STORE)):
        script = "srun -N2 ping -c1 -W2 -q n1 > /dev/null && echo reached"
        job = cluster.sbatch(script, "--network=ib", "-wn[1-2]", "--job-name=meanwhile")
        eventually("its hook waits for the store", lambda: "prolog-slurmctld" in _processes(cluster, "ctl"))
        _saved(cluster, "meanwhile")
        cluster.lab.stop_daemon("ctl", "slurmctld", signal.SIGKILL)
    eventually("the hook has ended", lambda: "prolog-slurmctld" not in _processes(cluster, "ctl"))
    orphaned = held(cluster, first)
    cluster.lab.start_daemon("ctl", "slurmctld")
    cluster.finished(job)
    assert cluster.output(job) == "reached\n"
    said = cluster.log("ctl")[before:]
    assert "Traceback" not in said and f"prolog-slurmctld: job {job}: leased VNI" in said
    record = cluster.words(job)
    assert all(f"serial={serial}," in record for serial in orphaned), "the same run has the same lease"
    cluster.settle()
    eventually("no lease is left, of neither hook", lambda: not leases(cluster, first))


def _processes(cluster: Cluster, host: str) -> str:
    return cluster.root(host, "ps", "-eo", "args")


def test_slurmctld_killed_while_a_job_completes(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-wn[1-2]", "--no-requeue")
    _saved(cluster, _leased(cluster, job))
    serial = cluster.lease(job)["serial"]
    script = _LOCKED.format(job=job)
    with holding(cluster, "n1", script):
        cluster.run("scancel", str(job))
        eventually("n1's Epilog waits for the lock", lambda: "main()) epilog" in _processes(cluster, "n1"))
        cluster.lab.stop_daemon("ctl", "slurmctld", signal.SIGKILL)
        cluster.lab.start_daemon("ctl", "slurmctld")
    cluster.settle()
    eventually("its lease is over", lambda: serial not in leases(cluster, serial))


def test_the_store_is_lost_with_slurmctld_dead(cluster: Cluster) -> None:
    jobs = [cluster.hold("--network=ib", "-wn[1-2]") for _ in range(2)]
    for job in jobs:
        _saved(cluster, _leased(cluster, job))
    cluster.lab.stop_daemon("ctl", "slurmctld", signal.SIGKILL)
    cluster.root("ctl", "rm", STORE)
    cluster.lab.start_daemon("ctl", "slurmctld")
    jobs.append(cluster.hold("--network=ib", "-wn[1-2]"))
    found = [cluster.lease(job) for job in jobs]
    assert len({lease["vni"] for lease in found}) == len({lease["serial"] for lease in found}) == 3
    assert all(reaches(cluster, job) for job in jobs)


def _saved(cluster: Cluster, words: str) -> None:
    """What slurmctld has not saved when it is killed is Slurm's loss; ``words``: of the job's record."""
    grep = ("grep", "-aqF", words, "/var/spool/slurmctld/job_state")
    eventually("slurmctld has saved the job", lambda: not cluster.lab.run("ctl", grep, check=False).returncode)


def _leased(cluster: Cluster, job: int) -> str:
    """A part of its lease on the record."""
    return f"serial={cluster.lease(job)['serial']},"


@pytest.fixture
def with_backup(cluster: Cluster) -> Iterator[Cluster]:
    """The login host has a second slurmctld, on the first one's directory of state."""
    state = cluster.lab.layout.host("ctl") / "spool" / "slurmctld"
    script = f"""
set -e
mkdir -p /var/spool/slurmctld /var/log/slurm; mount --bind {state} /var/spool/slurmctld
touch /var/log/hpcnet.log; chown slurm:slurm /var/log/slurm /var/log/hpcnet.log
"""
    cluster.root("login", "sh", "-c", script)
    cluster.lab.configure(slurm={"SlurmctldHost": "ctl\nSlurmctldHost=login"})
    cluster.root("login", "slurmctld")
    yield cluster
    eventually("it has ended", lambda: _has_ended(cluster))
    cluster.lab.configure()
    cluster.settle()
    cluster.root("login", "umount", "/var/spool/slurmctld")


def _has_ended(cluster: Cluster) -> bool:
    """Told so each time: a slurmctld that is just giving up control forgets a signal."""
    if "slurmctld" not in _processes(cluster, "login"):
        return True
    cluster.root("login", "sh", "-c", "kill $(cat /run/slurmctld.pid)", check=False)
    return False


def test_a_backup_controller_takes_over(with_backup: Cluster) -> None:
    cluster = with_backup
    before = cluster.hold("--network=ib", "-wn[1-2]")
    _saved(cluster, _leased(cluster, before))
    cluster.lab.stop_daemon("ctl", "slurmctld", signal.SIGKILL)
    try:
        cluster.root("login", "scontrol", "takeover", "1", check=False)
        ping = ("scontrol", "ping")
        eventually(
            "it is in charge", lambda: "backup) at login is UP" in cluster.root("login", *ping, check=False)
        )
        eventually("it has its jobs", lambda: str(before) in cluster.run("squeue", "-h", check=False).stdout)
        assert cluster.lease(before)["vni"]
        after = cluster.hold("--network=ib", "-wn[1-2]")
        assert cluster.lease(after)["serial"] > cluster.lease(before)["serial"]
        assert cluster.lease(after)["vni"] != cluster.lease(before)["vni"]
        assert reaches(cluster, before) and reaches(cluster, after)
        assert f"job {after}: leased VNI" in cluster.log("login")
        cluster.run("scancel", str(before), str(after))
        eventually("both have ended", lambda: not cluster.run("squeue", "-h").stdout)
    finally:
        cluster.lab.start_daemon("ctl", "slurmctld")


def test_slurmd_killed_in_the_middle(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-wn[1-2]", "--no-requeue")
    cluster.lab.restart("slurmd", "n2", signal.SIGKILL)
    assert reaches(cluster, job)
    assert cluster.root("n2", "hpcnet", "check").strip() == f"job {job}: ok"
    assert cluster.state_of(job) == "RUNNING"


def test_a_node_boots_in_the_middle_of_a_job(cluster: Cluster) -> None:
    """Slurm leaves the job its node; no step of its script starts there without the network."""
    go = cluster.lab.layout.home("alice") / "go"
    script = "echo started; until [ -e ~/go ]; do sleep 0.1; done; srun -N1 -n1 -w n3 echo ran"
    job = cluster.sbatch(script, "--network=ib", "-wn[2-3]", "--no-requeue")
    eventually("it starts", lambda: "started" in cluster.output(job))
    cluster.reboot("n3")
    go.touch()
    cluster.finished(job)
    go.unlink()
    assert "ran\n" not in cluster.output(job)
    assert "(or this node was booted since, and lost it)" in cluster.output(job)
    cluster.root("ctl", "scontrol", "update", "nodename=n3", "state=resume", check=False)
    cluster.settle()
    assert sorted(cluster.srun("-wn[2-3]", "--network=ib", "hostname")) == ["n2", "n3"]


def test_dockerd_hangs_while_a_prolog_asks(cluster: Cluster) -> None:
    offer: dict[str, dict[str, Any]] = {"offer": {"docker": True}, "docker": {"deadline": 2}}
    cluster.lab.configure(hpcnet=offer)
    process = cluster.root("n1", "cat", "/run/docker.pid").strip()
    cluster.root("n1", "kill", "-STOP", process)
    try:
        job = cluster.sbatch("true", "--network=ib,docker=yes", "-wn[1-2]")
        eventually("n1 drains", lambda: "drain" in cluster.node_states()["n1"])
        assert "dockerd did not answer on /run/docker.sock within 2 s" in cluster.log("n1")
        cluster.run("scancel", str(job))
        eventually("n2 is idle", lambda: cluster.node_states()["n2"] == "idle")
        cluster.assert_pristine()
    finally:
        cluster.root("n1", "kill", "-CONT", process)
    networks = ("docker", "network", "ls", "--format", "{{.Name}}")
    cluster.root("n1", "docker", "ps")  # it has heard what was asked of it meanwhile
    cluster.root("n1", "hpcnet", "cleanup", "--min-age", "0")
    assert set(cluster.root("n1", *networks).split()) == {"host", "none"}
    cluster.root("ctl", "scontrol", "update", "nodename=n1", "state=resume")
    cluster.settle()
    cluster.lab.configure()


def test_a_fabric_that_flaps(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-wn[1-2]")
    address = cluster.root("n1", "ip", "-6", "-o", "addr", "show", "ib0").split()[3]
    for _ in range(3):
        cluster.root("n1", "ip", "link", "set", "ib0", "down")
        cluster.root("n1", "ip", "link", "set", "ib0", "up")
    eventually("they reach each other again", lambda: reaches(cluster, job))
    assert cluster.root("n1", "hpcnet", "check").strip() == f"job {job}: ok"
    # the kernel gives the address again when it is made anew; the baseline has it
    show = ("ip", "-6", "-o", "addr", "show", "ib0")
    eventually("ib0 has its address", lambda: address in cluster.root("n1", *show))


@pytest.fixture
def full_state(cluster: Cluster) -> Iterator[Cluster]:
    """n2's /run/hpcnet is on a file system without room."""
    full = "mount -t tmpfs -o size=64k,mode=755 full /run/hpcnet; mkdir /run/hpcnet/jobs; : > /run/hpcnet/lock; "
    cluster.root("n2", "sh", "-c", full + "cat /dev/zero > /run/hpcnet/fill 2> /dev/null || :")
    yield cluster
    cluster.root("ctl", "scancel", "--user=alice")
    eventually("no Prolog is at work", lambda: "main()) prolog" not in _processes(cluster, "n2"))
    cluster.root("n2", "umount", "/run/hpcnet")
    cluster.root("ctl", "scontrol", "update", "nodename=n2", "state=resume", check=False)


def test_no_room_for_a_nodes_state(full_state: Cluster) -> None:
    cluster = full_state
    before = len(cluster.log("n2"))
    job = cluster.sbatch("true", "--network=ib", "-wn[1-2]")
    eventually("n2 drains", lambda: "drain" in cluster.node_states()["n2"])
    said = [line for line in cluster.log("n2")[before:].splitlines() if f"job {job}: " in line]
    assert any("No space left on device while building the network on n2" in line for line in said), said
    left = cluster.root("n2", "sh", "-c", "ls /run/netns; ls /run/hpcnet/jobs; ip -o link")
    assert "hpcnet-" not in left and "hpce" not in left and f"\n{job}\n" not in left
    cluster.run("scancel", str(job))
    eventually("n1 is idle", lambda: cluster.node_states()["n1"] == "idle")
    assert cluster.srun("-wn1", "--network=ib", "echo", "ran") == ["ran"]


def test_no_room_for_the_lease_store(cluster: Cluster) -> None:
    """Neither to make it nor, when it is there, for one more lease."""
    fill = "cat /dev/zero > /run/full/fill 2> /dev/null || :"
    mount = "mkdir -p /run/full; mount -t tmpfs -o size=1m,mode=755,uid=$(id -u slurm) full /run/full"
    cluster.root("ctl", "sh", "-c", mount)
    cluster.lab.configure(hpcnet={"pool": {"store": "/run/full/hpcnet.sqlite"}})
    try:
        for there in (False, True):
            assert (
                not cluster.lab.run("ctl", ["test", "-s", "/run/full/hpcnet.sqlite"], check=False).returncode
            ) == there
            cluster.root("ctl", "sh", "-c", fill)
            done = cluster.run("srun", "-wn1", "--network=ib", "echo", "ran", check=False)
            assert done.returncode != 0 and "ran" not in done.stdout
            assert "/run/full/hpcnet.sqlite" in done.stderr and "full" in done.stderr, done.stderr
            assert cluster.node_states()["n1"] in ("idle", "completing", "allocated")
            cluster.root("ctl", "rm", "/run/full/fill")
            assert cluster.srun("-wn1", "--network=ib", "echo", "ran") == ["ran"]
    finally:
        cluster.settle()
        cluster.lab.configure()
        cluster.root("ctl", "sh", "-c", "umount /run/full")


def test_a_job_of_200_tasks_that_end_at_once(cluster: Cluster) -> None:
    until = "while [ $(date +%s) -lt $1 ]; do sleep 0.05; done; ls /sys/class/net"
    end = str(int(time.time()) + 8)
    lines = cluster.srun("-N3", "-n200", "--overcommit", "--network=ib,egress=none", "sh", "-c", until, "sh", end)
    assert sorted(lines) == sorted(["lo", "hpcvx", "hpc0"] * 200)


@pytest.mark.timeout(max(300, 12 * MANY))
def test_short_jobs_in_a_row_and_forty_at_once(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.srun("--network=ib", "true")
    first = max(leases(cluster, 0), default=0) + 1
    hooks, slurm = len(cluster.log("ctl")), len(_slurmctld_log(cluster))
    begin = time.monotonic()
    task = "echo $HPCNET_SUBNET; ping -c1 -W5 -q n1 > /dev/null"
    row = f"for i in $(seq {MANY}); do srun -N2 -wn[1-2] --network=ib sh -c '{task}' || exit; done"
    lines = cluster.lab.run("login", ["bash", "-c", row], user="alice", timeout=MANY * 20).stdout.splitlines()
    assert len(lines) == 2 * MANY
    in_a_row = time.monotonic() - begin
    jobs, crashed = _forty(cluster)
    if crashed:
        with capsys.disabled():
            print(f"\nslurmd crashed on {crashed}; once more")
        cluster.settle()
        begin = time.monotonic() - in_a_row
        more, again = _forty(cluster)
        assert not again
        jobs += more
    at_once = time.monotonic() - begin - in_a_row
    own = [cluster.output(job).strip() for job in jobs[-AT_ONCE:]]
    cluster.settle()
    leased = _LEASED.findall(cluster.log("ctl")[hooks:])
    assert len(leased) == MANY + len(jobs)
    # there are more numbers than jobs here: none is given again while others rest
    collisions = sum(len(column) - len(set(column)) for column in zip(*leased))
    assert {*lines, *own} <= {subnet for _, subnet, _ in leased} and len({*lines, *own}) == MANY + AT_ONCE
    drained = _DRAINED.findall(_slurmctld_log(cluster)[slurm:])
    eventually("no lease is left", lambda: not leases(cluster, first))
    with capsys.disabled():
        print(
            f"\n{MANY} jobs in a row: {in_a_row / MANY:.2f} s each; {AT_ONCE} at once: {at_once:.0f} s;", end=" "
        )
        print(f"{len(leased)} leases, {collisions} collisions; {len(drained)} drained")
    assert collisions == 0 and not drained
    cluster.assert_pristine(NODES)


def _forty(cluster: Cluster) -> tuple[list[int], list[str]]:
    """Jobs at once, and where slurmd crashed meanwhile: that of 22.05.8 has, in malloc, when many steps came
    at once. It runs nothing of hpcnet's then.
    """
    wrap = "srun -N3 ping -c1 -W5 -q n1 > /dev/null && echo $HPCNET_SUBNET; sleep 1"
    jobs = [cluster.sbatch(wrap, "-N3", "--network=ib", "--no-requeue") for _ in range(AT_ONCE)]
    crashed: list[str] = []

    def ended() -> bool:
        crashed.extend(cluster.revive())
        return not cluster.root("ctl", "squeue", "-h", "-o", "%A")

    eventually("they end", ended, 240)
    states = [cluster.state_of(job) for job in jobs]
    assert crashed or states == ["COMPLETED"] * len(jobs), states
    return jobs, crashed


def _slurmctld_log(cluster: Cluster) -> str:
    return cluster.root("ctl", "cat", "/var/log/slurm/slurmctld.log")
