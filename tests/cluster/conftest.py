# SPDX-License-Identifier: Apache-2.0
"""One lab for all cluster tests; behind each test stands the proof that it left nothing on any node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster

if os.geteuid() != 0:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # /var/lib rather than pytest's directory: every lab host must be able to read it.
    cluster = Cluster(Path(os.environ.get("HPCNET_LAB") or "/var/lib/hpcnet-lab-tests"))
    cluster.up()
    yield cluster
    cluster.lab.down()


@pytest.fixture
def cluster(_lab: Cluster) -> Iterator[Cluster]:
    """The lab with no job in it; afterwards every node must be idle and as it was when the lab came up."""
    yield _lab
    _lab.settle()
    _lab.assert_pristine()
