# SPDX-License-Identifier: Apache-2.0
"""Where a lab keeps its files, what its hosts are called, and which addresses they have."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hpcnet.errors import LabError

DEFAULT_DIRECTORY = "/var/lib/hpcnet-lab"
DIRECTORY_VARIABLE = "HPCNET_LAB"
PREFIX = "/opt/hpcnet"
"""Where every host of the lab finds the installation of hpcnet."""

MAX_NODES = 64
USERS = {"alice": 20001, "bob": 20002}
"""Ordinary users of the lab, with their uid (and gid); they exist on its hosts only."""

SWITCH, CONTROLLER, LOGIN = "switch", "ctl", "login"

_HIDDEN_ON_HOSTS = ("/dev", "/etc", "/home", "/opt", "/proc", "/run", "/sys", "/var/log", "/var/spool")


@dataclass(frozen=True)
class Layout:
    """The paths of one lab; all of them are below ``root``."""

    root: Path

    @property
    def state(self) -> Path:
        """What was started, written before it is."""
        return self.root / "state.json"

    @property
    def munge(self) -> Path:
        """The munge socket's directory, shared by all hosts."""
        return self.root / "munge"

    @property
    def prefix(self) -> Path:
        """The installation that hosts see as /opt/hpcnet."""
        return self.root / "opt" / "hpcnet"

    @property
    def image(self) -> Path:
        """The root file system of the lab's container image."""
        return self.root / "image.tar"

    def home(self, user: str) -> Path:
        """A user's home directory, one for all hosts."""
        return self.root / "home" / user

    def host(self, name: str) -> Path:
        """The files of one host."""
        return self.root / "hosts" / name


def layout(directory: str | Path | None = None) -> Layout:
    """The lab of a directory, of $HPCNET_LAB, or the default one. Raises LabError for an unusable path."""
    text = str(directory or os.environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY)
    if not re.fullmatch(r"/[A-Za-z0-9_./-]+", text) or ".." in text.split("/"):
        raise LabError(f"lab directory {text}: must be an absolute path of letters, digits and _ . / -")
    root = Path(os.path.realpath(text))
    for hidden in _HIDDEN_ON_HOSTS:
        if root == Path(hidden) or Path(hidden) in root.parents:
            raise LabError(f"lab directory {text}: hosts have their own {hidden}; use another directory")
    return Layout(root)


def node_names(nodes: int) -> list[str]:
    """``["n1", ..., "nN"]``."""
    return [f"n{number}" for number in range(1, nodes + 1)]


def machine_names(nodes: int) -> list[str]:
    """Every host with network interfaces: controller, login node, compute nodes."""
    return [CONTROLLER, LOGIN, *node_names(nodes)]


def host_names(nodes: int) -> list[str]:
    """Every host, the switch first: it must be there before anything is plugged into it."""
    return [SWITCH, *machine_names(nodes)]


def addresses(host: str) -> dict[str, str]:
    """IPv4 address by interface: eth0 on the management network, ib0 on the fabric; each is a /16."""
    part = {CONTROLLER: "0.1", LOGIN: "0.2"}.get(host) or f"1.{int(host[1:])}"
    return {"eth0": f"172.30.{part}", "ib0": f"172.31.{part}"}
