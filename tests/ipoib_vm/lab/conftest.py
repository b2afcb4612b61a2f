# SPDX-License-Identifier: Apache-2.0
"""One lab on InfiniBand for all tests of this directory: two nodes, each host with an adapter of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from hpcnet.lab.cluster import Options
from tests.cluster.cluster import Cluster
from tests.ipoib_vm.adapter import sh
from tests.ipoib_vm.conftest import LAB

NODES = ("n1", "n2")
SITE: dict[str, dict[str, Any]] = {
    "offer": {"modes": ["vxlan", "direct"], "pkeys": ["0x8001"]},
    "direct": {"allow_shared": True, "pkey_pool": ["0x8002", "0x8003"]},
    "hooks": {"deadline": 240},
}
# The lab's own limits are for a processor that is not emulated.
SLURM = {"PrologEpilogTimeout": "400", "MessageTimeout": "60", "SlurmdTimeout": "300"}


class Vm(Cluster):
    """With what the VM itself has of interfaces: children of namespaces that die come back there."""

    def up(self, options: Options | None = None) -> None:
        super().up(options)
        self._links = sh("ip -br link")

    def assert_pristine(self, nodes: Sequence[str] | None = None) -> None:
        super().assert_pristine(nodes)
        assert sh("ip -br link") == self._links


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The lab; whoever starts a job in it ends it."""
    made = Vm(LAB, NODES)
    made.up(Options(nodes=len(NODES), fabric="infiniband", slurm=SLURM, hpcnet=SITE))
    yield made
    made.lab.down()
