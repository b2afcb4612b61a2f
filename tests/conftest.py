# SPDX-License-Identifier: Apache-2.0
"""``--known-skips`` (or CI=true): a test that is skipped for a reason that is not listed here has failed.

So that a program missing on the machine of a continuous integration does not go by as success.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from typing import Any, TypeVar

import pytest

# Regular expressions for whole reasons, each with why a machine may lack it. Keep it short: CI is root on Debian.
KNOWN_SKIPS: tuple[str, ...] = ()

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--known-skips",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="fail tests that are skipped for a reason not listed in tests/conftest.py (default when CI=true)",
    )


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_setupnodes(specs: Any) -> None:
    """With ``-n 2``, as root: each worker in a process table of its own.

    Hosts of tests/kernel see all its processes, and would take the namespaces of the lab's jobs for theirs.
    """
    if os.geteuid() == 0:
        alone = "unshare --pid --fork --kill-child --mount-proc tini --"
        for spec in specs:
            spec.python = f"{alone} {sys.executable}"


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n 2``: the lab's tests, most of whose time is waiting for Slurm, beside the others."""
    from xdist.scheduler import LoadScopeScheduling

    class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "lab" if nodeid.startswith("tests/cluster/") else "others"

    return _Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _judged(item.config, report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _judged(collector.config, report)


def _judged(config: pytest.Config, report: _Report) -> _Report:
    """The report, made a failure if it is a skip for an unlisted reason; an expected failure is none."""
    if not report.skipped or hasattr(report, "wasxfail") or not config.getoption("known_skips"):
        return report
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not any(re.fullmatch(known, reason) for known in KNOWN_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped for a reason that tests/conftest.py does not list: {reason}"
    return report
