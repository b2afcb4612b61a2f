# SPDX-License-Identifier: Apache-2.0
"""The same with a Docker network: a hook fails or is killed around each request to dockerd, and behind the last.

On nodes of the lab, which have a dockerd and an agent each; the job is none of Slurm's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcnet.lab.cluster import Lab, Options
from hpcnet.model import Request
from tests.cluster.cluster import NODES
from tests.faults.points import Point, faults
from tests.faults.test_hooks import in_turn, on_each, told, tried
from tests.faults.trials import Scenario
from tests.kernel.hosts import Host, job_environment, lease_of, require_root
from tests.kernel.test_direct import direct_lease

require_root()
pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

DOCKER = job_environment(
    lease_of(docker=True, endpoints=2, mtu=65470, egress="host"), "n[1-3]", request=Request(docker=True)
)
DIRECT = job_environment(
    direct_lease(docker=True, endpoints=2, mtu=65520, egress="host"),
    "n[1-3]",
    request=Request(mode="direct", docker=True),
)
OFFER: dict[str, dict[str, Any]] = {
    "offer": {"docker": True, "modes": ["vxlan", "direct"]},
    "direct": {"allow_shared": True},
}

SHARE = 3
"""Without HPCNET_FAULTS=all every so many-th fault is tried: dockerd takes its time."""

# name: hook, its job, every so many-th fault, whether a container runs
SCENARIOS = {
    "Docker": ("prolog", DOCKER, SHARE, False),
    "Docker ends": ("epilog", DOCKER, SHARE, False),
    "Docker ends, with a container": ("epilog", DOCKER, 2 * SHARE, True),
    "Docker, direct": ("prolog", DIRECT, 2 * SHARE, False),
    "Docker, direct ends": ("epilog", DIRECT, 2 * SHARE, False),
    "Docker, direct ends, with a container": ("epilog", DIRECT, 4 * SHARE, True),
}


class Node(Host):
    """A node of the lab, in the terms of the other tests."""

    interpreter = "/opt/hpcnet/bin/python"

    def __init__(self, lab: Lab, name: str) -> None:
        self.name, self.used = name, False
        self._lab = lab

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs a command on the node."""
        return self._lab.command(self.name, argv)

    def hpcnet(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """As installed in the lab."""
        return self.run("/opt/hpcnet/bin/hpcnet", *arguments, check=False)

    def hook(
        self, hook: str, environment: dict[str, str], under: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """As Slurm would, or ``under`` a program that runs it."""
        variables = (f"{key}={value}" for key, value in self.environment(environment).items())
        program = (self.interpreter, "-I", "-m", "hpcnet", hook)
        return self.run("env", "-i", *variables, *under, *program, check=False)

    def configure(self, text: str = "", deadline: int = 30) -> None:
        """The lab has one for all its hosts."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    # not that of tests/cluster, which runs beside these
    lab = Lab.at(Path(f"{os.environ.get('HPCNET_LAB') or '/var/lib/hpcnet-lab-tests'}-faults"))
    lab.down()
    lab.up(Options(nodes=len(NODES), docker=True, hpcnet=OFFER))
    yield [Node(lab, name) for name in NODES]
    lab.down()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_request_of(nodes: list[Node], capsys: pytest.CaptureFixture[str], name: str) -> None:
    hook, environment, share, container = SCENARIOS[name]
    before = (environment,) if hook == "epilog" else ()
    scenario = Scenario(name, hook, environment, before, docker=True, container=container)
    with on_each(nodes, scenario) as (pool, benches):
        points = _from_docker_on(benches[0].points())
        found = faults(points)
        todo = list(in_turn(found, list(SCENARIOS).index(name), share, share))
        wrong = tried(pool, benches, todo)
    with capsys.disabled():
        print(f"\n{name}: {told(points, found, todo)}")
    assert not wrong, "\n".join(wrong)
    assert sum("UNIX" in point.text for point in points) >= 8


def _from_docker_on(points: list[Point]) -> list[Point]:
    first = next(number for number, point in enumerate(points) if point.call == "connect")
    return [point for point in points[first:] if point.call != "nft"]


def test_prolog_again_keeps_the_network(nodes: list[Node]) -> None:
    found = []
    for _ in range(2):
        assert nodes[0].hook("prolog", DOCKER).returncode == 0
        found.append(nodes[0].run("docker", "network", "inspect", "-f", "{{.Id}}", "hpcnet-17").stdout)
    assert nodes[0].hook("epilog", DOCKER).returncode == 0
    assert found[0] == found[1]
