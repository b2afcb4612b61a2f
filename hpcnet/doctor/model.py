# SPDX-License-Identifier: Apache-2.0
"""What a check is, what it is told about this host, and what it finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Callable

from hpcnet.config import Site
from hpcnet.slurm.configuration import Configuration, Named

OK, WARN, FAIL, LEFT_OUT = "ok", "warn", "fail", "left out"
"""A finding's status. Only ``fail`` makes the exit code 1."""

NODE, CONTROLLER, LOGIN, HOST = "node", "controller", "login", "host"
"""A host's roles: compute node, controller, one with Slurm's commands alone, one of the fabric without Slurm."""

ROLES = (NODE, CONTROLLER, LOGIN, HOST)
SLURM = frozenset((NODE, CONTROLLER, LOGIN))


@dataclass(frozen=True)
class Finding:
    """One line: what is so, and (unless it is ok) what to do."""

    status: str
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(OK, text)


def warn(text: str, remedy: str) -> Finding:
    """Jobs get their networks, but somebody should look at it."""
    return Finding(WARN, text, remedy)


def fail(text: str, remedy: str) -> Finding:
    """Jobs do not get what they are promised on this host, or are not protected there."""
    return Finding(FAIL, text, remedy)


def raised(error: Exception) -> Finding:
    """An error of hpcnet's, whose text is what is wrong, a semicolon and what to do."""
    text, _, remedy = str(error).partition("; ")
    return fail(text, remedy or "see hpcnet's log on this host")


@dataclass(frozen=True)
class Host:
    """What every check is told."""

    name: str
    """The host's name, up to the first dot."""
    roles: frozenset[str]
    site: Site
    config_file: str = ""
    node: str = ""
    """Its name in Slurm; empty when it is no compute node."""
    slurm: Configuration | None = None
    """None: slurmctld was not asked, or gave no answer."""
    named: Named = field(default_factory=Named)
    """The controllers and nodes, by slurmctld or else by this host's slurm.conf."""
    silence: str = ""
    """Why slurmctld gave no answer; empty when it was not asked."""

    @property
    def on_fabric(self) -> bool:
        """Whether this host must have the uplink."""
        return NODE in self.roles


@dataclass(frozen=True)
class Check:
    """One check: ``run`` reads and judges; what it raises becomes a finding."""

    name: str
    run: Callable[[Host], Iterable[Finding]]
    roles: frozenset[str] = frozenset(ROLES)
    root: bool = False
    """Whether only root can make it."""
    slurm: bool = False
    """Whether it needs what slurmctld says."""
