# SPDX-License-Identifier: Apache-2.0
"""Find out what this host is, make its checks side by side, and put together what they found.

    examine("/etc/hpcnet/hpcnet.toml") -> Report

Each check has a thread of its own, and all have the same time: one that hangs or breaks is a finding, and holds up
nobody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcnet import __version__, config
from hpcnet.config import Site
from hpcnet.doctor import slurm
from hpcnet.doctor.checks import CHECKS
from hpcnet.doctor.model import (
    CONTROLLER,
    FAIL,
    HOST,
    LEFT_OUT,
    LOGIN,
    NODE,
    ROLES,
    SLURM,
    Check,
    Finding,
    Host,
    fail,
    ok,
    raised,
    warn,
)
from hpcnet.errors import HpcnetError, SiteError
from hpcnet.slurm import configuration
from hpcnet.slurm.configuration import Configuration, Named

SCHEMA = 1
"""Of the JSON: a number that grows when a key changes its meaning or goes."""

SECONDS = 30.0
"""How long all checks together may take; Slurm gives a HealthCheckProgram 60."""

_SLURM_CONF = "/etc/slurm/slurm.conf"
_COMMANDS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin")


@dataclass(frozen=True)
class Report:
    """What was found on one host: (check, finding) in the order of printing."""

    host: str
    roles: tuple[str, ...]
    findings: tuple[tuple[str, Finding], ...]
    config_sha256: str = ""
    """Of hpcnet.toml, for who compares hosts."""

    @property
    def failed(self) -> bool:
        """Whether anything failed."""
        return any(finding.status == FAIL for _, finding in self.findings)

    def document(self) -> dict[str, Any]:
        """As JSON (docs/operations.md)."""
        return {
            "schema": SCHEMA,
            "hpcnet": __version__,
            "host": self.host,
            "roles": list(self.roles),
            "failed": self.failed,
            "config_sha256": self.config_sha256,
            "findings": [document(check, finding) for check, finding in self.findings],
        }


def document(check: str, finding: Finding) -> dict[str, str]:
    """A finding as JSON."""
    return {
        "check": check,
        "status": finding.status,
        "finding": _plain(finding.text),
        "remedy": _plain(finding.remedy),
    }


def _plain(text: str) -> str:
    """One line; a program's name, say, is its user's, and a terminal must not act on it."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def digest(path: str) -> str:
    """Of a file that is to be the same on all hosts, in hexadecimal; empty: it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def examine(
    config_file: str, roles: Iterable[str] = (), ask_slurm: bool = True, checks: Sequence[Check] = CHECKS,
    seconds: float = SECONDS,
) -> Report:  # fmt: skip
    """``roles``: what this host is, instead of finding it out; without ``ask_slurm`` slurmctld is left alone."""
    name = os.uname().nodename.partition(".")[0]
    found: list[tuple[str, Finding]] = []
    site = None
    try:
        site = config.load(config_file)
        found.append(("config", ok(config_file)))
    except SiteError as error:
        found.append(
            ("config", fail(str(error), "correct it; it is to be the same on all hosts (etc/hpcnet.toml)"))
        )
    answer, silence = _ask() if ask_slurm else (None, "")
    named = Named(tuple(answer.controllers), answer.nodes) if answer else _slurm_conf()
    own = frozenset(roles) or roles_of(name, daemons(), named, _has_slurm())
    host = Host(name, own, site or Site(), config_file, _node(name, own, named), answer, named, silence)
    if own & SLURM and ask_slurm:
        found += [("slurmctld", finding) for finding in slurm.check_answer(host)]
    found += _results(host, [check for check in checks if check.roles & own], site is not None, seconds)
    return Report(name, tuple(role for role in ROLES if role in own), tuple(found), digest(config_file))


# What this host is.


def _ask() -> tuple[Configuration | None, str]:
    try:
        return configuration.read(), ""
    except HpcnetError as error:
        return None, str(error)


def daemons() -> frozenset[str]:
    """Which of Slurm's daemons run here, those in containers not among them."""
    found = set()
    for process in os.listdir("/proc"):
        if process.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile
                status = Path("/proc", process, "status").read_text(encoding="utf-8", errors="replace")
                found.add(own_process(status))
    return frozenset(found & {"slurmd", "slurmctld"})


def own_process(status: str) -> str:
    """The program's name of a process of this pid namespace, empty of another one's: proc_pid_status(5)."""
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    return fields.get("Name", "").strip() if len(fields.get("NSpid", "").split()) <= 1 else ""


def _slurm_conf() -> Named:
    try:
        text = Path(os.environ.get("SLURM_CONF") or _SLURM_CONF).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Named()
    return configuration.named(text)


def roles_of(name: str, running: frozenset[str], named: Named, commands: bool) -> frozenset[str]:
    """By what runs here, and by what Slurm calls a host of this name; ``commands``: Slurm is installed."""
    roles = set()
    if "slurmd" in running or name in _short(named.nodes.values()):
        roles.add(NODE)
    if "slurmctld" in running or name in _short(named.controllers):
        roles.add(CONTROLLER)
    return frozenset(roles or {LOGIN if commands else HOST})


def _short(hosts: Iterable[str]) -> set[str]:
    return {host.partition(".")[0] for host in hosts}


def _has_slurm() -> bool:
    path = (*os.environ.get("PATH", "").split(":"), *_COMMANDS)
    return any(os.access(os.path.join(directory, "scontrol"), os.X_OK) for directory in path if directory)


def _node(name: str, roles: frozenset[str], known: Named) -> str:
    """This host's name in Slurm; where nobody tells, it is the host's own."""
    if NODE not in roles:
        return ""
    named = [node for node, host in known.nodes.items() if host.partition(".")[0] == name]
    return os.environ.get("SLURMD_NODENAME") or (named[0] if named else name)


# The checks.


def _results(host: Host, checks: Sequence[Check], configured: bool, seconds: float) -> list[tuple[str, Finding]]:
    results: dict[str, list[Finding]] = {}
    threads = []
    for check in checks:
        reason = _left_out(check, host, configured)
        if reason:
            results[check.name] = [Finding(LEFT_OUT, reason[0], reason[1])]
            continue
        thread = threading.Thread(target=_make, args=(check, host, results), daemon=True)
        threads.append(thread)
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    late = [fail(f"no answer within {seconds:g} s", "see what hangs on this host: a file system, nft, dockerd")]
    finished = dict(results)  # a late one writes no more into the report
    return [(check.name, finding) for check in checks for finding in finished.get(check.name, late)]


def _left_out(check: Check, host: Host, configured: bool) -> tuple[str, str] | None:
    """Why a check cannot be made, and what would help; None: it can."""
    if not configured:
        return "hpcnet.toml cannot be used", "correct it first"
    if check.root and os.geteuid() != 0:
        return "needs root", "run it as root"
    if check.slurm and host.slurm is None:
        if host.silence:
            return "slurmctld does not answer", "see above"
        return "slurmctld was not asked", "run it without --local"
    return None


def _make(check: Check, host: Host, results: dict[str, list[Finding]]) -> None:
    """Whatever a check raises is a finding of it."""
    try:
        results[check.name] = list(check.run(host))
    except HpcnetError as error:
        results[check.name] = [raised(error)]
    except PermissionError as error:
        what = f"{error.filename or 'the kernel'}: {error.strerror}"
        results[check.name] = [Finding(LEFT_OUT, what, "run it as root")]
    except Exception as error:
        what = f"could not be made: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        results[check.name] = [warn(what, "please report this line")]
