# SPDX-License-Identifier: Apache-2.0
"""Tests inside the VM (tools/ipoib-vm); elsewhere they are not there. The kernel's log is part of each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.ipoib_vm.kernellog import KernelLog

if not os.environ.get("HPCNET_IPOIB_VM"):
    collect_ignore = ["lab", "node"]

RESULTS = Path(__file__).parents[2] / ".ipoib-vm" / "results"
LAB = Path(os.environ.get("HPCNET_LAB", ""))


@pytest.fixture(scope="session", autouse=True)
def kernel_log() -> Iterator[KernelLog]:
    """The kernel's log since before softib was loaded. What the end of the last fixtures brings counts too."""
    log = KernelLog()
    yield log
    assert log.warnings() == []
    log.close()


@pytest.fixture(autouse=True)
def _quiet_kernel(kernel_log: KernelLog) -> Iterator[None]:
    """No warning and no oops since the last test ended: code that frees too much or too little shows there."""
    yield
    assert kernel_log.warnings() == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails leaves the kernel's log and those of the lab's hosts in results/failed."""
    report = yield
    if report.failed:
        _keep_logs(RESULTS / "failed" / re.sub(r"[^\w.-]+", "_", item.name))
    return report


def _keep_logs(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "dmesg.log").open("w") as file:
        subprocess.run(["dmesg", "--decode"], stdout=file, check=False)
    for log in LAB.glob("hosts/*/log"):
        shutil.copytree(log, directory / log.parent.name, dirs_exist_ok=True)
