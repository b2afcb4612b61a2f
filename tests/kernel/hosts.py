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
from pathlib import Path

from hpcnet import record
from hpcnet.config import Site
from hpcnet.model import Lease, Request
from hpcnet.record import Record

CHECKOUT = Path(__file__).parents[2]

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


class Host:
    """One host; ``run`` runs a command on it as root."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", _SETUP], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        """Of the process that holds the host's namespaces."""
        return self._holder.pid

    def run(
        self, *argv: str, check: bool = True, text: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host's namespaces."""
        result = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--net", "--mount", "--", *argv],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
            check=False,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{self.name}: {argv} exited {result.returncode}: {result.stderr}{result.stdout}")
        return result

    def write(self, path: str, text: str) -> None:
        """Write a file as the host sees it."""
        self.run("sh", "-c", 'cat > "$1"', "sh", path, text=text)

    def in_job(self, job_id: int, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the job's network."""
        return self.run("nsenter", f"--net=/run/netns/hpcnet-{job_id}", "--", *argv, check=check)

    def hpcnet(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the hpcnet command, or a hook."""
        return self.run(sys.executable, "-I", "-m", "hpcnet", *arguments, check=False, env=env)

    def hook(self, hook: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a hook as Slurm would."""
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return self.hpcnet(hook, env={**path, "SLURMD_NODENAME": self.name, **environment})

    def state(self) -> dict[str, str]:
        """Everything of the host that a job's network could change."""
        return {
            "links": self.run("ip", "-d", "link").stdout,
            "addresses": self.run("ip", "addr").stdout,
            "routes": self.run("ip", "route").stdout + self.run("ip", "-6", "route").stdout,
            "neighbours": self.run("ip", "neigh", "show", "nud", "permanent").stdout,
            "forwarding": self.run("bridge", "fdb").stdout,
            "namespaces": self.run("ls", "/run/netns").stdout,
            "filter": self.run("nft", "list", "ruleset").stdout,
            "files": self.run("find", "/run/hpcnet", check=False).stdout,
        }

    def close(self) -> None:
        """End the holder; its namespaces go with it."""
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


class Fabric:
    """Hosts n1..nN with ``ib0`` (172.31.0.N) on one switch."""

    def __init__(self, size: int, mtu: int = 65520) -> None:
        self.switch = Host("switch")
        self.hosts = [Host(f"n{number}") for number in range(1, size + 1)]
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
            host.write("/etc/hosts", f"127.0.0.1 localhost\n10.0.0.{number} n{number} n{number}.example.org\n{names}")
            host.write("/etc/hpcnet/hpcnet.toml", '[hooks]\nlog = "/run/hpcnet.log"\n')
            loaded = host.hpcnet("filter", "load")
            assert loaded.returncode == 0, loaded.stderr
        time.sleep(0.1)

    def close(self) -> None:
        """End all hosts."""
        for host in (*self.hosts, self.switch):
            host.close()


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


def lease_of(index: int = 0, nodes: int = 3, **changes: object) -> Lease:
    """The lease with this number out of the default pool."""
    from dataclasses import replace
    from ipaddress import IPv4Network, IPv6Network

    pool = Site().pool
    lease = Lease(
        serial=100 + index,
        mode="vxlan",
        vni=pool.vni[0] + index,
        ipv4=IPv4Network((int(pool.ipv4.network_address) + 64 * index, 26)),
        ipv6=IPv6Network((int(pool.ipv6.network_address) + (index << 64), 64)),
    )
    return replace(lease, **changes)  # type: ignore[arg-type]


def require_root() -> None:
    """Skip the module, with the reason, where namespaces cannot be made."""
    import pytest

    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces", allow_module_level=True)
