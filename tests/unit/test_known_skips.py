# SPDX-License-Identifier: Apache-2.0
"""tests/conftest.py: in CI a skip is a failure unless its reason is listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TESTS = """
import pytest
@pytest.mark.skip(reason="no such program")
def test_marked(): ...
def test_called(): pytest.skip("called")
@pytest.mark.xfail(reason="known bug", strict=True)
def test_expected(): assert False
def test_good(): ...
"""


def run(directory: Path, text: str, *options: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    environment = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [*command, *options, str(directory)],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_skips_are_allowed_on_a_developers_machine(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS)
    assert (done.returncode, "1 passed, 2 skipped, 1 xfailed" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize(("options", "ci"), [(["--known-skips"], ""), ([], "true")])
def test_an_unlisted_skip_fails(tmp_path: Path, options: list[str], ci: str) -> None:
    done = run(tmp_path, TESTS, *options, ci=ci)
    assert done.returncode == 1
    assert "skipped for a reason that tests/conftest.py does not list: no such program" in done.stdout
    assert "1 failed, 1 passed, 1 xfailed, 1 error" in done.stdout


def test_an_unlisted_skip_of_a_whole_module_fails(tmp_path: Path) -> None:
    text = "import pytest\npytest.importorskip('no_such_module_here')\ndef test_it(): ...\n"
    assert run(tmp_path, text).returncode == 5
    done = run(tmp_path, text, "--known-skips")
    assert (done.returncode, "no_such_module_here" in done.stdout) == (2, True), done.stdout
