# SPDX-License-Identifier: Apache-2.0
"""doctor as a whole: what this host is, checks that break or hang, what is printed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from hpcnet import __version__
from hpcnet.cli import doctor as cli
from hpcnet.doctor import run
from hpcnet.doctor.checks import CHECKS
from hpcnet.doctor.model import ROLES, Check, Finding, Host, fail, ok, warn
from hpcnet.errors import NodeError
from hpcnet.slurm.configuration import Named
from tests.unit.cli import said

NAMED = Named(("ctl.example.org", "ctl2"), {"n1": "n1.example.org", "gpu1": "rack7"})


def saying(*findings: Finding) -> Callable[[Host], Iterable[Finding]]:
    return lambda host: findings


def found(config: str, *checks: Check, seconds: float = 10.0) -> dict[str, list[tuple[str, str]]]:
    """By check: status and text, or remedy where there is one."""
    report = run.examine(config, ["host"], ask_slurm=False, checks=checks, seconds=seconds)
    results: dict[str, list[tuple[str, str]]] = {}
    for check, finding in report.findings:
        results.setdefault(check, []).append((finding.status, finding.text))
    return results


def test_what_must_be_the_same_on_all_hosts() -> None:
    same = {"hpcnet": __version__, "config_sha256": "5f"}
    assert cli.differences(same, "5f") == []
    assert [each["status"] for each in cli.differences(same, "60")] == ["warn"]
    (older,) = cli.differences({**same, "hpcnet": "0.0.9"}, "5f")
    assert older["finding"] == f"hpcnet 0.0.9, and here it is {__version__}"


@pytest.mark.parametrize(
    ("name", "running", "commands", "roles"),
    [
        ("n1", "", True, {"node"}),
        ("rack7", "", True, {"node"}),
        ("gpu1", "", True, {"login"}),
        ("x", "slurmd", True, {"node"}),
        ("ctl", "", True, {"controller"}),
        ("ctl2", "slurmctld slurmd", True, {"controller", "node"}),
        ("x", "", True, {"login"}),
        ("x", "", False, {"host"}),
    ],
)
def test_what_a_host_is(name: str, running: str, commands: bool, roles: set[str]) -> None:
    assert run.roles_of(name, frozenset(running.split()), NAMED, commands) == roles


def test_a_daemon_in_a_container_is_not_this_hosts() -> None:
    assert run.own_process("Name:\tslurmctld\nUmask:\t0022\nNSpid:\t17\n") == "slurmctld"
    assert run.own_process("Name:\tslurmctld\nNSpid:\t17\t1\n") == ""
    assert run.daemons() <= {"slurmd", "slurmctld"}


def test_every_role_has_checks_and_no_name_is_given_twice() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for role in ROLES:
        assert {"uplink", "filter", "programs"} <= {check.name for check in CHECKS if role in check.roles}


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(config: str) -> None:
    def breaks(host: Host) -> Iterator[Finding]:
        yield ok("so far")
        raise KeyError("oh\nno")

    def refuses(host: Host) -> Iterable[Finding]:
        raise NodeError("nft is not installed; install it")

    def may_not(host: Host) -> Iterable[Finding]:
        raise PermissionError(13, "Permission denied", "/root/x")

    checks = (Check("a", breaks), Check("b", refuses), Check("c", may_not), Check("d", saying(ok("fine"))))
    results = found(config, *checks)
    assert results["a"] == [("warn", "could not be made: KeyError: 'oh\\nno'")]
    assert results["b"] == [("fail", "nft is not installed")]
    assert results["c"] == [("left out", "/root/x: Permission denied")]
    assert results["d"] == [("ok", "fine")]


def test_a_check_that_hangs_is_a_line_and_the_others_go_on(config: str) -> None:
    release = threading.Event()

    def hangs(host: Host) -> Iterable[Finding]:
        release.wait(60)
        return [ok("at last")]

    try:
        results = found(config, Check("a", hangs), Check("b", saying(ok("fine"))), seconds=2)
    finally:
        release.set()
    assert results["a"] == [("fail", "no answer within 2 s")]
    assert results["b"] == [("ok", "fine")]


def test_without_root_and_without_slurmctld_checks_are_left_out(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    fine = saying(ok("fine"))
    results = found(config, Check("a", fine, root=True), Check("b", fine, slurm=True), Check("c", fine))
    assert results["a"] == [("left out", "needs root")]
    assert results["b"] == [("left out", "slurmctld was not asked")]
    assert results["c"] == [("ok", "fine")]


def test_a_broken_configuration_fails_and_leaves_out_what_needs_it(tmp_path: os.PathLike[str]) -> None:
    file = os.path.join(tmp_path, "hpcnet.toml")
    with open(file, "w", encoding="utf-8") as text:
        text.write("[fabric]\nuplnik = 'ib0'\n")
    results = found(file, Check("a", saying(ok("fine"))))
    assert results["config"][0][0] == "fail" and "uplnik" in results["config"][0][1]
    assert results["a"] == [("left out", "hpcnet.toml cannot be used")]


def test_what_is_printed_and_the_exit_codes(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check("kernel", saying(ok("all there"))), Check("port", saying(warn("busy", "end it")))]
    monkeypatch.setattr(cli, "examine", lambda file, roles, ask: run.examine(file, roles, ask, checks))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "n1.example.org", "", "", "")))
    words = ("doctor", "--local", "--role", "host", "--config", config)
    assert said(capsys, 0, *words) == (
        f"n1: host of the fabric, without Slurm, hpcnet {__version__}\n"
        f"ok    config  {config}\n"
        "ok    kernel  all there\n"
        "warn  port    busy\n"
        "              -> end it\n"
        "0 failed, 1 to look at, 2 ok\n"
    )
    checks += [Check("uplink", saying(fail("ib0 is\ndown\x1b", "ip link set ib0 up")))]
    checks += [Check(name, saying(), root=True) for name in ("a", "b")]
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    printed = said(capsys, 1, *words).splitlines()
    assert printed[-5:] == [
        "              -> end it",
        "FAIL  uplink  ib0 is down?",
        "              -> ip link set ib0 up",
        "left out: a, b (needs root; run it as root)",
        "1 failed, 1 to look at, 2 ok",
    ]
    document = json.loads(said(capsys, 1, *words, "--json"))
    assert {key: document[key] for key in ("schema", "hpcnet", "host", "roles", "failed")} == {
        "schema": 1,
        "hpcnet": __version__,
        "host": "n1",
        "roles": ["host"],
        "failed": True,
    }
    assert document["findings"][3] == {
        "check": "uplink",
        "status": "fail",
        "finding": "ib0 is down?",
        "remedy": "ip link set ib0 up",
    }
