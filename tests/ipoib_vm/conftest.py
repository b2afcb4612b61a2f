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

if not os.environ.get("HPCNET_IPOIB_VM"):
    collect_ignore = ["lab", "node"]

RESULTS = Path(__file__).parents[2] / ".ipoib-vm" / "results"
LAB = Path(os.environ.get("HPCNET_LAB", ""))

# Warnings of the kernel that tell of no fault of ours; each is a whole message.
_EXPECTED = (
    # softib is built outside the kernel and not signed
    "softib: loading out-of-tree module taints kernel.",
    "softib: module verification failed: signature and/or required key missing - tainting kernel",
    # ib_ipoib names these files by interface only, and every lab host has an ib0, every job an hpc0
    r"debugfs: File '\w+_(mcg|path)' in directory 'ipoib' already present!",
    # what it says of every interface in connected mode
    r"\w+: enabling connected mode will cause multicast packet drops",
    r"\w+: mtu > \d+ will cause multicast packet drops\.",
    # of tests in which the subnet manager is silent, or the port is not in the partition
    r"\w+: multicast join failed for \S+, status -(110|22)",
    r"\w+: P_Key 0x\w+ is not found",
    # the machine did not let the VM run for a while
    "clocksource: .*",
    "hrtimer: interrupt took .*",
    # a file of the machine came and went while the VM ran; a message of several lines
    r"FS-Cache: .*|\s*(9p,machine,\])?",
    # of the test that tries it
    ".* Master is either lo or non-ether device",
)


def kernel_warnings() -> list[str]:
    """What the kernel has warned of, or worse, but for what is expected."""
    shown = subprocess.run(
        ["dmesg", "--notime", "--level=emerg,alert,crit,err,warn"], capture_output=True, text=True, check=True
    )
    expected = re.compile("|".join(f"(?:{text})" for text in _EXPECTED))
    return [line for line in shown.stdout.splitlines() if not expected.fullmatch(line)]


@pytest.fixture(autouse=True)
def _quiet_kernel() -> Iterator[None]:
    """No warning and no oops in the kernel's log; a test that frees too much or too little shows there."""
    before = kernel_warnings()
    yield
    assert kernel_warnings()[len(before) :] == []


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
