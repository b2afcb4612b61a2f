# SPDX-License-Identifier: Apache-2.0
"""What slurmctld runs with: its settings in force, its clock, its nodes; and the release that is installed here.

    found = read()                      # raises ControllerUnreachable, SiteError
    found.get("PrologFlags")            # "Alloc,Contain,DeferBatch"; empty where not set
    found.programs("Prolog")            # ["/opt/hpcnet/libexec/hpcnet/prolog"]
    release()                           # (22, 5) of Slurm's commands on this host

Source: scontrol(1), show config; src/api/config_info.c. Until 23.02 a hook is one line, later one line a program
(``Prolog[0] = ...``).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hpcnet import nodelist
from hpcnet.errors import SiteError, UserError
from hpcnet.slurm.jobs import ControllerUnreachable, run

SECONDS = 20.0
"""How long slurmctld may take for each question."""

_CLOCK = re.compile(r"Configuration data as of ([0-9]+)")
_SETTING = re.compile(r"(\S+)\s+= ?(.*)")
_WORD = re.compile(r"(\w+)=(\S+)")
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")
_UNSET = ("(null)", "N/A")


@dataclass(frozen=True)
class Configuration:
    """slurmctld's settings; a key with a number, such as ``SlurmctldHost[0]``, keeps it."""

    values: Mapping[str, str]
    clock: int
    """slurmctld's time of the answer, in whole seconds since the epoch."""
    asked: float
    """This host's time before the question, and after the answer."""
    answered: float
    nodes: Mapping[str, str]
    """The host name (NodeHostName) of each node by its name in Slurm."""

    def get(self, key: str) -> str:
        """A setting, empty where it is not set."""
        return self.values.get(key, "")

    def words(self, key: str) -> list[str]:
        """A setting that is a list with commas."""
        return [word for word in self.get(key).split(",") if word]

    def seconds(self, key: str) -> int | None:
        """A setting in seconds, or None for no limit."""
        number = re.match("[0-9]+", self.get(key))
        return None if number is None or int(number[0]) >= 65533 else int(number[0])

    def programs(self, key: str) -> list[str]:
        """The programs of a hook, in Slurm's order; patterns as they are."""
        return [value for name, value in self.values.items() if name.partition("[")[0] == key and value]

    @property
    def controllers(self) -> list[str]:
        """The host names of SlurmctldHost, the primary's first."""
        return [value.partition("(")[0] for value in self.programs("SlurmctldHost")]

    @property
    def user(self) -> tuple[str, int | None]:
        """SlurmUser's name, and number where Slurm tells it."""
        name, _, rest = self.get("SlurmUser").partition("(")
        number = rest.rstrip(")")
        return name, int(number) if number.isdecimal() else None


def read(timeout: float = SECONDS) -> Configuration:
    """Ask slurmctld, twice: settings, nodes. Raises ControllerUnreachable, SiteError."""
    asked = time.time()
    text = run(["scontrol", "show", "config"], timeout)
    answered = time.time()
    listed = run(["sinfo", "--noheader", "--all", "--Node", "--format=%N %n"], timeout)
    return parse(text, listed, asked, answered)


def parse(text: str, nodes: str, asked: float, answered: float) -> Configuration:
    """The answers of ``scontrol show config`` (times as seconds) and of sinfo. Raises ControllerUnreachable."""
    clock = _CLOCK.match(text)
    if clock is None:
        raise ControllerUnreachable("scontrol show config gives no configuration")
    values = {}
    for line in text.split("\n\n")[0].splitlines()[1:]:
        setting = _SETTING.match(line)
        if setting:
            values[setting[1]] = "" if setting[2].strip() in _UNSET else setting[2].strip()
    named = dict(line.split()[:2] for line in nodes.splitlines() if len(line.split()) >= 2)
    return Configuration(values, int(clock[1]), asked, answered, named)


@dataclass(frozen=True)
class Named:
    """The hosts that slurm.conf names."""

    controllers: tuple[str, ...] = ()
    """Host names of slurmctld."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """The host name of each node by its name in Slurm."""


def named(text: str) -> Named:
    """Out of slurm.conf's own text, for who does not ask slurmctld; files that it includes are not read."""
    controllers: list[str] = []
    nodes: dict[str, str] = {}
    for line in text.splitlines():
        pairs: list[tuple[str, str]] = _WORD.findall(line.partition("#")[0])
        words = {key.lower(): value for key, value in pairs}
        controllers += [words["slurmctldhost"].partition("(")[0]] if "slurmctldhost" in words else []
        if "nodename" in words and words["nodename"].upper() != "DEFAULT":
            with contextlib.suppress(UserError):
                names = nodelist.expand(words["nodename"])
                nodes.update(zip(names, nodelist.expand(words.get("nodehostname", words["nodename"]))))
    return Named(tuple(controllers), nodes)


def release(timeout: float = SECONDS) -> tuple[int, int]:
    """Major and minor number of Slurm's commands here. Raises ControllerUnreachable: there are none."""
    return release_of(run(["scontrol", "--version"], timeout))


def release_of(text: str) -> tuple[int, int]:
    """Of a version such as ``slurm-wlm 22.05.8``. Raises SiteError."""
    found = _VERSION.search(text)
    if found is None:
        raise SiteError(f"{text.strip()[:40]!r} is no version of Slurm")
    return int(found[1]), int(found[2])
