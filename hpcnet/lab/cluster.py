# SPDX-License-Identifier: Apache-2.0
"""The lab as its users see it: up, down, and what a test does to it in between."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcnet.errors import LabError
from hpcnet.lab import daemons, infiniband, install
from hpcnet.lab.assembly import Assembly
from hpcnet.lab.layout import CONTROLLER, MAX_NODES, SWITCH, Layout, addresses, layout, machine_names, node_names
from hpcnet.lab.state import State

_PROGRAMS = "ip nsenter unshare tini setpriv munged slurmctld slurmd sinfo make gcc"
FABRICS = {"ethernet": 65520, "infiniband": 4092}
"""What the fabric may be, with the MTU of ib0: that of IPoIB in connected mode, and in datagram mode."""

_DOCKER_PROGRAMS = "dockerd docker containerd runc busybox iperf3"


@dataclass(frozen=True)
class Options:
    """What ``up`` may be asked for; ``fabric_mtu`` in bytes, None: what the fabric usually has.

    On the fabric ``ethernet`` ib0 is a veth, on ``infiniband`` the IPoIB interface of an adapter of the machine.
    """

    nodes: int = 3
    docker: bool = False
    fabric_mtu: int | None = None
    fabric: str = "ethernet"
    slurm: Mapping[str, str | None] = field(default_factory=dict)
    """Of slurm.conf, as for :meth:`Lab.configure`."""
    hpcnet: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of hpcnet.toml, the same."""

    @property
    def mtu(self) -> int:
        """The fabric's MTU in bytes."""
        return FABRICS[self.fabric] if self.fabric_mtu is None else self.fabric_mtu

    def check(self) -> None:
        """Raise LabError for what cannot be built."""
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"{self.nodes} nodes: must be 1 to {MAX_NODES}")
        if self.fabric not in FABRICS:
            raise LabError(f"fabric {self.fabric}: must be {' or '.join(FABRICS)}")
        if not 1330 <= self.mtu <= 65535:
            raise LabError(f"fabric MTU {self.mtu}: must be 1330 to 65535")
        if self.fabric == "infiniband":
            infiniband.require(machine_names(self.nodes))


