# SPDX-License-Identifier: Apache-2.0
"""What a lab has started: written before each thing is made, so that any crash can be cleaned up."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcnet.errors import LabError

VERSION = 1


@dataclass(frozen=True)
class Process:
    """A process id with its start time (clock ticks since boot), so that a reused id is not taken for it."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> Process:
        """The process that has ``pid`` now. Raises LabError when there is none."""
        fields = _stat(pid, proc)
        if fields is None:
            raise LabError(f"process {pid} has ended")
        return cls(pid, int(fields[19]))

    def alive(self, proc: Path = Path("/proc")) -> bool:
        """Whether it still runs, as ``proc`` (a proc file system) tells; a zombie does not."""
        fields = _stat(self.pid, proc)
        return fields is not None and int(fields[19]) == self.start and fields[0] not in "ZX"


def _stat(pid: int, proc: Path) -> list[str] | None:
    """Fields of /proc/PID/stat after the command name: state first, start time at index 19. See proc(5)."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


@dataclass
class HostRecord:
    """One host: the keeper of its namespaces, its control groups, its daemons (in its own pid namespace)."""

    keeper: Process | None = None
    cgroups: list[str] = field(default_factory=list)
    daemons: dict[str, Process] = field(default_factory=dict)


@dataclass
class State:
    """A lab's state.json."""

    nodes: int
    docker: bool
    fabric_mtu: int
    fabric: str = "ethernet"
    phase: str = "starting"
    cgroup: str = ""
    slurm: dict[str, str | None] = field(default_factory=dict)
    hpcnet: dict[str, dict[str, Any]] = field(default_factory=dict)
    hosts: dict[str, HostRecord] = field(default_factory=dict)
    version: int = VERSION

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read it back. Raises FileNotFoundError, or LabError for a file that is not ours."""
        text = path.read_text(encoding="utf-8")
        try:
            document = json.loads(text)
            if document["version"] != VERSION:
                raise LabError(f"{path}: of another version of the lab: {document['version']}")
            hosts = {name: _host_record(entry) for name, entry in document.pop("hosts").items()}
            return cls(hosts=hosts, **document)
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{path}: not a lab's state: {error}") from None


def _host_record(entry: dict[str, Any]) -> HostRecord:
    keeper = entry["keeper"]
    return HostRecord(
        keeper=Process(**keeper) if keeper else None,
        cgroups=entry["cgroups"],
        daemons={name: Process(**process) for name, process in entry["daemons"].items()},
    )


def init_of(keeper: Process) -> int | None:
    """Process id of the host's pid 1, the only child of its keeper; None when there is none (yet)."""
    if not keeper.alive():
        return None
    with contextlib.suppress(OSError, IndexError, ValueError):
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text(encoding="ascii")
        return int(children.split()[0])
    return None


def reap(pid: int) -> None:
    """Collect the process if it is a dead child of ours, as when one Python process does both up and down."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
