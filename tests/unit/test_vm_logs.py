# SPDX-License-Identifier: Apache-2.0
"""What tests in virtual machines (tests/ipoib_vm) leave when one fails, and what of a kernel is a fault."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ipoib_vm.kernellog import KernelLog, unexpected

CONFTEST = Path(__file__).parents[1] / "ipoib_vm/conftest.py"
_LOG = """
class KernelLog:
    said = []
    def warnings(self):
        said, KernelLog.said = KernelLog.said, []
        return said
    def close(self):
        pass
"""
_TESTS = """
import pytest
from tests.ipoib_vm.kernellog import KernelLog

@pytest.fixture(scope="module")
def late():
    yield
    KernelLog.said.append("WARNING: in a teardown")

def test_that_is_well():
    pass

def test_that_fails():
    assert False

def test_that_the_kernel_complains_of():
    KernelLog.said.append("BUG: in a test")

def test_that_is_well_too(late):
    pass
"""


def test_what_fails_leaves_its_logs(tmp_path: Path) -> None:
    """With another kernel's log than this machine's. A warning is noticed in a test, and when all have ended."""
    directory = tmp_path / "tests/ipoib_vm"
    directory.mkdir(parents=True)
    for package in (directory.parent, directory):
        (package / "__init__.py").touch()
    for name, text in (("conftest.py", CONFTEST.read_text()), ("kernellog.py", _LOG), ("test_it.py", _TESTS)):
        (directory / name).write_text(text)
    log = tmp_path / "lab/hosts/n1/log/hpcnet.log"
    log.parent.mkdir(parents=True)
    log.write_text("prolog: said something\n")
    environment = {**os.environ, "HPCNET_IPOIB_VM": "1", "HPCNET_LAB": str(tmp_path / "lab")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=junit.xml", str(directory)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert "1 failed, 3 passed, 2 errors" in done.stdout, done.stdout
    left = {path.name: path for path in (tmp_path / ".ipoib-vm/results/failed").iterdir()}
    assert left.keys() == {
        "test_that_fails",
        "test_that_the_kernel_complains_of",
        "test_that_is_well_too",
    }
    for path in left.values():
        assert (path / "n1/hpcnet.log").read_text() == "prolog: said something\n"
        assert (path / "dmesg.log").exists()
    assert "WARNING: in a teardown" in (tmp_path / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("record", "lines"),
    [
        ("6,1,2,-;ib0: link becomes ready", []),
        ("4,1,2,-;softib: loading out-of-tree module taints kernel.", []),
        ("4,1,2,-;WARNING: CPU: 0\n SUBSYSTEM=x", ["WARNING: CPU: 0"]),
        ("3,1,2,c;first\\x0asecond", ["first", "second"]),
        ("12,1,2,-;a program's own warning", ["a program's own warning"]),
    ],
)
def test_a_record_of_the_kernels_log(record: str, lines: list[str]) -> None:
    assert unexpected(record) == lines


def test_a_log_that_ran_over_is_no_quiet_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kmsg").touch()
    monkeypatch.setattr(os, "lseek", lambda *_: 0)
    log = KernelLog(str(tmp_path / "kmsg"))
    answers: Iterator[bytes | Exception] = iter([BrokenPipeError(), b"4,1,2,-;BUG: late", BlockingIOError()])

    def read(descriptor: int, size: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(os, "read", read)
    first, second = log.warnings()
    assert "ran over" in first and second == "BUG: late"
    monkeypatch.undo()
    log.close()
