# SPDX-License-Identifier: Apache-2.0
"""The program as a person has it: in a terminal (tmux), with --demo."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tui.terminal import Terminal, terminal

__all__ = ["terminal"]  # a fixture

PROGRAM = [str(Path(sys.executable).with_name("hpcnet-tui")), "--demo", "--nodes", "40"]


def test_a_person_looks_around(terminal: Terminal, tmp_path: Path) -> None:
    terminal.start(*PROGRAM, "--interval", "1")
    first = terminal.wait("20 jobs", "bit/s", "q quit")
    terminal.wait_for(lambda text: text.splitlines()[2:20] != first.splitlines()[2:20], "other numbers")
    terminal.press("/", "d", "i", "r", "e", "c", "t", "Enter")
    terminal.wait("/direct", " 4 jobs")
    terminal.press("Escape")
    terminal.wait("20 jobs")
    terminal.press("Enter")
    terminal.wait("subnet", "median", "rx above, tx below")
    terminal.wait_for(lambda text: re.search(r"^\s+n\d+ ", text, re.MULTILINE) is not None, "its nodes")
    terminal.press("Enter")
    terminal.wait("received", "namespace")
    terminal.press("e")
    # not what it says: that goes after some seconds, in which a busy machine may not look
    terminal.wait_for(lambda _: len(list(tmp_path.glob("hpcnet-*.json"))) == 1, "the file that was written")
    terminal.press("Escape")
    terminal.wait("median")
    terminal.press("Escape")
    terminal.wait("20 jobs")
    terminal.resize(80, 24)
    assert max(map(len, terminal.wait("20 jobs", "q quit").splitlines())) <= 80
    terminal.wait_for(lambda text: "▌" not in text, "the table without what was said of the file over it")
    terminal.press("Space")
    text = terminal.wait_for(lambda text: re.search(r"frozen [1-9]", text) is not None, "a second later")
    terminal.wait_for(lambda text: re.search(r"frozen ([3-9]|\d\d)s", text) is not None, "three seconds later")
    assert terminal.text().splitlines()[1:] == text.splitlines()[1:]
    terminal.press("q")
    terminal.wait("exit code 0")


def test_record_and_replay(terminal: Terminal, tmp_path: Path) -> None:
    terminal.start("sh", "-c", f"{' '.join(PROGRAM)} --interval 1; {PROGRAM[0]} --replay hpcnet-*.ndjson")
    terminal.wait("20 jobs", "every 1 s")
    terminal.press("w")
    terminal.wait("recording")
    [file] = tmp_path.glob("hpcnet-*.ndjson")
    assert file.stat().st_mode & 0o777 == 0o600

    def seconds() -> float:
        """How long it is; its last line may not be whole yet."""
        lines = file.read_text().splitlines()[:-1]
        return float(json.loads(lines[-1])["at"] - json.loads(lines[0])["at"]) if lines else 0

    terminal.wait_for(lambda _: seconds() >= 4, "some seconds of samples")
    terminal.press("w")
    terminal.wait_for(lambda text: "recording" not in text, "the end of the recording")
    terminal.press("q")
    terminal.wait_for(lambda text: file.name in text.splitlines()[0], "the recording's name in the first line")
    terminal.wait_for(lambda text: "Gbit/s" in text or "Tbit/s" in text, "rates out of the recording")
    terminal.press("q")
    terminal.wait("exit code 0")


def running(word: str) -> list[int]:
    """The processes that have it in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("end", ["q", "kill -9"])
