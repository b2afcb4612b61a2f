# SPDX-License-Identifier: Apache-2.0
"""What of a hook's discipline needs no kernel: what nobody foresaw, what a user got into a reason.

Each row of who pays for which error: tests/kernel/test_blame.py.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpcnet import config, journal, lifecycle
from hpcnet.cli import hooks, syslog
from hpcnet.config import Hooks, Site
from hpcnet.errors import HpcnetError, NodeError, SiteError, UserError
from hpcnet.slurm.environment import job_from_environment

ENVIRONMENT = {"SLURM_JOB_ID": "17", "SLURM_JOB_UID": "20001", "SLURMD_NODENAME": "n1"}
CODES = {"prolog": 1, "epilog": 1, "prolog-slurmctld": 0, "epilog-slurmctld": 0}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that hooks of job 17 log to."""
    monkeypatch.chdir(tmp_path)  # a hook leaves it for /
    monkeypatch.setattr(config, "load", lambda: Site(hooks=Hooks(log=str(tmp_path / "log"))))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    return tmp_path / "log"


def fails(monkeypatch: pytest.MonkeyPatch, hook: str, error: Exception) -> int:
    """Exit code of a hook that meets this error."""

    def failing(*_: object) -> hooks._Done:
        raise error

    monkeypatch.setitem(hooks._HOOKS, hook, failing)
    return hooks.main(hook)


@pytest.mark.parametrize("hook", CODES)
def test_what_nobody_foresaw_is_one_line(
    log: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], hook: str
) -> None:
    assert fails(monkeypatch, hook, KeyError("vni")) == CODES[hook]
    text = f"hpcnet {hook}: job 17: internal error, please report: KeyError: 'vni'; serial none, done in "
    [line] = log.read_text().splitlines()
    assert text in line
    [said] = capfd.readouterr().err.splitlines()
    assert line.endswith(said)


@pytest.mark.parametrize("error", [UserError("no"), SiteError("no"), NodeError("no")])
@pytest.mark.parametrize("hook", CODES)
def test_errors_outside_the_work_itself_drain_no_node_but_for_an_epilog(
    log: Path, monkeypatch: pytest.MonkeyPatch, hook: str, error: HpcnetError
) -> None:
    assert fails(monkeypatch, hook, error) == (hook == "epilog")


def test_a_hook_that_slurm_did_not_start_says_so(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "../../etc")
    assert hooks.main("prolog") == 0
    assert "SLURM_JOB_ID is '../../etc', not a number" in log.read_text()


NASTY = "a\nb\tc\x1b[2Jd\x07\x9be\udcfff\u202eg\u2028h"


def test_what_a_user_got_into_a_reason_forges_no_line_and_no_terminal_command(
    log: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, "prolog", SiteError(f"{NASTY} %s %n $(id)"))
    [line] = log.read_text().splitlines()
    assert ": a b c?[2Jd??e?f?g h %s %n $(id); serial" in line
    assert line.isprintable()
    assert capfd.readouterr().err.rstrip("\n").isprintable()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_syslog_has_the_same_line_and_nothing_a_user_wrote_is_a_format(
    log: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """By datagrams, or by the stream that some daemons have."""
    monkeypatch.setattr(config, "load", lambda: Site(hooks=Hooks(log="syslog")))
    monkeypatch.setattr(syslog, "_SOCKET", str(sockets / "log"))
    with socket.socket(socket.AF_UNIX, kind) as daemon:
        daemon.bind(str(sockets / "log"))
        if kind == socket.SOCK_STREAM:
            daemon.listen()
        fails(monkeypatch, "prolog", SiteError(f"{NASTY} %s"))
        if kind == socket.SOCK_STREAM:
            connection, _ = daemon.accept()
            with connection:
                said = connection.recv(4096).decode()
            assert said[-1] == "\0"
        else:
            said = daemon.recv(4096).decode()
    line = (
        r"<28>\w{3} [ \d]\d [\d:]{8} hpcnet\[\d+\]: prolog: job 17: a b .* %s; serial none, done in \d+ ms, exit 0"
    )
    assert re.fullmatch(line, said.rstrip("\0"))


@pytest.mark.parametrize("hook", CODES)
def test_a_stderr_that_takes_nothing_changes_no_exit_code(hook: str) -> None:
    with open("/dev/full", "wb") as full:
        argv = [sys.executable, "-I", "-m", "hpcnet", hook]
        done = subprocess.run(argv, env={}, stdin=subprocess.DEVNULL, stderr=full, check=False, timeout=60)
    assert done.returncode == (hook == "epilog")


@pytest.mark.parametrize("error", [NodeError("no uplink"), OSError(5, "Input/output error")])
@pytest.mark.parametrize("rest", [["hpce17 is left"], NodeError("hpc0 cannot be deleted"), []])
def test_a_roll_back_is_tried_twice_and_says_what_it_leaves_behind_the_reason(
    monkeypatch: pytest.MonkeyPatch, error: Exception, rest: Exception | list[str]
) -> None:
    rests: list[Exception | list[str]] = [NodeError("not finished after 30 seconds"), rest]

    def failing(*_: object) -> list[str]:
        raise error

    def removing(*_: object) -> list[str]:
        found = rests.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(journal, "locked", lambda job: contextlib.nullcontext())
    monkeypatch.setattr(lifecycle, "_build", failing)
    monkeypatch.setattr(lifecycle, "_remove", removing)
    with pytest.raises(NodeError) as caught:
        lifecycle.build(job_from_environment(ENVIRONMENT), Site())
    reason, _, said = str(caught.value).partition("; ")
    assert str(error.args[-1]) in reason
    assert (str(rest) in said) if isinstance(rest, Exception) else said == "".join(rest)
    assert rests == []


def test_a_refusal_that_cannot_be_recorded_is_the_nodes_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(job: int) -> None:
        raise OSError(28, "No space left on device", "/run/hpcnet")

    monkeypatch.setattr(journal, "locked", failing)
    with pytest.raises(NodeError) as caught:
        lifecycle.refuse(17, "the pool is full", Site())
    assert str(caught.value) == "/run/hpcnet: No space left on device while the job was refused: the pool is full"
