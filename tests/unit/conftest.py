# SPDX-License-Identifier: Apache-2.0
"""Property tests have no clock: how long one example takes says something of the machine only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from hpcnet import names
from tests.unit.cli import NUMBERED

settings.register_profile("no-clock", deadline=None)
settings.load_profile("no-clock")


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration that needs nothing of this machine."""
    file = tmp_path / "hpcnet.toml"
    file.write_text(NUMBERED, encoding="utf-8")
    return str(file)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A directory for sockets, whose addresses have at most 107 bytes (unix(7)): ``tmp_path`` can be too long."""
    with tempfile.TemporaryDirectory(prefix="hpcnet-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def no_jobs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host has no state of any job."""
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path / "state"))
