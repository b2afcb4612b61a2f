# SPDX-License-Identifier: Apache-2.0
"""Build and take apart a lab: its hosts, their files and daemons. What is done is recorded first."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hpcnet.errors import LabError
from hpcnet.lab import cgroups, containers, daemons, etcfiles, infiniband, install, network, rootless
from hpcnet.lab.host import Host, boot, halt, tail
from hpcnet.lab.layout import CONTROLLER, LOGIN, SWITCH, USERS, Layout, host_names, machine_names, node_names
from hpcnet.lab.state import Process, State, init_of

_NODES_SECONDS = 180.0
_SLURM_LOGS = ("/var/log/slurm", "slurm", 0o755)
_DIRECTORIES = {
    SWITCH: [("/run/munge", "munge", 0o755)],
    CONTROLLER: [("/var/spool/slurmctld", "slurm", 0o755), _SLURM_LOGS],
    LOGIN: [],
}
_NODE_DIRECTORIES = [
    ("/var/spool/slurmd", "root", 0o755),
    ("/var/spool/job_tmp", "root", 0o1777),
    _SLURM_LOGS,
]


class Assembly:
    """One lab in the making, at work, or in removal."""

    def __init__(self, layout: Layout, state: State, verbose: bool = False) -> None:
        self.layout = layout
        self.state = state
        self._verbose = verbose
        self._saving = threading.Lock()

    def save(self) -> None:
        """Write the state; hosts are worked on side by side."""
        with self._saving:
            self.state.save(self.layout.state)

    def host(self, name: str) -> Host:
        """A running host. Raises LabError naming those that exist, or saying that it is off."""
        if name not in self.state.hosts:
            raise LabError(f"no host {name}; hosts: {', '.join(self.state.hosts) or 'none'}")
        init = self._init(name)
        if init is None:
            raise LabError(f"host {name} is off")
        return Host(name, init)

    def hosts(self) -> list[Host]:
        """All hosts that are not off."""
        found = ((name, self._init(name)) for name in self.state.hosts)
        return [Host(name, init) for name, init in found if init is not None]

    def _init(self, name: str) -> int | None:
        keeper = self.state.hosts[name].keeper
        return init_of(keeper) if keeper else None

    def start(self) -> None:
        """Build the whole lab and return when every node is idle."""
        everyone = host_names(self.state.nodes)
        with self._phase("hosts"):
            self._make_shared_files()
            self.boot(everyone)
        with self._phase("installation"):
            install.install(self.layout, self.host(CONTROLLER))
        with self._phase("daemons"):
            if self.state.docker:
                containers.make_image(self.layout)
            self.start_daemons(everyone)
        with self._phase("nodes idle"):
            self.await_idle(node_names(self.state.nodes))
        self.state.phase = "up"
        self.save()

    def boot(self, names: Sequence[str]) -> None:
        """Start hosts, wire them, write their /etc: the same for the first start and for a reboot."""
        hosts = boot(self.layout, self.state, names)
        if SWITCH in hosts:
            network.make_switch(hosts[SWITCH].init)
        plugged = {name: host.init for name, host in hosts.items() if name != SWITCH}
        on_infiniband = self.state.fabric == "infiniband"
        network.plug(self.host(SWITCH).init, plugged, None if on_infiniband else self.state.fabric_mtu)
        if on_infiniband:
            infiniband.plug(machine_names(self.state.nodes), plugged, self.state.fabric_mtu)
        for host in hosts.values():
            self._configure(host)

    def halt(self, names: Sequence[str]) -> None:
        """Kill hosts as a power failure would."""
        halt(self.layout, self.state, names)
        self.save()

    def start_daemons(self, names: Iterable[str]) -> None:
        """Start the daemons of hosts: the switch's and the controller's first, then the others at once."""
        names = list(names)
        for first in (SWITCH, CONTROLLER):
            if first in names:
                names.remove(first)
                self._start_daemons_of(first)
        with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
            list(pool.map(self._start_daemons_of, names))

    def start_daemon(self, host: Host, daemon: daemons.Daemon) -> None:
        """Start one daemon and record it."""
        process = daemons.start(host, daemon)
        with self._saving:
            self.state.hosts[host.name].daemons[daemon.name] = process
            self.state.save(self.layout.state)

    def running(self, host: Host, name: str) -> Process | None:
        """The process of a daemon, when it runs."""
        process = self.state.hosts[host.name].daemons.get(name)
        return process if process and process.alive(host.proc) else None

    def write_settings(self, host: Host) -> None:
        """Write the files that ``configure`` may change."""
        host.write("/etc/slurm/slurm.conf", etcfiles.slurm_conf(self.state.nodes, self.state.slurm))
        host.write("/etc/hpcnet/hpcnet.toml", etcfiles.hpcnet_toml(self.state.fabric_mtu, self.state.hpcnet))

    def await_idle(self, nodes: Sequence[str]) -> None:
        """Wait until Slurm calls these nodes idle. Raises LabError with slurmctld's log if it does not."""
        self._await_nodes(nodes, lambda node: node["State"] == "IDLE")

    def await_registered(self, nodes: Sequence[str], since: float) -> None:
        """Wait until Slurm has heard from the nodes' slurmds, started at ``since`` (a time) or later."""
        self._await_nodes(nodes, lambda node: _started(node) >= int(since) and not _lost(node))

    def _await_nodes(self, nodes: Sequence[str], good: Callable[[dict[str, str]], bool]) -> None:
        controller = self.host(CONTROLLER)
        deadline = time.monotonic() + _NODES_SECONDS
        waiting = dict.fromkeys(nodes, "unknown")
        while waiting:
            begin = time.monotonic()
            if begin > deadline:
                states = ", ".join(f"{node} {state}" for node, state in waiting.items())
                log = tail(controller.path("/var/log/slurm/slurmctld.log"))
                raise LabError(f"nodes are not ready: {states}; slurmctld's log ends:\n{log}")
            shown = controller.run(["env", "SLURM_TIME_FORMAT=%s", "scontrol", "-o", "show", "node"]).stdout
            for line in shown.splitlines():
                node = dict(word.split("=", 1) for word in line.split() if "=" in word)
                if node["NodeName"] in waiting:
                    waiting[node["NodeName"]] = node["State"]
                    if good(node):
                        del waiting[node["NodeName"]]
            # Asking takes processor time from the daemons, most of it where a processor is emulated.
            time.sleep(max(0.03, time.monotonic() - begin) if waiting else 0)

    def remove(self) -> None:
        """Kill everything, and remove the lab's directory. Goes on where an earlier attempt stopped."""
        self.halt(list(self.state.hosts))
        deadline = time.monotonic() + 5
        for group in {group for record in self.state.hosts.values() for group in record.cgroups}:
            cgroups.remove(Path(group), deadline)
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        inside = [line.split()[4] for line in mounts if line.split()[4].startswith(f"{self.layout.root}/")]
        if inside:
            raise LabError(f"something is mounted in the lab's directory, not removing it: {inside[0]}")
        # state.json last, so that "down" can be asked again.
        for entry in self.layout.root.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry != self.layout.state:
                entry.unlink()
        self.layout.state.unlink(missing_ok=True)
        self.layout.root.rmdir()

    def _make_shared_files(self) -> None:
        self.layout.prefix.mkdir(parents=True)
        self.layout.munge.mkdir()
        key = self.layout.munge / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
        for user, uid in USERS.items():
            home = self.layout.home(user)
            home.mkdir(parents=True, mode=0o700)
            os.chown(home, uid, uid)

    def _configure(self, host: Host) -> None:
        """Write a host's /etc, and make the directories that its daemons want."""
        join = ("docker",) if self.state.docker else ()
        host.write("/etc/passwd", etcfiles.passwd(Path("/etc/passwd").read_text(encoding="utf-8")))
        host.write("/etc/shadow", etcfiles.shadow(Path("/etc/shadow").read_text(encoding="utf-8")), 0o600)
        host.write("/etc/group", etcfiles.group(Path("/etc/group").read_text(encoding="utf-8"), join))
        host.write("/etc/hostname", f"{host.name}\n")
        host.write("/etc/hosts", etcfiles.hosts(self.state.nodes))
        host.write("/etc/profile.d/hpcnet-lab.sh", etcfiles.PROFILE)
        host.write("/etc/slurm/plugstack.conf", etcfiles.PLUGSTACK)
        host.write("/etc/slurm/job_submit.lua", etcfiles.JOB_SUBMIT_LUA)
        host.write("/etc/slurm/cgroup.conf", etcfiles.cgroup_conf(cgroups.unified(cgroups.hierarchies())))
        if self.state.docker:
            data = self.layout.host(host.name) / "docker"
            host.write("/etc/docker/daemon.json", containers.daemon_json(data))
        self.write_settings(host)
        for directory, owner, mode in _DIRECTORIES.get(host.name, _NODE_DIRECTORIES):
            made = host.path(directory)
            made.mkdir(parents=True, exist_ok=True)
            made.chmod(mode)
            shutil.chown(made, owner, owner)
        if host.name in node_names(self.state.nodes):
            rootless.configure(host)
        if host.name == CONTROLLER:
            # The controller's hooks run as SlurmUser, who may not make a file in /var/log.
            host.write("/var/log/hpcnet.log", "")
            shutil.chown(host.path("/var/log/hpcnet.log"), "slurm", "slurm")

    def _start_daemons_of(self, name: str) -> None:
        host = self.host(name)
        if name != SWITCH:
            install.load_filter(host)
        for daemon in daemons.of_host(name, self.state.docker):
            self.start_daemon(host, replace(daemon, argv=(*daemon.argv, *daemon.at_boot)))
            if daemon.name == "dockerd":
                containers.load_image(host, self.layout)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Say on stderr how long a phase took."""
        begin = time.monotonic()
        yield
        if self._verbose:
            print(f"lab: {name} {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)


def _started(node: dict[str, str]) -> int:
    """When the node's slurmd started, as scontrol tells; 0 while Slurm does not know."""
    text = node.get("SlurmdStartTime", "")
    return int(text) if text.isdigit() else 0


def _lost(node: dict[str, str]) -> bool:
    """Whether Slurm thinks that it cannot reach the node ("*"), or has not yet tried."""
    words = node["State"].split("+")
    return "*" in node["State"] or "NOT_RESPONDING" in words or words[0] in ("DOWN", "UNKNOWN")
