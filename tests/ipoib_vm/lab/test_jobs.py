# SPDX-License-Identifier: Apache-2.0
"""Slurm jobs in the lab, whose hosts have IPoIB interfaces of their own: mode=direct, vxlan, both at once.

Starting jobs is what takes time here, so five of them run while the tests look at them.
"""

from __future__ import annotations

import json
import re
import signal
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.test_cleanup import bring_back, cleanup, kill_steps, verdicts
from tests.cluster.test_job import _IPERF, names
from tests.ipoib_vm.adapter import sh
from tests.ipoib_vm.lab.conftest import NODES
from tests.kernel.hosts import wait_for

pytestmark = pytest.mark.ipoib_vm

WANTED = {
    "alice's 0x8001": ("alice", "ib,mode=direct,pkey=0x8001"),
    "bob's 0x8001": ("bob", "ib,mode=direct,pkey=0x8001,mtu=2044"),
    "alice's auto": ("alice", "ib,mode=direct,pkey=auto,ipoib=datagram"),
    "bob's auto": ("bob", "ib,mode=direct,pkey=auto,ipoib=connected"),
    "vxlan": ("bob", "ib,mode=vxlan"),
}
SHARED, ALICES, BOBS = "alice's 0x8001", "alice's auto", "bob's auto"


_SHOW = "for job; do ip -n hpcnet-$job -d -o link show hpc0; ip -n hpcnet-$job -o addr show hpc0; echo ==; done"


class Jobs:
    """The jobs of WANTED, each over n1 and n2, by their names there.

    ``planned`` is what ``hpcnet plan`` said, ``shown`` by name and node what ``ip`` says of the job's interface.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.duplicates = duplicates()
        self.ids: dict[str, int] = {}
        self.planned: dict[str, Any] = {}
        self.shown: dict[tuple[str, str], str] = {}
        for name, (user, network) in WANTED.items():
            words = ("hpcnet", "plan", "--network", network, "--nodes", "n[1-2]", "--json")
            self.planned[name] = json.loads(cluster.root("ctl", *words))
            self.ids[name] = cluster.hold(f"--network={network}", "-N2", "-w", "n[1-2]", user=user, seconds=3600)
        self.leases = {name: cluster.lease(job) for name, job in self.ids.items()}
        for node in NODES:
            texts = cluster.root(node, "sh", "-c", _SHOW, "sh", *map(str, self.ids.values())).split("==\n")
            self.shown.update({(name, node): text for name, text in zip(self.ids, texts)})

    def hosts_links(self, node: str) -> set[str]:
        """Interfaces of a node itself."""
        return set(names(self.cluster.root(node, "ip", "-o", "link").splitlines()))

    def inside(self, name: str, node: str, script: str) -> str:
        """Output of a shell script that root runs on a node in a job's network."""
        return self.cluster.root(node, "ip", "netns", "exec", f"hpcnet-{self.ids[name]}", "sh", "-c", script)

    def task(self, name: str, script: str) -> str:
        """Output of a shell script in a task of the job on n1, as its user."""
        step = ("srun", f"--jobid={self.ids[name]}", "--overlap", "-N1", "-n1", "-w", "n1", "sh", "-c", script)
        return self.cluster.run(*step, user=WANTED[name][0]).stdout

    def address(self, name: str, rank: int) -> str:
        """IPv4 address of the job's tasks on the node with this rank."""
        return str(IPv4Network(self.leases[name]["ipv4"])[rank + 1])

    def answers(self, name: str, targets: list[str]) -> list[str]:
        """Those of some addresses that answer n1's end of the job, which has root's powers and routes to them."""
        ping = (
            "ip route replace $t/32 dev hpc0; ping -c2 -i0.3 -W3 -q $t >/dev/null && echo $t; ip route del $t/32"
        )
        return self.inside(name, "n1", f"for t in {' '.join(targets)}; do {ping}; done").split()


