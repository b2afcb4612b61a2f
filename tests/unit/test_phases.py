# SPDX-License-Identifier: Apache-2.0
"""What a hook says about its time."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from hpcnet import phases

PHASE = re.compile(r"([a-z ]+) ([0-9]+\.[0-9]) \((-?[0-9]+\.[0-9])\)")

_START = ("python", "imports", "configuration")


def test_without_start_nothing_is_kept() -> None:
    phases.passed("imports")
    assert phases.summary() == ""


def test_a_hook_with_profile_says_where_its_time_went() -> None:
    # No configuration and no token: nothing is leased.
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "17", "SLURM_JOB_UID": "0"}
    command = [sys.executable, "-I", "-m", "hpcnet", "prolog-slurmctld"]
    done = [
        subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=60)
        for more in ((), ("--profile",))
    ]
    assert "ms by phase" not in done[0].stderr
    *_, last = done[1].stderr.splitlines()
    assert last.endswith("exit 0")
    found = PHASE.findall(last.partition("(of the processor): ")[2])
    assert [name.strip() for name, _, _ in found] == [*_START, "imports", "all"], done[1].stderr
    clock = [float(ms) for _, ms, _ in found]
    assert abs(sum(clock[:-1]) - clock[-1]) < 0.5
    assert clock[0] > 1
