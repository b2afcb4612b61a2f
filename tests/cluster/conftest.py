# SPDX-License-Identifier: Apache-2.0
"""One lab for all cluster tests; behind each test stands the proof that it left nothing on any node."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.scene import Scene

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
    ended = _lab.revive()
    _lab.settle()
    _lab.assert_pristine()
    assert not ended, f"slurmd of {ended} had ended: see {_lab.lab.layout.root}/hosts/*/log/slurm"


@pytest.fixture(scope="module")
def _scene(_lab: Cluster) -> Iterator[Scene]:
    yield Scene(_lab)
    _lab.settle()
    _lab.assert_pristine()


@pytest.fixture
def scene(_scene: Scene) -> Iterator[Scene]:
    """Whatever bob did, alice's network is as it was and has received nothing; no node drains."""
    yield _scene
    changes = list(difflib.unified_diff(_scene.before, _scene.state(), lineterm="", n=2))
    assert not changes, "\n".join(changes)
    assert not {state for state in _scene.cluster.node_states().values() if "drain" in state}