def test_a_doctor_that_hangs_holds_nobody_up_and_ends_with_the_viewer(
    terminal: Terminal, tmp_path: Path, end: str
) -> None:
    """All of it: what is asked here is scontrol, which a doctor's child asks."""
    seconds = str(1_000_000 + secrets.randbelow(1_000_000_000))
    for name, script in {"squeue": "exit 1", "scontrol": f"sleep {seconds}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    shell = f"PATH={tmp_path}:$PATH; echo $$ > pid; exec {PROGRAM[0]} --transport srun"
    terminal.start("sh", "-c", shell)
    terminal.wait("squeue", "q quit")
    terminal.press("v")
    terminal.wait_for(lambda text: bool(running(seconds)), "doctor asks")
    begin = time.monotonic()
    if end == "q":
        terminal.press("q")
        terminal.wait("exit code 0")
    else:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        terminal.wait("exit code 137")
    terminal.wait_for(lambda text: not running(seconds), "nothing is left")
    assert time.monotonic() - begin < 15, "doctor waits 20 s for scontrol"


def test_no_color_is_obeyed(terminal: Terminal) -> None:
    terminal.start(*PROGRAM, NO_COLOR="1")
    terminal.wait("20 jobs", "bit/s")
    text = terminal.text(colours=True)
    assert "\x1b[7m" in text or "\x1b[1;7m" in text or ";7m" in text, "the cursor is not to be seen"
    assert "38;" not in text and "48;" not in text


def test_ascii(terminal: Terminal) -> None:
    terminal.start(*PROGRAM, "--ascii")
    terminal.wait("20 jobs", "q quit")
    terminal.press("Enter")
    assert terminal.wait("median", "rx above").isascii()


def test_keys_of_ones_own(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "hpcnet").mkdir()
    (tmp_path / "hpcnet" / "tui.toml").write_text('[keys]\nquit = "x"\n')
    terminal.start(*PROGRAM, XDG_CONFIG_HOME=str(tmp_path))
    terminal.wait("x quit")
    terminal.press("x")
    terminal.wait("exit code 0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[keys]\nfly = "x"\n', "[keys] fly is not known; there are: back, bytes,"),
        ("[keys]\nquit = 7\n", '[keys] quit must be a key such as "z"'),
        ("[colours]\n", "the only section is [keys]"),
        ("keys", "tui.toml: "),
    ],
)
def test_wrong_keys_are_one_line(terminal: Terminal, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "hpcnet").mkdir()
    (tmp_path / "hpcnet" / "tui.toml").write_text(text)
    terminal.start(*PROGRAM, XDG_CONFIG_HOME=str(tmp_path), size=(400, 10))
    seen = terminal.wait("exit code 1")
    assert message in seen
    assert "Traceback" not in seen


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
    )


def test_what_is_no_terminal_gets_no_screen() -> None:
    done = run(*PROGRAM)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "hpcnet-tui: stdout is not a terminal; --demo and --replay are for one\n"


def test_without_a_terminal_it_is_hpcnet_stats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host without Slurm, which both say in the same words."""
    monkeypatch.setenv("PATH", str(tmp_path))
    stats = run(sys.executable, "-I", "-m", "hpcnet", "stats", "--once")
    done = run(PROGRAM[0])
    assert (done.returncode, done.stdout, done.stderr) == (stats.returncode, stats.stdout, stats.stderr)
    assert "squeue" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interval", "0"], "'0' is not a number of seconds from 1 to 60"),
        (["--interval", "nan"], "'nan' is not a number of seconds from 1 to 60"),
        (["--nodes", "-3"], "'-3' is not an integer from 1 to 10000"),
        (["--replay", "x"], "argument --replay: not allowed with argument --demo"),
    ],
)
def test_wrong_options(words: list[str], message: str) -> None:
    done = run(*PROGRAM, *words)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("text", ["", "no JSON\n", "{}\n", '{"at": 1, "schema": 99, "job": 1}\n'])
def test_what_is_no_recording(terminal: Terminal, tmp_path: Path, text: str) -> None:
    file = tmp_path / "it.ndjson"
    file.write_text(text)
    terminal.start(PROGRAM[0], "--replay", str(file), size=(300, 10))
    seen = terminal.wait("exit code 1")
    assert "it.ndjson" in seen
    assert "Traceback" not in seen
