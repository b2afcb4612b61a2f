# SPDX-License-Identifier: Apache-2.0
"""A few hosts for tests: each a network and mount namespace with its own /run and /etc, on one fabric.

No Slurm here: a hook is called as Slurm would call it, with its environment. Everything ends with the
process that holds the namespaces.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Callable

import pytest

from hpcnet import record
from hpcnet.config import Site
from hpcnet.model import Lease, Plan, Request
from hpcnet.plan import plan
from hpcnet.record import Record

CHECKOUT = Path(__file__).parents[2]

_HPCNET = (sys.executable, "-I", "-m", "hpcnet")
_PYTHON = (sys.executable, "-I", "-c")
_IMPORTS = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"

_SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mkdir -p /etc/hpcnet
mount -t sysfs sysfs /sys
echo ready
exec sleep infinity
"""

_STATE = {
    "links": "ip -d link",
    "addresses": "ip addr",
    "routes": "ip route; ip -6 route",
    "neighbours": "ip neigh show nud permanent",
    "forwarding": "bridge fdb",
    "namespaces": "ls /run/netns",
    "forwards": "grep -H . /proc/sys/net/ipv4/conf/*/forwarding",
    "mounts": "grep -c ' /run/netns' /proc/self/mountinfo",
    "filter": "nft list ruleset",
    "files": "find /run/hpcnet",
}


