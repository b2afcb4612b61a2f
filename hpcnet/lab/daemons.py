# SPDX-License-Identifier: Apache-2.0
"""The daemons of the lab's hosts: how each is started, known to be ready, and stopped."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from hpcnet.errors import LabError, NodeError
from hpcnet.lab.host import Host, tail
from hpcnet.lab.layout import CONTROLLER, LOGIN, PREFIX, SWITCH
from hpcnet.lab.state import Process
from hpcnet.names import DOCKER_PLUGIN
from hpcnet.runtimes.engine import Engine

_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_MUNGE = "/run/munge"

# Join the host's own control groups, as what an init system starts would be in them; then run the daemon ($@)
# with its output in the log ($0).
_LAUNCH = """
for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
    [ -e "$procs" ] && echo 0 >"$procs"
done
exec </dev/null >>"$0" 2>&1
"""
_DETACHED = _LAUNCH + 'setsid "$@" &'
_WITH_PID_FILE = "pid_file=$1; shift;" + _DETACHED + 'echo $! >"$pid_file"'
_BY_ITSELF = _LAUNCH + 'exec "$@"'


@dataclass(frozen=True)
class Daemon:
    """How a daemon is run; paths are the host's."""

    name: str
    argv: tuple[str, ...]
    pid_file: str
    log: str
    ready: Callable[[Host], bool] = lambda host: True
    detaches: bool = True
    """Whether it goes to the background by itself."""
    writes_pid: bool = True
    """Whether it writes its pid file by itself."""
    at_boot: tuple[str, ...] = ()
    """Arguments for the first start after the host has booted."""


def _munged() -> Daemon:
    argv = [
        *("setpriv", "--reuid=munge", "--regid=munge", "--init-groups", "munged", "--foreground"),
        *(f"--key-file={_MUNGE}/munge.key", f"--seed-file={_MUNGE}/munge.seed", "--origin=127.0.0.1"),
        *(f"--pid-file={_MUNGE}/munged.pid", f"--socket={_MUNGE}/munge.socket.2"),
    ]
    pid_file, log = f"{_MUNGE}/munged.pid", "/var/log/munged.log"
    return Daemon("munged", tuple(argv), pid_file, log, _munge_listens, detaches=False)


def _dockerd() -> Daemon:
    return Daemon(
        "dockerd",
        ("dockerd",),
        "/run/docker.pid",
        "/var/log/dockerd.log",
        _docker_answers,
        detaches=False,
    )


def _agent() -> Daemon:
    argv, log = (f"{PREFIX}/bin/hpcnet", "agent"), "/var/log/hpcnet-agent.log"
    return Daemon("agent", argv, "/run/hpcnet-agent.pid", log, _agent_listens, detaches=False, writes_pid=False)


_SLURMCTLD = Daemon("slurmctld", ("slurmctld",), "/run/slurmctld.pid", "/var/log/slurm/slurmctld.log")
# A lab host's uptime is the machine's: -b makes slurmd report its own start as the node's boot.
_SLURMD = Daemon("slurmd", ("slurmd",), "/run/slurmd.pid", "/var/log/slurm/slurmd.log", at_boot=("-b",))


def of_host(host: str, docker: bool) -> list[Daemon]:
    """The daemons of a host, in the order of their start."""
    special = {SWITCH: [_munged()], CONTROLLER: [_SLURMCTLD], LOGIN: []}
    if host in special:
        return special[host]
    return [_agent(), _dockerd(), _SLURMD] if docker else [_SLURMD]


def find(host: str, name: str, docker: bool) -> Daemon:
    """The daemon of that name. Raises LabError naming those that the host has."""
    daemons = {daemon.name: daemon for daemon in of_host(host, docker)}
    if name not in daemons:
        raise LabError(f"host {host} runs no {name}; it runs: {', '.join(daemons) or 'no daemon'}")
    return daemons[name]


def start(host: Host, daemon: Daemon) -> Process:
    """Start a daemon and wait until it is ready. Raises LabError with the end of its log if it fails."""
    host.path(daemon.log).parent.mkdir(parents=True, exist_ok=True)
    host.path(daemon.pid_file).unlink(missing_ok=True)
    script = ["sh", "-c", _BY_ITSELF if daemon.detaches else _DETACHED, daemon.log]
    if not daemon.writes_pid:
        script = ["sh", "-c", _WITH_PID_FILE, daemon.log, daemon.pid_file]
    done = host.run([*script, *daemon.argv], timeout=_START_SECONDS)
    deadline = time.monotonic() + _START_SECONDS
    process: Process | None = None
    while done.returncode == 0 and time.monotonic() < deadline:
        process = process or _from_pid_file(host, daemon)
        if process and not process.alive(host.proc):
            break
        if process and daemon.ready(host):
            return process
        time.sleep(0.01)
    log = tail(host.path(daemon.log))
    raise LabError(f"{daemon.name} did not start on {host.name}; its log ends:\n{log}")


def stop(host: Host, process: Process, number: int = signal.SIGTERM) -> None:
    """Send a daemon a signal that ends it, and wait for its end; SIGKILL follows after five seconds."""
    for each in (number, signal.SIGKILL):
        if process.alive(host.proc):
            host.run(["kill", f"-{int(each)}", str(process.pid)])
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if not process.alive(host.proc):
                return
            time.sleep(0.01)
    raise LabError(f"process {process.pid} of {host.name} does not end after SIGKILL")


def _from_pid_file(host: Host, daemon: Daemon) -> Process | None:
    with contextlib.suppress(OSError, ValueError, LabError):
        return Process.of(int(host.path(daemon.pid_file).read_text(encoding="ascii")), host.proc)
    return None


def _munge_listens(host: Host) -> bool:
    return host.path(f"{_MUNGE}/munge.socket.2").exists()


def _agent_listens(host: Host) -> bool:
    return host.path(DOCKER_PLUGIN).exists()


def _docker_answers(host: Host) -> bool:
    with contextlib.suppress(NodeError):
        return Engine(str(host.path("/run/docker.sock")), seconds=5).call("GET", "/_ping").good
    return False
