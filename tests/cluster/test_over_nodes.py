# SPDX-License-Identifier: Apache-2.0
"""cleanup and doctor over nodes: by ssh, as they do by themselves, and by the real ClusterShell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.ssh import serving
from tests.cluster.test_cleanup import verdicts, without_epilog

__all__ = ["without_epilog"]  # a fixture
pytestmark = pytest.mark.cluster

CLUSH = Path(sys.executable).parent / "clush"
RSH = {
    "ssh": [],
    "clush": ["--rsh", f"{CLUSH} -S -N -w"],
    "clush that keeps exit codes to itself": ["--rsh", f"{CLUSH} -N -w"],
}


@pytest.fixture
def reached(without_epilog: Cluster) -> Iterator[Cluster]:
    """n1 and n2 have an sshd for root of the controller; n3 has none."""
    with serving(without_epilog, ("n1", "n2"), "ctl", ("root",)):
        yield without_epilog


def over(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    return cluster.lab.run("ctl", ["hpcnet", *words], check=False)


def progress(done: subprocess.CompletedProcess[str], count: int) -> dict[str, str]:
    """By node, from standard error: as each is done, counted."""
    found = [re.fullmatch(r"([0-9]+)/([0-9]+) (\w+): (.+)", line) for line in done.stderr.splitlines()]
    assert [line and line[1] for line in found] == [str(number) for number in range(1, count + 1)], done.stderr
    assert {line[2] for line in found if line} == {str(count)}
    return {line[3]: line[4] for line in found if line}


def test_cleanup_and_doctor_over_nodes(reached: Cluster) -> None:
    for by, rsh in RSH.items():
        _by(reached, by, rsh)


def _by(cluster: Cluster, by: str, rsh: list[str]) -> None:
    job = cluster.sbatch("true", "--network=ib", "-N2", "-w", "n[1-2]")
    assert cluster.finished(job) == "COMPLETED"
    add = "ip link add theirs type vxlan id 6816744 dev ib0 dstport 4789"  # of [pool] vni
    cluster.root("n2", *add.split())
    try:
        failing = over(cluster, "doctor", "--json", "--nodes", "n[1-2]", "--local", *rsh)
    finally:
        cluster.root("n2", "ip", "link", "del", "theirs")
    words = ("cleanup", "--json", "--min-age", "0", "--nodes")
    planned = over(cluster, *words, "n[1-2]", "--dry-run", *rsh)
    done = over(cluster, *words, "n[1-2]", *rsh)
    again = over(cluster, *words, "n[1-3]", *rsh)
    assert failing.returncode == 1, (by, failing.stdout)
    assert progress(failing, 2).keys() == {"n1", "n2"}
    assert json.loads(failing.stdout)["nodes"]["n2"]["failed"], by
    assert (planned.returncode, progress(planned, 2)) == (1, {"n1": "1 found", "n2": "1 found"}), by
    assert (done.returncode, progress(done, 2)) == (0, {"n1": "1 removed", "n2": "1 removed"}), by
    for node, report in json.loads(done.stdout)["nodes"].items():
        assert verdicts(report) == {job: ("dead", "removed")}, (by, node)
    assert again.returncode == 3, (by, again.stderr)
    said = progress(again, 3)
    assert (said["n1"], said["n2"]) == ("nothing", "nothing") and "refused" in said["n3"], by
    assert json.loads(again.stdout)["nodes"]["n3"].keys() == {"error"}