def duplicates() -> int:
    """How many duplicate addresses the kernel has found until now, in any namespace."""
    return sh("dmesg").count("duplicate address")


@pytest.fixture(scope="module")
def jobs(cluster: Cluster) -> Jobs:
    return Jobs(cluster)


def test_each_host_has_an_ipoib_interface_of_an_adapter_of_its_own(cluster: Cluster) -> None:
    adapters = set()
    for host in ("ctl", "login", *NODES):
        assert "link/infiniband" in cluster.root(host, "ip", "link", "show", "ib0")
        adapters.add(cluster.root(host, "sh", "-c", "ls /sys/class/net/ib0/device/infiniband"))
    assert len(adapters) == 4
    for node in NODES:
        cluster.root("login", "ping", "-c1", "-W5", "-q", f"{node}-ib")


def test_what_each_job_gets(jobs: Jobs) -> None:
    kinds = {
        "alice's 0x8001": ("ipoib pkey 0x8001 mode datagram", 4092),
        "bob's 0x8001": ("ipoib pkey 0x8001 mode datagram", 2044),
        "alice's auto": (f"ipoib pkey {jobs.leases[ALICES]['pkey']} mode datagram", 4092),
        "bob's auto": (f"ipoib pkey {jobs.leases[BOBS]['pkey']} mode connected", 65520),
        "vxlan": ("macvlan mode bridge", 4092 - 50),
    }
    for name, (kind, mtu) in kinds.items():
        shown = jobs.shown[name, "n1"]
        assert kind in shown and f" mtu {mtu} " in shown and "LOWER_UP" in shown, name
    for node in NODES:
        assert jobs.cluster.root(node, "hpcnet", "check").splitlines() == [
            f"job {job}: ok" for job in sorted(jobs.ids.values())
        ]
        assert jobs.hosts_links(node) == {"lo", "eth0", "ib0", *(f"hpce{job}" for job in jobs.ids.values())}


def test_the_addresses_are_as_hpcnet_plan_says(jobs: Jobs) -> None:
    for name in WANTED:
        planned = jobs.planned[name]
        assert planned["lease"]["ipv4"] == jobs.leases[name]["ipv4"], name
        for node in planned["nodes"]:
            shown = jobs.shown[name, node["node"]]
            assert f" {node['ipv4']}/" in shown and f" {node['ipv6']}/64" in shown, name


def test_pkey_auto_is_a_partition_of_its_own(jobs: Jobs) -> None:
    pkeys = {jobs.leases[name]["pkey"] for name in (ALICES, BOBS)}
    assert pkeys == {"0x8002", "0x8003"}


def test_nodes_of_a_job_reach_each_other_by_name(jobs: Jobs) -> None:
    for name in WANTED:
        assert "0% packet loss" in jobs.task(name, "ping -4 -c1 -W5 -q n2 && ping -6 -c1 -W5 -q n2"), name


def test_connected_mode_carries_65520_bytes_between_nodes(jobs: Jobs) -> None:
    assert "0% packet loss" in jobs.task(BOBS, "ping -4 -c2 -W10 -Mdo -q -s65492 n2")


def test_jobs_of_different_partitions_do_not(jobs: Jobs) -> None:
    for one, others in ((ALICES, (BOBS, SHARED, "vxlan")), (SHARED, (ALICES, "vxlan")), ("vxlan", (SHARED, BOBS))):
        targets = [jobs.address(other, rank) for other in others for rank in (0, 1)]
        assert jobs.answers(one, targets) == []


def test_jobs_of_one_shared_partition_do(jobs: Jobs) -> None:
    """So the test above could fail; such a network is said to be shared."""
    route = f"{jobs.address(SHARED, 0)}/32 dev hpc0"
    jobs.inside("bob's 0x8001", "n2", f"ip route replace {route}")
    try:
        target = jobs.address("bob's 0x8001", 1)
        assert jobs.answers(SHARED, [target]) == [target]
    finally:
        jobs.inside("bob's 0x8001", "n2", f"ip route del {route}")
    assert jobs.leases[SHARED]["shared"] and not jobs.leases[ALICES]["shared"]


