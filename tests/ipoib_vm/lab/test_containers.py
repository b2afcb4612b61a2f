# SPDX-License-Identifier: Apache-2.0
"""Docker containers of two nodes on InfiniBand, through hpcnet's own network driver, in both modes at once.

In mode=direct each container has an IPoIB child of its own, in mode=vxlan a part of the job's segment, which is
carried by ib0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from hpcnet.lab import containers, daemons
from hpcnet.lab.host import Host
from hpcnet.lab.layout import Layout
from hpcnet.lab.state import Process
from tests.cluster.cluster import Cluster
from tests.cluster.docker import Docker
from tests.ipoib_vm.adapter import parameter
from tests.ipoib_vm.lab.conftest import NODES, SITE, SLURM

pytestmark = pytest.mark.ipoib_vm

OFFER = {**SITE, "offer": {**SITE["offer"], "docker": True}, "docker": {"deadline": 200}}
MODES = {
    "vxlan": ("macvlan mode bridge", 4092 - 50),
    "direct": ("ipoib pkey 0x8001 mode datagram", 4092),
}
"""What a container's interface is, and its MTU."""

_NETWORKS = {
    "vxlan": "ib,docker=yes,mode=vxlan",
    "direct": "ib,docker=yes,mode=direct,pkey=0x8001",
    "another partition": "ib,docker=yes,mode=direct,pkey=auto",
}

# dockerd gives a containerd of its own 15 seconds to start, too few for an emulated processor, and takes one that
# is there already.
_CONTAINERD = daemons.Daemon(
    "containerd",
    ("containerd",),
    "/run/containerd.pid",
    "/var/log/containerd.log",
    lambda host: host.path("/run/containerd/containerd.sock").exists(),
    detaches=False,
    writes_pid=False,
)
_CONTAINERD_TOML = """
version = 2
root = "{root}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
"""


def start_docker(host: Host, layout: Layout) -> list[Process]:
    """Start a node's Docker with the lab's image, and hpcnet agent; in the order of their start."""
    data = layout.host(host.name) / "docker"
    host.write("/etc/docker/daemon.json", containers.daemon_json(data))
    host.write("/etc/containerd/config.toml", _CONTAINERD_TOML.format(root=data / "containerd"))
    others = [daemon for daemon in daemons.of_host(host.name, docker=True) if daemon.name != "slurmd"]
    started = [daemons.start(host, daemon) for daemon in (_CONTAINERD, *others)]
    containers.load_image(host, layout)
    return started


@pytest.fixture(scope="module")
def docker(cluster: Cluster) -> Iterator[Docker]:
    """Docker on both nodes, and the site offers it, while these tests run."""
    layout = cluster.lab.layout
    cluster.lab.configure(slurm=SLURM, hpcnet=OFFER)
    containers.make_image(layout)
    inits = {host["name"]: host["pid"] for host in cluster.lab.status()["hosts"]}
    hosts = [Host(node, inits[node]) for node in NODES]
    with ThreadPoolExecutor() as pool:
        started = list(pool.map(start_docker, hosts, [layout] * len(hosts)))
    yield Docker(cluster)
    for host, processes in zip(hosts, started):
        for process in reversed(processes):
            daemons.stop(host, process)
    cluster.lab.configure(slurm=SLURM, hpcnet=SITE)


