# SPDX-License-Identifier: Apache-2.0
"""``srun --x11`` in a job's network: an X server on the login node, and X clients in tasks that reach it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, eventually
from tests.cluster.test_pmix import assert_nothing_is_left, relays

pytestmark = pytest.mark.cluster

DISPLAY = "login:55"
SEES = "echo display $DISPLAY; timeout 10 xset q | grep Keyboard; ip -o link | grep -c hpc0; true"
SERVER = """
xauth add login:55 . 0123456789abcdef0123456789abcdef
exec Xvfb :55 -listen tcp -nolisten unix -nolisten local -auth ~/.Xauthority -screen 0 64x64x8
"""


@pytest.fixture(scope="module")
def screen(_lab: Cluster) -> Iterator[Cluster]:
    """A lab whose Slurm forwards X11, for which it wants control groups; alice's X server on the login node."""
    _lab.settle()
    _lab.lab.configure(slurm={"ProctrackType": "proctrack/cgroup", "PrologFlags": "Alloc,DeferBatch,X11"})
    null = subprocess.DEVNULL
    command = _lab.lab.command("login", ["sh", "-c", f"cd; touch .Xauthority; {SERVER}"], user="alice")
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as server:
        try:
            eventually("the X server listens", lambda: _lab.root("login", "ss", "-Hltn", "sport", "=", ":6055"))
            yield _lab
        finally:
            server.terminate()
    _lab.lab.configure()


def forwarded(cluster: Cluster, *words: str) -> str:
    """What alice's command prints that is to forward her display."""
    return cluster.run("env", f"DISPLAY={DISPLAY}", *words).stdout


@pytest.mark.parametrize("network", ["ib", "ib,egress=none"])
def test_tasks_on_all_nodes_reach_the_display(screen: Cluster, cluster: Cluster, network: str) -> None:
    said = forwarded(cluster, "srun", "--x11", "-N3", f"--network={network}", "sh", "-c", SEES)
    assert said.count("Keyboard Control") == 3
    assert len(re.findall(r"^1$", said, re.MULTILINE)) == 3
    assert_nothing_is_left(cluster)


def test_all_steps_of_a_job_do_at_once_and_one_after_another(screen: Cluster, cluster: Cluster) -> None:
    steps = f"step() {{ srun --overlap -N2 sh -c '{SEES}'; }}; step & step & wait; step; true"
    said = forwarded(cluster, "salloc", "-Q", "--x11", "-N2", "--network=ib", "sh", "-c", steps)
    assert said.count("Keyboard Control") == 6


def test_the_display_is_the_jobs_alone_and_its_relay_ends_with_it(screen: Cluster, cluster: Cluster) -> None:
    wait = "echo display $DISPLAY > ~/display; exec sleep 60"
    words = ["srun", "--x11", "-N1", "-w", "n1", "--network=ib", "sh", "-c", f"cd; {wait}"]
    command = cluster.lab.command("login", ["env", f"DISPLAY={DISPLAY}", *words], user="alice")
    file = cluster.lab.layout.home("alice") / "display"
    file.unlink(missing_ok=True)
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=null, stderr=null):
        eventually("the task runs", lambda: file.exists() and "display" in file.read_text())
        [number] = re.findall(r"localhost:(\d+)", file.read_text())
        assert len(relays(cluster)) == 1
        attempt = f"exec 3<>/dev/tcp/127.0.0.1/{6000 + int(number)} && echo in || echo out"
        job = cluster.root("ctl", "squeue", "-h", "-o", "%A").strip()
        own = cluster.run("srun", "--overlap", f"--jobid={job}", "-N1", "bash", "-c", attempt).stdout
        other = cluster.run("srun", "-w", "n1", "-N1", "--network=ib", "bash", "-c", attempt, user="bob").stdout
        assert (own, other) == ("in\n", "out\n")
        cluster.run("scancel", job)
    assert_nothing_is_left(cluster)


@pytest.mark.parametrize("options", [("--x11", "--network=ib,join=none"), ("--x11",), ("--network=ib",)])
def test_a_job_that_needs_no_relay_has_none(screen: Cluster, cluster: Cluster, options: tuple[str, ...]) -> None:
    count = "sleep 0.5; ps -e -o comm= | grep -c hpcnet-relay; true"
    assert forwarded(cluster, "srun", "-w", "n1", "-N1", *options, "sh", "-c", count) == "0\n"
