# SPDX-License-Identifier: Apache-2.0
"""Control groups of a lab: each host has a part of every hierarchy, below the group that started the lab."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from hpcnet.errors import LabError

_ROOT = "/sys/fs/cgroup"
_ADMINISTRATIVE = ("rw", "ro", "xattr", "noprefix", "nsdelegate", "memory_recursiveprot", "release_agent")


@dataclass(frozen=True)
class Hierarchy:
    """A mounted control group hierarchy, and the directory of the group that this process is in."""

    point: str
    type: str
    options: str
    own: Path


def hierarchies() -> list[Hierarchy]:
    """All that are mounted below /sys/fs/cgroup."""
    groups = _own_groups()
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split()
        if kind not in ("cgroup", "cgroup2") or not point.startswith(_ROOT):
            continue
        kept = [word for word in options.split(",") if word.partition("=")[0] not in _ADMINISTRATIVE]
        key = "" if kind == "cgroup2" else next((word for word in kept if word in groups), None)
        if key is None or key not in groups:
            continue
        own = Path(point) / os.path.relpath(groups[key], root)
        if kind == "cgroup":
            kept = ["none", *kept] if key.startswith("name=") else kept
        found.append(Hierarchy(point, kind, ",".join(kept) if kind == "cgroup" else "rw", own))
    return found


def _own_groups() -> dict[str, str]:
    """Path of our group by controller ("" for version 2). See cgroups(7)."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def unified(found: list[Hierarchy]) -> bool:
    """Whether the machine has version 2 only."""
    return all(hierarchy.type == "cgroup2" for hierarchy in found)


def mount_table(found: list[Hierarchy], group: str) -> str:
    """Lines "mount point, type, options, group's directory or -" for host.sh; ``group`` is below ours."""
    lines = [] if unified(found) else [f"{_ROOT} tmpfs mode=755 -"]
    lines += [f"{entry.point} {entry.type} {entry.options} {entry.own / group}" for entry in found]
    return "\n".join(lines) + "\n"


def make(directory: Path) -> None:
    """Make a group; a cpuset without processors or memory nodes would take no process."""
    directory.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        limits = directory / name
        if limits.exists() and not limits.read_text(encoding="ascii").strip():
            limits.write_text((directory.parent / name).read_text(encoding="ascii"), encoding="ascii")


def remove(directory: Path, deadline: float) -> None:
    """Remove a group and those below it; the kernel may need a moment after the last process."""
    if not directory.exists():
        return
    for path, _, _ in os.walk(directory, topdown=False):
        while True:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise LabError(f"{path}: cannot be removed: {error.strerror}") from None
            break