class Host:
    """One host; ``run`` runs a command on it as root."""

    interpreter = sys.executable
    """Of its hpcnet."""

    def __init__(self, name: str, own_processes: bool = False) -> None:
        """``own_processes``: in a process table of its own, where it sees those of no other host."""
        self.name = name
        self.used = False  # since somebody set it to False: whether any command ran
        self._namespaces = ["--net", "--mount", *(["--pid"] if own_processes else [])]
        table = ("--fork", "--kill-child", "--mount-proc") if own_processes else ()
        self._holder = subprocess.Popen(
            ["unshare", *self._namespaces, *table, "sh", "-c", _SETUP], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.pid = self._holder.pid
        """Of the process that holds the host's namespaces."""
        if own_processes:
            self.pid = int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii"))
        self.run("ip", "link", "set", "lo", "up")

    def enter(self, *argv: str) -> list[str]:
        """The command line that runs a command in the host's namespaces."""
        self.used = True
        return ["nsenter", f"--target={self.pid}", *self._namespaces, "--", *argv]

    def run(
        self, *argv: str, check: bool = True, text: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host's namespaces."""
        result = subprocess.run(
            self.enter(*argv), input=text, capture_output=True, text=True, timeout=300, env=env, check=False
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{self.name}: {argv} exited {result.returncode}: {result.stderr}{result.stdout}")
        return result

    def python(self, script: str, *arguments: str) -> str:
        """Standard output of a Python script, which may import hpcnet and the tests."""
        return self.run(*_PYTHON, _IMPORTS + script, *arguments).stdout

    def start_python(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start such a script."""
        return self.start(*_PYTHON, _IMPORTS + script, *arguments)

    def start(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command in the host's namespaces; ``ended`` waits for it."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.enter(*argv), stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)

    def write(self, path: str, text: str) -> None:
        """Write a file as the host sees it."""
        self.run("sh", "-c", 'cat > "$1"', "sh", path, text=text)

    def in_job(self, job_id: int, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the job's network."""
        return self.run("nsenter", f"--net=/run/netns/hpcnet-{job_id}", "--", *argv, check=check)

    def start_in_job(self, job_id: int, *argv: str) -> subprocess.Popen[str]:
        """Start a command in the job's network."""
        return self.start("nsenter", f"--net=/run/netns/hpcnet-{job_id}", "--", *argv)

    def hpcnet(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the hpcnet command, or a hook."""
        return self.run(*_HPCNET, *arguments, check=False, env=env)

    def hook(
        self, hook: str, environment: dict[str, str], under: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a hook as Slurm would, or ``under`` a program that runs it."""
        return self.run(*under, *_HPCNET, hook, check=False, env=self.environment(environment))

    def start_hook(self, hook: str, environment: dict[str, str]) -> subprocess.Popen[str]:
        """Start a hook as Slurm would."""
        return self.start(*_HPCNET, hook, env=self.environment(environment))

    def environment(self, environment: dict[str, str]) -> dict[str, str]:
        """Of a hook: what Slurm adds itself, and this."""
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return {**path, "SLURMD_NODENAME": self.name, **environment}

    def jobs(self) -> list[int]:
        """Jobs of which anything is here."""
        found = self.run("sh", "-c", "ls /run/hpcnet/jobs; ls /run/netns | sed -n s/hpcnet-//p").stdout
        return sorted({int(name) for name in found.split()})

    def state(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Everything of the host that a job's network could change; and what ``more`` commands say."""
        commands = {**_STATE, **(more or {})}
        script = "".join(f"echo '\0{name}\0'; {command} 2>&1; " for name, command in commands.items())
        # ib0 shows that it is new for a second or so: duplicate address detection
        words = self.run("sh", "-c", script.replace("\0", "@@")).stdout.replace(" tentative", "").split("@@")
        return dict(zip(words[1::2], words[2::2]))

    def configure(self, text: str = "", deadline: int = 30) -> None:
        """Give the host an hpcnet.toml, which says where hooks log too."""
        hooks = f'\n[hooks]\nlog = "/run/hpcnet.log"\ndeadline = {deadline}\n'
        self.write("/etc/hpcnet/hpcnet.toml", text + hooks)

    def lines(self, what: str, job_id: int = 0) -> set[str]:
        """Lines of an ``ip``, ``bridge`` or ``nft`` command, of the host or of the job's network."""
        argv = ("sh", "-c", what)
        text = (self.in_job(job_id, *argv) if job_id else self.run(*argv)).stdout
        return {" ".join(line.split()) for line in text.splitlines()}

    def close(self) -> None:
        """End the holder; its namespaces go with it."""
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


class Fabric:
    """Hosts n1..nN with ``ib0`` (172.31.0.N) on one switch."""

    def __init__(self, size: int, mtu: int = 65520, own_processes: bool = False) -> None:
        self.switch = Host("switch")
        self.hosts = [Host(f"n{number}", own_processes) for number in range(1, size + 1)]
        self.switch.run("ip", "link", "add", "fabric", "mtu", str(mtu), "type", "bridge")
        self.switch.run("ip", "link", "set", "fabric", "up")
        names = "".join(f"172.31.0.{number} n{number}-ib\n" for number in range(1, size + 1))
        for number, host in enumerate(self.hosts, 1):
            port = f"p{number}"
            peer = ("peer", "name", "ib0", "mtu", str(mtu), "netns", str(host.pid))
            self.switch.run("ip", "link", "add", port, "mtu", str(mtu), "type", "veth", *peer)
            self.switch.run("ip", "link", "set", port, "master", "fabric", "up")
            host.run("ip", "addr", "add", f"172.31.0.{number}/24", "dev", "ib0")
            host.run("ip", "link", "set", "ib0", "up")
            own = f"127.0.0.1 localhost\n10.0.0.{number} n{number} n{number}.example.org\n"
            host.write("/etc/hosts", own + names)
            host.configure()
            host.run("sh", "-c", "ip netns add first && ip netns del first")  # the directory becomes a mount
            loaded = host.hpcnet("filter", "load")
            assert loaded.returncode == 0, loaded.stderr
        wait_for(self.connected, "the fabric carries no packets")

    def connected(self) -> bool:
        """Whether every host reaches every other one."""
        targets = [f"172.31.0.{number}" for number in range(1, len(self.hosts) + 1)]
        script = "for target; do ping -c1 -W1 -q $target || exit 1; done"
        return all(
            host.run("sh", "-c", script, "sh", *targets, check=False).returncode == 0 for host in self.hosts
        )

    def close(self) -> None:
        """End all hosts."""
        for host in (*self.hosts, self.switch):
            host.close()


class SlowNft:
    """An nft on one host: after ``hold`` its next call waits until it may go on."""

    _PROGRAM = """#!/bin/sh
if mkdir /run/slow/called 2> /dev/null; then read word < /run/slow/go; fi
exec /run/slow/nft "$@"
"""

    def __init__(self, host: Host) -> None:
        self._host = host
        host.run("sh", "-c", "mkdir -p /run/slow/called; cp /usr/sbin/nft /run/slow/nft; mkfifo /run/slow/go")
        host.write("/run/slow/program", self._PROGRAM)
        host.run("sh", "-c", "chmod +x /run/slow/program; mount --bind /run/slow/program /usr/sbin/nft")

    def hold(self) -> None:
        """Let the next call wait; those behind it do not."""
        self._host.run("rmdir", "/run/slow/called")

    def wait_until_called(self) -> None:
        """Wait for that call."""
        called = f"/proc/{self._host.pid}/root/run/slow/called"
        wait_for(lambda: os.path.exists(called), "nft is not called")

    def go_on(self) -> None:
        """Let it go on."""
        self._host.run("sh", "-c", "echo > /run/slow/go")

    def close(self) -> None:
        """The host's own nft again."""
        self._host.run("sh", "-c", "umount /usr/sbin/nft; rm -r /run/slow")


def job_environment(
    lease: Lease | None, nodelist: str, job_id: int = 17, request: Request | None = None, **more: str
) -> dict[str, str]:
    """What Slurm gives Prolog and Epilog of a job with this lease (None: asked, but never leased)."""
    asked = request or Request()
    found = Record("lease", asked, lease=lease) if lease else Record("asked", asked)
    return {
        "SLURM_JOB_ID": str(job_id),
        "SLURM_JOB_UID": "20001",
        "SLURM_JOB_USER": "alice",
        "SLURM_NODELIST": nodelist,
        "SLURM_CLUSTER_NAME": "lab",
        "SLURM_JOB_COMMENT": "my text " + record.token(found),
        **more,
    }


def lease_of(index: int = 0, **changes: object) -> Lease:
    """The lease with this number out of the default pool: 62 addresses."""
    pool = Site().pool
    lease = Lease(
        serial=100 + index,
        mode="vxlan",
        vni=pool.vni[0] + index,
        ipv4=IPv4Network((int(pool.ipv4.network_address) + 64 * index, 26)),
        ipv6=IPv6Network((int(pool.ipv6.network_address) + (index << 64), 64)),
    )
    return replace(lease, **changes)  # type: ignore[arg-type]


def plan_of(lease: Lease, size: int, node: str = "n1", job_id: int = 17) -> Plan:
    """The plan for a node of a job over n1..n<size>."""
    nodes = [f"n{number}" for number in range(1, size + 1)]
    underlays = {name: IPv4Address("172.31.0.0") + number for number, name in enumerate(nodes, 1)}
    return plan(
        lease, nodes, node, underlays, cluster="lab", job_id=job_id, uid=20001, uplink="ib0", uplink_mtu=65520
    )


def built(hosts: Iterable[Host], environment: dict[str, str]) -> None:
    """Run Prolog on the hosts at once; each builds the network."""
    for process in [host.start_hook("prolog", environment) for host in hosts]:
        code, errors = ended(process)
        assert code == 0, errors
        assert "refused" not in errors


def removed(hosts: Iterable[Host], environment: dict[str, str]) -> None:
    """Run Epilog on the hosts at once; each has nothing to complain of."""
    for process in [host.start_hook("epilog", environment) for host in hosts]:
        code, errors = ended(process)
        assert code == 0, errors
        assert len(errors.splitlines()) == 1, errors


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    """Exit code and standard error of a process that was started."""
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors


def wait_for(condition: Callable[[], object], otherwise: str, seconds: float = 10) -> None:
    """Wait until ``condition`` holds; fail with ``otherwise`` when it does not in time."""
    late = time.monotonic() + seconds
    while True:
        begin = time.monotonic()
        if condition():
            return
        assert time.monotonic() < late, otherwise
        # Looking takes processor time from what is waited for, most of it where a processor is emulated.
        time.sleep(max(0.02, 3 * (time.monotonic() - begin)))


def require_root() -> None:
    """Skip the module, with the reason, where namespaces cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces", allow_module_level=True)
