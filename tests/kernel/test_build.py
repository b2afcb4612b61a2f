# SPDX-License-Identifier: Apache-2.0
"""Prolog and Epilog on a real kernel: what is built, what of it reaches whom, and that nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Fabric, Host, job_environment, lease_of, require_root

require_root()
pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    made = Fabric(3)
    yield made
    made.close()


def built(hosts: list[Host], environment: dict[str, str]) -> None:
    for host in hosts:
        result = host.hook("prolog", environment)
        assert result.returncode == 0, result.stderr
        assert "refused" not in result.stderr


def removed(hosts: list[Host], environment: dict[str, str]) -> None:
    for host in hosts:
        result = host.hook("epilog", environment)
        assert result.returncode == 0, result.stderr


def test_a_job_over_three_nodes_reaches_its_peers_and_leaves_nothing(fabric: Fabric) -> None:
    before = [host.state() for host in fabric.hosts]
    environment = job_environment(lease_of(), "n[1-3]")
    built(fabric.hosts, environment)
    for host in fabric.hosts:
        for address in ("10.128.0.1", "10.128.0.2", "10.128.0.3", "fd68:7063:6e65::3"):
            host.in_job(17, "ping", "-c1", "-W1", "-q", address)
    removed(fabric.hosts, environment)
    assert [host.state() for host in fabric.hosts] == before