class Job:
    """A job with a container on each of its nodes, which is called as its mode."""

    def __init__(self, docker: Docker, mode: str, nodes: Sequence[str] = NODES) -> None:
        self.docker, self.mode = docker, mode.replace(" ", "-")
        where = (f"-N{len(nodes)}", "-w", ",".join(nodes))
        self.id = docker.cluster.hold(f"--network={_NETWORKS[mode]}", *where, seconds=3600)
        self.lease = docker.cluster.lease(self.id)
        for node in nodes:
            docker.start(self.id, node, self.mode, user="root")

    def execute(self, node: str, script: str, *options: str) -> str:
        """Output of a shell script in the node's container."""
        return self.docker(node, "exec", *options, self.mode, "sh", "-c", script, user="root").stdout

    def inside(self, node: str, script: str, check: bool = True) -> str:
        """Output of a shell script that root of the node runs in its container's network."""
        enter = ("nsenter", f"--target={self.docker.process(node, self.mode)}", "--net", "sh", "-c", script)
        return self.docker.cluster.root(node, *enter, check=check)

    def end(self, node: str) -> tuple[str, str]:
        """IPv4 address and hardware address of the node's container."""
        [shown] = json.loads(self.inside(node, "ip -j addr show hpc0"))
        [own] = [each["local"] for each in shown["addr_info"] if each["family"] == "inet"]
        return own, shown["address"]


@pytest.fixture(scope="module")
def jobs(docker: Docker) -> dict[str, Job]:
    """A job of each mode."""
    return {mode: Job(docker, mode) for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_what_a_container_gets(jobs: dict[str, Job], mode: str) -> None:
    kind, mtu = MODES[mode]
    for node in NODES:
        shown = jobs[mode].inside(node, "ip -d -o link show hpc0")
        assert kind in shown and f" mtu {mtu} " in shown and "LOWER_UP" in shown
        assert "hpc0" not in jobs[mode].docker.cluster.root(node, "ip", "-o", "link")


@pytest.mark.parametrize("mode", MODES)
def test_containers_and_tasks_of_both_nodes_reach_each_other_by_name(jobs: dict[str, Job], mode: str) -> None:
    ping = "ping $family -c1 -W10 -q $name >/dev/null || echo $family $name"
    script = f"for family in -4 -6; do for name in n1 n2 n1-1 n2-1; do {ping}; done; done"
    for node in NODES:
        assert jobs[mode].execute(node, script) == ""


@pytest.mark.parametrize("mode", MODES)
def test_iperf3_between_containers_of_two_nodes(jobs: dict[str, Job], mode: str) -> None:
    job = jobs[mode]
    job.execute("n2", "iperf3 -s -1", "-d")
    # exits 0 with --json whatever happened
    tries = "for try in $(seq 40); do iperf3 -c n2-1 -n4M --json >/tmp/report; grep -q error /tmp/report || break"
    report: dict[str, Any] = json.loads(job.execute("n1", f"{tries}; sleep 0.3; done; cat /tmp/report"))
    assert report["end"]["sum_received"]["bytes"] > 1_000_000
    assert IPv4Address(report["start"]["connected"][0]["remote_host"]) in IPv4Network(job.lease["ipv4"])


def test_containers_of_different_jobs_do_not_reach_each_other(docker: Docker, jobs: dict[str, Job]) -> None:
    """Not even with root's powers at both ends, routes, and in mode=direct each other's hardware address.

    Two of mode=direct would, were it not for their partitions.
    """
    direct, other = jobs["direct"], Job(docker, "another partition", ["n2"])
    for one, two in ((jobs["vxlan"], direct), (direct, jobs["vxlan"]), (direct, other)):
        ends = ((one, "n1", two.end("n2")), (two, "n2", one.end("n1")))
        for job, node, (address, hardware) in ends:
            job.inside(node, f"ip route replace {address}/32 dev hpc0")
            if two is other:
                job.inside(node, f"ip neigh replace {address} lladdr {hardware} dev hpc0 nud permanent")
        ping = f"ping -c3 -i0.3 -W3 -q {two.end('n2')[0]} || true"
        assert " 0 received" in one.inside("n1", ping)
    with parameter("partitions", "N"):
        assert " 0% packet loss" in direct.inside("n1", ping)


def test_the_end_of_the_jobs_leaves_no_container_and_no_network(docker: Docker, jobs: dict[str, Job]) -> None:
    docker.cluster.settle(seconds=300)
    for node in NODES:
        assert docker.networks(node) == {"host", "none"}
        assert docker.containers(node, "-f", "status=running") == set()
    docker.cluster.assert_pristine()