class Lab:
    """The lab whose files are in ``where.root``, up or not.

    ``verbose`` reports the phases of ``up`` on stderr. Every method may raise LabError, for a person to read.
    """

    def __init__(self, where: Layout, verbose: bool = False) -> None:
        self.layout = where
        self._verbose = verbose

    @classmethod
    def at(cls, directory: str | Path | None = None, verbose: bool = False) -> Lab:
        """The lab of a directory; of $HPCNET_LAB or else the default one when it is None."""
        return cls(layout(directory), verbose)

    def up(self, options: Options | None = None) -> bool:
        """Start the lab and return when every node is idle; False when it was up already: nothing is done.

        When it cannot be started, what had been started is taken down again.
        """
        options = options or Options()
        options.check()
        _require_root()
        if self.is_up():
            return False
        _require_programs(_PROGRAMS.split() + (_DOCKER_PROGRAMS.split() if options.docker else []))
        install.spank_hooks()
        self.layout.root.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.layout.state.exists():
                raise LabError(f"{self.layout.root} has a half-built lab; remove it with: hpcnet lab down")
            self._require_ours()
            state = State(options.nodes, options.docker, options.mtu, options.fabric)
            state.slurm = dict(options.slurm)
            state.hpcnet = {section: dict(values) for section, values in options.hpcnet.items()}
            state.cgroup = f"hpcnet-lab-{secrets.token_hex(4)}"
            state.save(self.layout.state)
            assembly = Assembly(self.layout, state, self._verbose)
            try:
                assembly.start()
            except BaseException:
                assembly.remove()
                raise
        return True

    def down(self) -> bool:
        """Remove the lab, or what is left of a half-built one; False when there was none."""
        _require_root()
        if not self.layout.root.exists():
            return False
        with self._locked():
            self._require_ours()
            state = State.load(self.layout.state) if self.layout.state.exists() else State(0, False, 0)
            Assembly(self.layout, state).remove()
        return True

    def is_up(self) -> bool:
        """Whether the lab was started to the end, and not taken down."""
        try:
            return State.load(self.layout.state).phase == "up"
        except (FileNotFoundError, NotADirectoryError):
            return False

    def state(self) -> State:
        """What was started. Raises LabError when the lab is not up."""
        try:
            state = State.load(self.layout.state)
        except (FileNotFoundError, NotADirectoryError):
            raise LabError(f"no lab is up at {self.layout.root}; start one with: hpcnet lab up") from None
        except PermissionError:
            raise LabError(f"{self.layout.state}: only root may use the lab") from None
        if state.phase != "up":
            raise LabError(f"the lab at {self.layout.root} is half-built; remove it with: hpcnet lab down")
        return state

    def status(self) -> dict[str, Any]:
        """The lab as ``status --json`` prints it."""
        state = self.state()
        assembly = self._assembly(state)
        running = {host.name: host for host in assembly.hosts()}
        hosts = []
        for name, record in state.hosts.items():
            host = running.get(name)
            daemon_list = [
                {"name": each, "pid": process.pid, "alive": host is not None and process.alive(host.proc)}
                for each, process in record.daemons.items()
            ]
            described = {"name": name, "pid": host.init if host else None, "daemons": daemon_list}
            described.update({} if name == SWITCH else addresses(name))
            described["logs"] = str(self.layout.host(name) / "log")
            hosts.append(described)
        return {
            "directory": str(self.layout.root),
            "nodes": state.nodes,
            "docker": state.docker,
            "fabric": state.fabric,
            "fabric_mtu": state.fabric_mtu,
            "hosts": hosts,
        }

    def command(self, host: str, argv: Sequence[str], user: str = "root") -> list[str]:
        """The command line that runs ``argv`` on a host, for subprocess.Popen."""
        return self._assembly().host(host).command(argv, user)

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        user: str = "root",
        stdin: str = "",
        check: bool = True,
        timeout: float | None = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and give its output; ``check``: LabError unless it exits 0.

        After ``timeout`` seconds it is killed, and subprocess.TimeoutExpired raised.
        """
        done = self._assembly().host(host).run(argv, user=user, stdin=stdin, timeout=timeout)
        if check and done.returncode:
            words = done.stdout + done.stderr
            raise LabError(f"{' '.join(argv)} on {host}: exit code {done.returncode}\n{words}")
        return done

    def log(self, host: str, name: str) -> str:
        """The whole log of a daemon."""
        assembly = self._assembly()
        daemon = daemons.find(host, name, assembly.state.docker)
        return assembly.host(host).path(daemon.log).read_text(encoding="utf-8", errors="replace")

    def start_daemon(self, host: str, name: str) -> None:
        """Start a daemon that does not run."""
        with self._changing() as assembly:
            where, daemon = assembly.host(host), daemons.find(host, name, assembly.state.docker)
            if assembly.running(where, name):
                raise LabError(f"{name} runs on {host} already")
            assembly.start_daemon(where, daemon)

    def stop_daemon(self, host: str, name: str, number: int = signal.SIGTERM) -> None:
        """End a daemon with a signal (SIGKILL for a crash); nothing when it does not run."""
        with self._changing() as assembly:
            daemons.find(host, name, assembly.state.docker)
            where = assembly.host(host)
            process = assembly.running(where, name)
            if process:
                daemons.stop(where, process, number)

    def restart(self, name: str, host: str | None = None, number: int = signal.SIGTERM) -> None:
        """Stop and start a daemon on one host, or on every host that runs it; wait until the nodes answer.

        A restarted slurmctld takes about four seconds to ask the nodes whether they are there.
        """
        begin = time.time()
        hosts = self._restart(name, host, number)
        assembly = self._assembly()
        alive = [each.name for each in assembly.hosts() if assembly.running(each, "slurmd")]
        if name == "slurmctld":
            assembly.await_registered(alive, 0)
        elif name == "slurmd" and assembly.running(assembly.host(CONTROLLER), "slurmctld"):
            assembly.await_registered([node for node in alive if node in hosts], begin)

    def _restart(self, name: str, host: str | None = None, number: int = signal.SIGTERM) -> list[str]:
        state = self.state()
        hosts = [host] if host else [each for each, record in state.hosts.items() if name in record.daemons]
        if not hosts:
            raise LabError(f"no host runs {name}")
        for each in hosts:
            self.stop_daemon(each, name, number)
        for each in hosts:
            self.start_daemon(each, name)
        return hosts

    def configure(
        self,
        slurm: Mapping[str, str | None] | None = None,
        hpcnet: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Change slurm.conf and hpcnet.toml on all hosts; restart Slurm's daemons when slurm.conf is another one.

        ``slurm`` maps keys to values (None leaves the key out), ``hpcnet`` sections to keys and values. They
        hold until changed again: ``configure()`` with nothing brings the lab's own settings back.
        """
        with self._changing() as assembly:
            changed = assembly.state.slurm != dict(slurm or {})
            assembly.state.slurm = dict(slurm or {})
            assembly.state.hpcnet = {section: dict(values) for section, values in (hpcnet or {}).items()}
            assembly.save()
            for host in assembly.hosts():
                assembly.write_settings(host)
        if changed:
            self._restart("slurmctld")
            self.restart("slurmd")

    def reinstall(self) -> None:
        """Install the checkout's present code anew, without touching any host."""
        with self._changing() as assembly:
            install.reinstall(self.layout, assembly.host(CONTROLLER))

    def power_off(self, node: str) -> None:
        """Kill a compute node with all that runs on it, as a power failure would; ``reboot`` brings it back."""
        with self._changing() as assembly:
            _require_node(assembly.state, node)
            assembly.halt([node])

    def reboot(self, node: str) -> None:
        """Kill a compute node, start it again, and wait until Slurm has heard from it.

        What was in /run, in namespaces and in memory is gone; /etc, /var/spool, /var/log and Docker's images stay.
        """
        with self._changing() as assembly:
            _require_node(assembly.state, node)
            assembly.halt([node])
            assembly.boot([node])
            begin = time.time()
            assembly.start_daemons([node])
            assembly.await_registered([node], begin)

    def await_idle(self, nodes: Sequence[str] = ()) -> None:
        """Wait until Slurm calls these nodes idle; all when none is given."""
        assembly = self._assembly()
        assembly.await_idle(nodes or node_names(assembly.state.nodes))

    def _assembly(self, state: State | None = None) -> Assembly:
        return Assembly(self.layout, state or self.state())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Assembly]:
        """The running lab, while no other process changes it."""
        self.state()
        with self._locked():
            yield self._assembly()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lab's directory against other commands; the kernel lets go of it if we die."""
        descriptor = os.open(self.layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise LabError(f"another command is at work on the lab at {self.layout.root}") from None
        finally:
            os.close(descriptor)

    def _require_ours(self) -> None:
        """Refuse a directory with somebody else's files: ``down`` would remove them."""
        names = {entry.name for entry in self.layout.root.iterdir()}
        if names - {"state.new"} and "state.json" not in names:
            raise LabError(f"{self.layout.root} is not a lab's directory: it has files, but no state.json")


def _require_node(state: State, name: str) -> None:
    nodes = node_names(state.nodes)
    if name not in nodes:
        raise LabError(f"{name} is no compute node; nodes: {', '.join(nodes)}")


def _require_root() -> None:
    if os.geteuid():
        raise LabError("the lab makes namespaces: run it as root")


def _require_programs(names: Sequence[str]) -> None:
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}; install it with: make bootstrap")
