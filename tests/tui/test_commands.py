# SPDX-License-Identifier: Apache-2.0
"""Cleanup behind its question, and what doctor and check say among the events. The hpcnet command is a script here
that records how it was called; tests/cluster has the real one.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from hpcnet.counters.model import JobInfo
from hpcnet.tui import commands
from hpcnet.tui.commands import Commands
from hpcnet.tui.screens.cleanup import Question
from hpcnet.tui.screens.jobs import JobsScreen
from tests.tui.stage import LARGE, Stage

DOCTOR = {
    "host": "login",
    "findings": [
        {"check": "uplink", "status": "fail", "finding": "ib0 is down", "remedy": "ip link set ib0 up"},
        {"check": "nft", "status": "warn", "finding": "no table", "remedy": ""},
        {"check": "python", "status": "ok", "finding": "3.11", "remedy": ""},
    ],
}
CHECK = [
    {"job_id": 7, "clean": False, "problem": "", "missing": ["link hpcvx"], "foreign": [], "silent": ["n2"]},
    {"job_id": 8, "clean": True, "problem": "", "missing": [], "foreign": [], "silent": []},
]


@pytest.fixture
def hpcnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a script in the place of the hpcnet command; returns the file that has the words of each call."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    called = tmp_path / "called"

    def make(code: int = 0, err: str = "", **answers: object) -> Path:
        for name, answer in answers.items():
            (tmp_path / name).write_text(answer if isinstance(answer, str) else json.dumps(answer))
        script = tmp_path / "hpcnet"
        answer = f'case "$1 $2" in "doctor --nodes") cat {tmp_path}/nodes;; *) cat {tmp_path}/$1;; esac'
        script.write_text(f"#!/bin/sh\necho $* >> {called}\n{answer}\necho '{err}' >&2\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setattr(commands, "program", lambda: str(script))
        return called

    return make


def stage(**settings: Any) -> Stage:
    made = Stage(rounds=3, **settings)
    made.app.session.commands = Commands("/etc/hpcnet/hpcnet.toml")
    return made


async def settled(made: Stage, pilot: Pilot[Any]) -> str:
    await made.app.workers.wait_for_complete()
    await pilot.pause()
    return "\n".join(made.text())


def test_cleanup_asks_first_and_names_the_job(hpcnet: Callable[..., Path]) -> None:
    called = hpcnet(cleanup="job 48210: removed: no job")
    made = stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("home")
        key = made.table.key or "0"
        await pilot.press("x")
        await pilot.pause()
        assert isinstance(made.app.screen, Question)
        info = made.feed.job(int(key))
        assert info is not None
        text = "\n".join(made.text())
        assert f"Remove what is left of job {info.info.label} of {info.info.user}?" in text
        assert f"hpcnet cleanup --job {info.info.job_id} --nodes " in text
        for no in ("n", "escape", "enter", "q"):
            await pilot.press(no)
            await pilot.pause()
            assert isinstance(made.app.screen, JobsScreen)
            await pilot.press("x")
            await pilot.pause()
        assert not called.exists(), "nothing but a yes does anything"
        await pilot.press("y")
        await settled(made, pilot)
        assert "removed: no job" in [*made.app._notifications][-1].message
        assert called.read_text().startswith(f"cleanup --job {info.info.job_id} --nodes n")
        await pilot.press("v")
        assert "cleanup: job 48210: removed: no job" in await settled(made, pilot)

    made.run(play, (100, 30))


def test_a_cleanup_that_cannot_is_said(hpcnet: Callable[..., Path]) -> None:
    hpcnet(code=3, err="hpcnet: cannot", cleanup="")
    made = stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter", "x", "y")
        await settled(made, pilot)
        assert [*made.app._notifications][-1].message == "cleanup: hpcnet: cannot"

    made.run(play)


def test_who_is_not_root_has_no_cleanup(hpcnet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    called = hpcnet(cleanup="")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    made = stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("x")
        await pilot.pause()
        assert isinstance(made.screen, JobsScreen)
        assert "x cleanup" not in "\n".join(made.text())

    made.run(play)
    assert not called.exists()


def test_events_say_what_doctor_and_check_find(hpcnet: Callable[..., Path]) -> None:
    wrong = {"findings": [{"check": "uplink", "status": "fail", "finding": "no ib0", "remedy": "plug it in"}]}
    called = hpcnet(doctor=DOCTOR, check=CHECK, nodes={"nodes": {"n19": wrong, "n75": {"error": "ssh: no route"}}})
    made = stage()
    own = os.uname().nodename.partition(".")[0]

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("v")
        text = await settled(made, pilot)
        for line in (
            "doctor: uplink: ib0 is down -> ip link set ib0 up",
            "doctor: nft: no table",
            "check: missing: link hpcvx",
            "check: silent: n2",
        ):
            assert line in text
            assert own in next(each for each in text.splitlines() if line in each)
        assert "python" not in text
        assert next(line for line in text.splitlines() if "ib0 is down" in line).split()[1] == "error"
        await pilot.press("escape", "v")
        await settled(made, pilot)
        assert len(called.read_text().splitlines()) == 2, "once, unless one asks"
        await pilot.press("d")
        text = await settled(made, pilot)
        asked = called.read_text().splitlines()
        assert len(asked) == 5 and asked[4].startswith("doctor --nodes n[103,19,"), "root: and those in trouble"
        lines = [" ".join(line.split()[1:]) for line in text.splitlines()]
        assert "error - n19 doctor: uplink: no ib0 -> plug it in" in lines
        assert "error - n75 doctor: ssh: no route" in lines

    made.run(play, LARGE)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            {"doctor": "", "code": 3, "err": "hpcnet: /etc/hpcnet/hpcnet.toml: not TOML"},
            "doctor: hpcnet: /etc/hpcnet",
        ),
        ({"doctor": {"findings": DOCTOR["findings"][2:]}}, "doctor: all of 1 checks are well"),
    ],
)
def test_what_is_well_and_what_cannot_be_told(
    hpcnet: Callable[..., Path], answers: dict[str, Any], message: str
) -> None:
    hpcnet(check=[], **answers)
    made = stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("v")
        assert message in await settled(made, pilot)

    made.run(play, LARGE)


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "program", lambda: "/nowhere/hpcnet")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = list(Commands("x").examine())
    assert [each[:3] for each in said] == [
        ("error", "", "doctor: /nowhere/hpcnet cannot be started: No such file or directory")
    ]


def test_a_cleanup_that_was_confirmed_is_finished_after_the_viewer_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, go, done = tmp_path / "hpcnet", tmp_path / "go", tmp_path / "done"
    script.write_text(f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.1; done\necho removed || exit 1\ntouch {done}\n")
    script.chmod(0o755)
    monkeypatch.setattr(commands, "program", lambda: str(script))
    asked, late = Commands("x"), threading.Timer(20, go.touch)
    threading.Timer(0.2, asked.close).start()
    late.start()
    list(asked.run_cleanup(JobInfo(7, nodes=("n1",))))
    assert not go.exists(), "nobody waits for it"
    late.cancel()
    go.touch()
    [process] = asked.unfinished
    assert process.wait(30) == 0
    assert done.exists()