def test_link_local_addresses_are_unique_and_nobody_complains(jobs: Jobs) -> None:
    found = []
    for name in WANTED:
        for node in NODES:
            shown = jobs.shown[name, node]
            assert "tentative" not in shown and "dadfailed" not in shown
            found += [(jobs.leases[name]["pkey"], address) for address in re.findall(r"fe80:\S+", shown)]
    shared = [address for pkey, address in found if pkey == "0x8001"]
    assert len(shared) == len(set(shared)) == 4
    assert duplicates() == jobs.duplicates


@pytest.mark.parametrize("network", ["ib,mode=direct,pkey=0x8001", "ib"])
def test_iperf3_between_tasks(jobs: Jobs, network: str) -> None:
    cluster = jobs.cluster
    script = _IPERF.format(family="-6", bind="$HPCNET_ADDRESS6")
    job = cluster.sbatch(script, f"--network={network}", "-N2", "-w", "n[1-2]")
    assert cluster.finished(job, 240) == "COMPLETED", cluster.output(job)
    report = json.loads(cluster.output(job))
    pool = "fd68:7063:6e66::/48" if "direct" in network else "fd68:7063:6e65::/48"
    remote = IPv6Network(report["start"]["connected"][0]["remote_host"])
    assert remote.subnet_of(IPv6Network(pool))
    assert report["end"]["sum_received"]["bytes"] > 1_000_000


def test_a_pkey_that_the_site_does_not_offer_is_refused_at_submit(cluster: Cluster) -> None:
    refused = cluster.run("sbatch", "--network=ib,mode=direct,pkey=0x8003", "-N1", "--wrap=true", check=False)
    assert refused.returncode != 0
    assert "0x8003" in refused.stderr and "0x8001" in refused.stderr


def test_what_the_nodes_refuse_reaches_the_user_and_no_node_drains(jobs: Jobs) -> None:
    done = jobs.cluster.run("srun", "-N1", "--network=ib,mode=direct,pkey=auto", "true", check=False)
    assert done.returncode != 0
    assert "gets no network, so it does not start" in done.stderr


def test_epilog_leaves_the_nodes_as_they_were(jobs: Jobs) -> None:
    jobs.cluster.settle(seconds=300)
    jobs.cluster.assert_pristine()


def test_cleanup_finds_the_child_of_a_killed_namespace(cluster: Cluster) -> None:
    """A job of a node whose slurmd died, so no Epilog runs; and somebody killed its namespace.

    The kernel gives the child back to the machine's own network, which is the node's on a cluster; the lab's nodes
    are namespaces, so here the test hands it on to n2.
    """
    job = cluster.hold("--network=ib,mode=direct,pkey=0x8001", "-w", "n2", "--no-requeue", seconds=600)
    cluster.lab.stop_daemon("n2", "slurmd", signal.SIGKILL)
    cluster.root("n2", "ip", "netns", "del", f"hpcnet-{job}")
    wait_for(lambda: "hpc0" in sh("ip -o link"), "this kernel does not give the child back", 60)
    [init] = [host["pid"] for host in cluster.lab.status()["hosts"] if host["name"] == "n2"]
    sh(f"ip link set hpc0 netns {init}")
    try:
        assert verdicts(cleanup(cluster, "n2")) == {job: ("live", "kept")}
        cluster.root("ctl", "scontrol", "update", "nodename=n2", "state=down", "reason=test")
        cluster.finished(job, 300)
        kill_steps(cluster, "n2", job)
        assert verdicts(cleanup(cluster, "n2")) == {job: ("dead", "removed")}
        cluster.assert_pristine(("n2",))
    finally:
        bring_back(cluster, "n2")
