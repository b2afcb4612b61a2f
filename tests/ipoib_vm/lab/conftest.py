# SPDX-License-Identifier: Apache-2.0
"""One lab on InfiniBand for all tests of this directory: two nodes, each host with an adapter of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hpcnet.lab.cluster import Options
from tests.cluster.cluster import Cluster
from tests.ipoib_vm.conftest import LAB

NODES = ("n1", "n2")
SITE: dict[str, dict[str, Any]] = {
    "offer": {"modes": ["vxlan", "direct"], "pkeys": ["0x8001"]},
    "direct": {"allow_shared": True, "pkey_pool": ["0x8002", "0x8003"]},
    "hooks": {"deadline": 240},
}
# The lab's own limits are for a processor that is not emulated.
SLURM = {"PrologEpilogTimeout": "400", "MessageTimeout": "60", "SlurmdTimeout": "300"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The lab; whoever starts a job in it ends it."""
    made = Cluster(LAB, NODES)
    made.up(Options(nodes=len(NODES), fabric="infiniband", slurm=SLURM, hpcnet=SITE))
    yield made
    made.lab.down()
