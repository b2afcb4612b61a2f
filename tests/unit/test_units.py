# SPDX-License-Identifier: Apache-2.0
"""The systemd units in etc/: what they start is a command that hpcnet knows, at the right moment of a boot."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from hpcnet.cli import commands

ETC = Path(__file__).parents[2] / "etc"
PROGRAM = "/opt/hpcnet/bin/hpcnet"
SERVICES = sorted(path.name for path in ETC.glob("*.service"))
BEFORE_JOBS = {"hpcnet-filter.service", "hpcnet-cleanup-boot.service", "hpcnet-agent.service"}


def unit(name: str) -> configparser.ConfigParser:
    """Strict: a key that is there twice is an error."""
    read = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string((ETC / name).read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("name", SERVICES)
def test_each_command_line_is_one_that_hpcnet_takes(name: str) -> None:
    service = unit(name)["Service"]
    lines = [line for key, line in service.items() if key.startswith("Exec")]
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        assert program == PROGRAM
        assert callable(commands._parser().parse_args(words).run)


def test_what_stands_before_jobs_is_ordered_so_and_waited_for() -> None:
    for name in BEFORE_JOBS:
        read = unit(name)
        assert "slurmd.service" in read["Unit"]["Before"].split(), name
        assert read["Service"]["Type"] in ("oneshot", "notify"), "slurmd would not wait for its end"
        assert read["Install"]["WantedBy"] == "multi-user.target"
    filtering = unit("hpcnet-filter.service")["Unit"]
    assert "systemd-user-sessions.service" in filtering["Before"].split(), "before users log in"
    assert "nftables.service" in filtering["After"].split() and filtering["PartOf"] == "nftables.service"
    boot = unit("hpcnet-cleanup-boot.service")
    assert {"local-fs.target", "hpcnet-filter.service"} <= set(boot["Unit"]["After"].split())
    arguments = commands._parser().parse_args(shlex.split(boot["Service"]["ExecStart"])[1:])
    assert arguments.boot and not arguments.nodes
    assert "docker.service" not in boot["Unit"]["After"].split(), "it asks nobody"
    assert "docker.service" in unit("hpcnet-agent.service")["Unit"]["Before"].split()


def test_the_timer_starts_its_service_again_and_again() -> None:
    timer, service = unit("hpcnet-cleanup.timer"), unit("hpcnet-cleanup.service")
    assert timer["Timer"].get("Unit", "hpcnet-cleanup.service") == "hpcnet-cleanup.service"
    assert {"OnBootSec", "OnUnitActiveSec", "RandomizedDelaySec"} <= timer["Timer"].keys()
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert service["Service"]["Type"] == "oneshot"
    assert "RemainAfterExit" not in service["Service"], "one that stays active is not started again"
    arguments = commands._parser().parse_args(shlex.split(service["Service"]["ExecStart"])[1:])
    assert not (arguments.boot or arguments.dry_run or arguments.nodes or arguments.job)


def test_systemd_has_nothing_to_say_against_them(tmp_path: Path) -> None:
    """Where it is: it also finds circles in the order."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    for path in (*ETC.glob("*.service"), *ETC.glob("*.timer")):
        text = path.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    made = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *made], capture_output=True, text=True, check=False, timeout=60
    )
    ours = [line for line in done.stderr.splitlines() if "hpcnet" in line]
    assert not ours, done.stderr
