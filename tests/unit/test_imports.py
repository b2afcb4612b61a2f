# SPDX-License-Identifier: Apache-2.0
"""What importing costs and what may import what; the arrows themselves are contracts in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SLOW = {
    "argparse",
    "asyncio",
    "docker",
    "hpcnet.doctor",
    "http.client",
    "pydantic",
    "pyroute2",
    "pyslurm",
    "requests",
    "textual",
}
# What a hook imports when it starts, and what its action imports once it knows that the job asked.
ENTRY = ("hpcnet.cli.main", "hpcnet.cli.hooks")
ACTIONS = {
    "prolog": ("hpcnet.lifecycle", "hpcnet.runtimes.docker", "hpcnet.runtimes.engine"),
    "epilog": ("hpcnet.lifecycle", "hpcnet.runtimes.docker", "hpcnet.runtimes.engine"),
    "prolog-slurmctld": ("hpcnet.allocation",),
    "epilog-slurmctld": ("hpcnet.allocation",),
}


def imported_by(*modules: str) -> set[str]:
    """Modules in ``sys.modules`` of a fresh interpreter that imported these, less those that importing needs."""
    script = (
        "import importlib, sys; before = set(sys.modules)\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *modules], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("hook", ACTIONS)
def test_a_hook_imports_nothing_slow(hook: str) -> None:
    imported = imported_by(*ENTRY, *ACTIONS[hook])
    assert imported >= set(ACTIONS[hook])
    assert not SLOW & imported


def test_the_package_imports_nothing_but_itself() -> None:
    assert imported_by("hpcnet") == {"hpcnet"}


def test_the_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :] + done.stderr


def test_netlink_sockets_are_made_in_kernel_only() -> None:
    # The contracts see imports; this is the one that they cannot see.
    package = CHECKOUT / "hpcnet"
    users = [path for path in package.rglob("*.py") if "AF_NETLINK" in path.read_text(encoding="utf-8")]
    assert [path for path in users if path.parent.name != "kernel"] == []
