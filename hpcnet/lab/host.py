# SPDX-License-Identifier: Apache-2.0
"""One host of the lab: its namespaces, its files, commands in it, its daemons' processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcnet.errors import LabError
from hpcnet.lab import cgroups
from hpcnet.lab.enter import PATH
from hpcnet.lab.layout import Layout
from hpcnet.lab.state import HostRecord, Process, State, init_of, reap

_HOST_SH = Path(__file__).with_name("host.sh")
_ENTER = Path(__file__).with_name("enter.py")
_BOOT_SECONDS = 120.0
_END_SECONDS = 60.0


@dataclass(frozen=True)
class Host:
    """A running host."""

    name: str
    init: int
    """Process id of its pid 1, in the machine's pid namespace."""

    def path(self, absolute: str) -> Path:
        """The machine's path of a file of the host. No part of it may be an absolute symbolic link."""
        return Path(f"/proc/{self.init}/root{absolute}")

    @property
    def proc(self) -> Path:
        """The host's own /proc: process ids in it are those of the host's pid namespace."""
        return self.path("/proc")

    def write(self, absolute: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the host, making its directory; readers see the old or the new text."""
        path = self.path(absolute)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_text(text, encoding="utf-8")
        new.chmod(mode)
        new.replace(path)

    def command(self, argv: Sequence[str], user: str = "root") -> list[str]:
        """The command line that runs ``argv`` on the host from outside."""
        return [sys.executable, "-IS", str(_ENTER), str(self.init), user, "--", *argv]

    def run(
        self, argv: Sequence[str], *, user: str = "root", stdin: str = "", timeout: float | None = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host and give its output; it is killed after ``timeout`` seconds."""
        command = self.command(argv, user)
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)


def boot(layout: Layout, state: State, names: Sequence[str]) -> dict[str, Host]:
    """Start hosts side by side and wait until their mounts are made. Raises LabError."""
    pending = {name: _start_keeper(layout, state, name) for name in names}
    deadline = time.monotonic() + _BOOT_SECONDS
    return {name: _await_ready(layout, state, name, ready, deadline) for name, ready in pending.items()}


def _start_keeper(layout: Layout, state: State, name: str) -> int:
    """Start the process that keeps a host's namespaces; returns the descriptor on which it says "ready"."""
    own = layout.host(name)
    found = cgroups.hierarchies()
    group = f"{state.cgroup}/{name}"
    record = state.hosts.setdefault(name, HostRecord())
    record.daemons.clear()
    record.cgroups = [str(hierarchy.own / state.cgroup) for hierarchy in found]
    state.save(layout.state)
    _make_directories(own)
    (own / "boot_id").write_text(f"{uuid.uuid4()}\n", encoding="ascii")
    (own / "cgroups").write_text(cgroups.mount_table(found, group), encoding="ascii")
    for hierarchy in found:
        cgroups.make(hierarchy.own / state.cgroup)
        cgroups.make(hierarchy.own / group)

    go_read, go_write = os.pipe()
    ready_read, ready_write = os.pipe()
    log = os.open(own / "boot.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, go_read, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, ready_write, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    # What our caller left open (a pipe, a lock) must not stay open for as long as the host lives.
    actions += [(os.POSIX_SPAWN_CLOSE, int(number)) for number in os.listdir("/proc/self/fd") if int(number) > 2]
    arguments = ["sh", str(_HOST_SH), "keep", name, str(layout.root)]
    # Not a Popen object: the process outlives this one, and nobody waits for it.
    pid = os.posix_spawn("/bin/sh", arguments, {"PATH": PATH}, file_actions=actions, setsid=True)
    for descriptor in (go_read, ready_write, log):
        os.close(descriptor)
    record.keeper = Process.of(pid)
    state.save(layout.state)
    os.write(go_write, b"go\n")
    os.close(go_write)
    return ready_read


def _make_directories(own: Path) -> None:
    for part in ("etc", "etc.work", "opt/hpcnet", "opt.work", "home", "log", "spool", "docker"):
        (own / part).mkdir(parents=True, exist_ok=True)


def _await_ready(layout: Layout, state: State, name: str, ready: int, deadline: float) -> Host:
    keeper = state.hosts[name].keeper
    with os.fdopen(ready, "rb", buffering=0) as pipe:
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        said = pipe.read(6) if readable else b""
    init = init_of(keeper) if keeper and said == b"ready\n" else None
    if init is None:
        raise LabError(f"host {name} did not start\n{tail(layout.host(name) / 'boot.log')}")
    return Host(name, init)


def halt(layout: Layout, state: State, names: Sequence[str]) -> None:
    """Kill hosts with all that runs on them, wait until they are gone, and remove their control groups."""
    doomed: list[Process] = []
    for name in names:
        keeper = state.hosts[name].keeper
        if keeper is not None and keeper.alive():
            doomed += _kill(keeper)
    deadline = time.monotonic() + _END_SECONDS
    for process in doomed:
        while process.alive():
            if time.monotonic() > deadline:
                raise LabError(f"process {process.pid} of the lab does not end after SIGKILL")
            time.sleep(0.005)
        reap(process.pid)
    for name in names:
        state.hosts[name].daemons.clear()
        for group in state.hosts[name].cgroups:
            cgroups.remove(Path(group) / name, deadline)


def _kill(keeper: Process) -> list[Process]:
    """Kill a host; returns the processes to wait for.

    The death of its pid 1 kills every process of its pid namespace; the keeper sees it, and ends.
    """
    init = init_of(keeper)
    if init is None:
        # Of a half-started host: let it not start one between our look and our shot.
        os.kill(keeper.pid, signal.SIGSTOP)
        time.sleep(0.01)
        init = init_of(keeper)
        os.kill(keeper.pid, signal.SIGKILL)
    if init is None:
        return [keeper]
    process = Process.of(init)
    os.kill(init, signal.SIGKILL)
    return [process, keeper]


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, or a word that there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"({path} is not there)"
    return "\n".join(text.splitlines()[-lines:])
