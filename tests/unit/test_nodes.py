# SPDX-License-Identifier: Apache-2.0
"""A command over nodes, with programs of all manners in the remote shell's place."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import pytest

from hpcnet.cli import cleanup, doctor, nodes
from hpcnet.cli.nodes import DONE, LEFT, UNKNOWN, Answer, ask

EMPTY: dict[str, Any] = {
    "dry_run": False,
    "networks": [],
    "filter": [],
    "filter_problem": None,
    "docker_problem": None,
    "leases": None,
}


def network(**changes: str) -> dict[str, Any]:
    return {"job_id": 17, "kind": "dead", "done": "removed", **changes}


class Rsh:
    """Makes a remote shell of one line of sh, where ``$1`` is the node."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "rsh"

    def __call__(self, script: str) -> str:
        self._path.write_text(f"#!/bin/sh\n{script}\n")
        self._path.chmod(0o755)
        return str(self._path)

    def saying(self, document: Mapping[str, Any], code: int = 0) -> str:
        """Prints a report over several lines, as the command does."""
        return self(f"cat <<'X'\n{json.dumps(document, indent=2)}\nX\nexit {code}")


@pytest.fixture
def rsh(tmp_path: Path) -> Rsh:
    return Rsh(tmp_path)


def cleaned(rsh: str, *names: str) -> tuple[int, dict[str, Answer]]:
    return ask(names or ("n1",), ["cleanup"], rsh, cleanup.code_of, cleanup._summary)


WORTH: dict[str, tuple[dict[str, Any], int]] = {
    "nothing": ({}, DONE),
    "removed": ({"networks": [network()]}, DONE),
    "kept alive": ({"networks": [network(kind="live", done="kept")]}, DONE),
    "failed": ({"networks": [network(done="failed")]}, LEFT),
    "found": ({"dry_run": True, "networks": [network(done="found")]}, LEFT),
    "entries removed": ({"filter": [{"vni": 1, "peers": []}]}, DONE),
    "entries found": ({"dry_run": True, "filter": [{"vni": 1, "peers": []}]}, LEFT),
    "nft": ({"filter_problem": "nft is not installed"}, LEFT),
    "dockerd": ({"docker_problem": "dockerd does not answer"}, LEFT),
    "unknown": ({"networks": [network(kind="unknown", done="kept")]}, UNKNOWN),
    "failed and unknown": ({"networks": [network(kind="unknown", done="kept"), network(done="failed")]}, LEFT),
    "leases freed": ({"leases": {"leases": [{"serial": 1}], "silence": None}}, DONE),
    "leases found": ({"dry_run": True, "leases": {"leases": [{"serial": 1}], "silence": None}}, LEFT),
    "no slurmctld": ({"leases": {"leases": [], "silence": "squeue: no answer"}}, UNKNOWN),
}


@pytest.mark.parametrize("code", [0, 1, 3])
@pytest.mark.parametrize("what", WORTH)
def test_the_report_decides_whatever_the_remote_shell_exits_with(rsh: Rsh, what: str, code: int) -> None:
    changes, worth = WORTH[what]
    assert cleaned(rsh.saying({**EMPTY, **changes}, code)) == (worth, {"n1": {**EMPTY, **changes}})


def test_so_does_doctors(rsh: Rsh) -> None:
    for failed in (True, False):
        found: dict[str, Any] = {"failed": failed, "findings": []}
        code, _ = ask(["n1"], ["doctor"], rsh.saying(found), doctor._code, doctor.summary)
        assert code == int(failed)


def test_a_greeting_that_is_no_utf8_changes_nothing(rsh: Rsh) -> None:
    greeting = r"printf 'Gr\374\337e {von} \n{ n1\n' | tee /dev/stderr"
    script = rsh(f"{greeting}\necho '{json.dumps(EMPTY)}'; printf 'Tsch\\374\\337\\n'")
    assert cleaned(script) == (DONE, {"n1": EMPTY})


NO_REPORT = {
    "nothing": ("true", "exit code 0, and no report"),
    "a failure": ("exit 255", "exit code 255, and no report"),
    "its words": ("echo 'ssh: no route' >&2; exit 255", "ssh: no route"),
    "words that are no UTF-8": (r"printf 'k\303\251in Weg \374\n' >&2; exit 255", "kéin Weg \ufffd"),
    "half a report": ("echo '{\"networks\": ['", "exit code 0, and no report"),
    "no report of ours": ("echo '[1]'", "exit code 0, and no report"),
    "another version's": ("echo '{\"networks\": []}'", "its report is not one of this version's"),
    "another kind of value": ("echo '{\"networks\": 5}'", "its report is not one of this version's"),
}


@pytest.mark.parametrize("what", NO_REPORT)
def test_who_gives_no_report_is_told_apart_from_the_others(
    rsh: Rsh, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    script, why = NO_REPORT[what]
    good = f"cat <<'X'\n{json.dumps(EMPTY)}\nX\n"
    code, answers = cleaned(rsh(f'if [ "$1" = n2 ]; then {script}; exit; fi\n{good}'), "n1", "n2", "n3")
    assert code == UNKNOWN
    assert answers["n2"]["error"].startswith(why)
    assert answers["n1"] == answers["n3"] == EMPTY
    progress = capsys.readouterr()
    assert progress.out == ""
    assert {line.partition(": ")[0].partition(" ")[2] for line in progress.err.splitlines()} == {"n1", "n2", "n3"}
    assert [line.partition(" ")[0] for line in progress.err.splitlines()] == ["1/3", "2/3", "3/3"]


def test_a_shell_that_is_not_there() -> None:
    assert cleaned("/no/such/shell")[1] == {
        "n1": {"error": "/no/such/shell cannot be started: No such file or directory"}
    }


HANGS: dict[str, Callable[[Path], str]] = {
    "itself": lambda left: f"echo $$ > {left}; exec sleep 60",
    "and what it started has its pipes": lambda left: f"sleep 60 & echo $! > {left}; wait",
    "and does not end when it is asked": lambda left: (
        f"echo $$ > {left}; trap '' TERM; while :; do sleep 0.1; done"
    ),
}


@pytest.mark.parametrize("how", HANGS)
def test_a_node_that_hangs_holds_nobody_up_for_longer_than_its_time(
    rsh: Rsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(nodes, "NODE_SECONDS", 1)
    monkeypatch.setattr(nodes, "_PATIENCE", 0.5)
    left = tmp_path / "left"
    begin = time.monotonic()
    code, answers = cleaned(rsh(HANGS[how](left)))
    took = time.monotonic() - begin
    if "pipes" in how:
        os.kill(int(left.read_text()), 9)
    assert (code, answers) == (UNKNOWN, {"n1": {"error": "no answer within 1 s"}})
    assert took < 20
