# SPDX-License-Identifier: Apache-2.0
"""The module goes, also from under an interface that is up with a child, and comes again. The last test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.ipoib_vm.adapter import sh, wait_for_carrier

pytestmark = pytest.mark.ipoib_vm


def test_unload_and_load() -> None:
    module = Path(__file__).parents[3] / ".ipoib-vm/softib" / os.environ["KERNEL"] / "softib.ko"
    sh("ip link set ib7 up; ip link add link ib7 name child type ipoib pkey 0x8001; ip link set child up")
    wait_for_carrier("child")
    sh("rmmod softib")
    assert not list(Path("/sys/class/infiniband").iterdir())
    assert "infiniband" not in sh("ip link")
    sh(f"insmod {module} hcas=2")
    sh("ip link set ib0 up")
    wait_for_carrier("ib0")
    sh("rmmod softib")
