# SPDX-License-Identifier: Apache-2.0
"""Slurm jobs in the lab, whose hosts have IPoIB interfaces of their own: mode=direct, vxlan, both at once.

Starting jobs is what takes time here, so five of them run while the tests look at them.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from itertools import product
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, eventually
from tests.cluster.test_cleanup import bring_back, cleanup, kill_steps, verdicts
from tests.cluster.test_job import _IPERF, names
from tests.cluster.test_tui import tui
from tests.ipoib_vm.adapter import Adapter, duplicates, parameter, sh
from tests.ipoib_vm.lab.conftest import NODES
from tests.kernel.hosts import wait_for
from tests.tui.terminal import Terminal, terminal

__all__ = ["terminal"]  # a fixture

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

    def end(self, name: str, node: str) -> tuple[str, str]:
        """Link-local address and hardware address of the job's interface on a node."""
        shown = self.shown[name, node]
        hardware = re.search(r"link/(?:infiniband|ether) (\S+)", shown)
        local = re.search(r"inet6 (fe80:\S+)/", shown)
        assert hardware and local, shown
        return local[1], hardware[1]

    def introduce(self, names: Sequence[str]) -> None:
        """Tell the ends of jobs each other's hardware addresses, as root of all nodes could."""
        for node in NODES:
            told = []
            for name, other, place in product(names, names, NODES):
                address, hardware = self.end(other, place)
                entry = f"{address} lladdr {hardware} dev hpc0 nud permanent"
                told.append(f"ip -n hpcnet-{self.ids[name]} neigh replace {entry}" if other != name else ":")
            self.cluster.root(node, "sh", "-ec", "\n".join(told))

    def answers(self, name: str, others: Sequence[str]) -> list[tuple[str, str]]:
        """Those ends of other jobs, and of its own on n2, that answer n1's end of the job.

        Link-local addresses need no route, at neither end.
        """
        targets = {(other, node): self.end(other, node)[0] for other in others for node in NODES}
        targets[name, "n2"] = self.end(name, "n2")[0]
        ping = "(ping -c2 -i0.3 -W5 -q $t%hpc0 >/dev/null && echo $t) &"
        answered = self.inside(name, "n1", f"for t in {' '.join(targets.values())}; do {ping} done; wait").split()
        return [end for end, address in targets.items() if address in answered]


def adapter_of(cluster: Cluster, host: str) -> Adapter:
    """The adapter that a host of the lab was lent."""
    shown = cluster.root(host, "sh", "-c", "ls /sys/class/net/ib0/device/infiniband").strip()
    return Adapter(int(shown.replace("softib", "")))


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
    """Though all know the others' hardware addresses. Were it not for the partitions, all would answer."""
    jobs.introduce([name for name in WANTED if name != "vxlan"])
    for name, others in {ALICES: [BOBS, SHARED, "vxlan"], SHARED: [ALICES, "vxlan"]}.items():
        assert jobs.answers(name, others) == [(name, "n2")]
    with parameter("partitions", "N"):
        for name, others in {ALICES: [BOBS, SHARED], SHARED: [ALICES]}.items():
            assert jobs.answers(name, others) == [*product(others, NODES), (name, "n2")]


def test_jobs_of_one_shared_partition_do(jobs: Jobs) -> None:
    """Such a network is said to be shared."""
    neighbours = ["bob's 0x8001"]
    assert jobs.answers(SHARED, neighbours) == [*product(neighbours, NODES), (SHARED, "n2")]
    assert jobs.leases[SHARED]["shared"] and not jobs.leases[ALICES]["shared"]


def test_stats_and_doctor_show_the_port_of_each_node(jobs: Jobs) -> None:
    """And no other node's; in tasks with both views of /sys. It counts."""

    def ports(name: str) -> dict[str, tuple[str, int]]:
        words = ("hpcnet", "stats", str(jobs.ids[name]), "--once", "--json")
        [job] = json.loads(jobs.cluster.run(*words, user=WANTED[name][0]).stdout)["jobs"]
        found = {}
        for sample in job["nodes"]:
            [port] = [each for each in sample["interfaces"] if each["kind"] == "port"]
            found[sample["node"]] = (port["device"], port["counters"]["tx_bytes"])
        return found

    own = {node: f"{adapter_of(jobs.cluster, node).sysfs.name}/1" for node in NODES}
    before = ports(ALICES)
    jobs.inside("vxlan", "n1", f"ping -c3 -i0.3 -W10 -q -s1500 {jobs.address('vxlan', 1)}")
    after = ports("vxlan")
    for found in (before, after):
        assert {node: device for node, (device, _) in found.items()} == own
    assert all(4500 < after[node][1] - before[node][1] < 1_000_000 for node in NODES), (before, after)
    report = jobs.cluster.lab.run("n1", ["hpcnet", "doctor", "--json"], check=False, timeout=300).stdout
    assert f"port {own['n1']} 100 Gb/sec (4X EDR)" in report


def test_the_screens_of_the_tui_show_the_port_apart(jobs: Jobs, terminal: Terminal) -> None:
    """As a user would come there: the job, its node, the node's port."""
    device = f"{adapter_of(jobs.cluster, 'n1').sysfs.name}/1"
    tui(jobs.cluster, terminal, "--interval", "5", user=WANTED["vxlan"][0])
    job = str(jobs.ids["vxlan"])
    terminal.wait_for(lambda text: job in text, "the job", seconds=300)
    terminal.press("/", *job)
    terminal.wait(f"/{job}", seconds=120)
    terminal.press("Enter")
    terminal.wait("/ filter", seconds=120)  # where the cursor is in the table again
    terminal.press("Enter")
    terminal.wait("n1", "n2", "median", seconds=120)
    terminal.press("Enter")
    text = terminal.wait("node n1", "hpcvx", "hpc0", device, seconds=120)
    [row] = [line.split() for line in text.splitlines() if device in line.split()]
    assert "port" in row and row[-1] != "0", text
    terminal.press("q")
    terminal.wait("exit code 0", seconds=120)


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


@pytest.mark.parametrize(("name", "pool"), [(SHARED, "fd68:7063:6e66::/48"), ("vxlan", "fd68:7063:6e65::/48")])
def test_iperf3_between_tasks(jobs: Jobs, name: str, pool: str) -> None:
    script = _IPERF.format(family="-6", bind="$HPCNET_ADDRESS6")
    step = (f"SLURM_JOB_ID={jobs.ids[name]}", "SLURM_OVERLAP=1", "SLURM_NNODES=2", "SLURM_NTASKS=2")
    report = json.loads(jobs.cluster.run("env", *step, "bash", "-c", script, user=WANTED[name][0]).stdout)
    remote = IPv6Network(report["start"]["connected"][0]["remote_host"])
    assert remote.subnet_of(IPv6Network(pool))
    assert report["end"]["sum_received"]["bytes"] > 1_000_000


def test_a_pkey_that_the_site_does_not_offer_is_refused_at_submit(cluster: Cluster) -> None:
    refused = cluster.run("sbatch", "--network=ib,mode=direct,pkey=0x8003", "-N1", "--wrap=true", check=False)
    assert refused.returncode != 0
    assert "0x8003" in refused.stderr and "0x8001" in refused.stderr


def test_a_pool_without_pkeys_refuses_the_job_and_no_node_drains(jobs: Jobs) -> None:
    """By the controller: two jobs have both of them."""
    done = jobs.cluster.run("srun", "-N1", "--network=ib,mode=direct,pkey=auto", "true", check=False)
    assert done.returncode != 0
    assert "gets no network, so it does not start" in done.stderr
    assert not [state for state in jobs.cluster.node_states().values() if "drain" in state]


def test_epilog_leaves_the_nodes_as_they_were(jobs: Jobs) -> None:
    jobs.cluster.settle(seconds=300)
    jobs.cluster.assert_pristine()


def test_a_pkey_that_a_nodes_port_has_lost_refuses_the_job_and_no_node_drains(cluster: Cluster) -> None:
    """It may be the site's list that is wrong, as far as a node can tell."""
    adapter = adapter_of(cluster, "n1")
    with adapter.with_control("pkeys", "0xffff 0x8002"):
        done = cluster.run("srun", "-w", "n1", "--network=ib,mode=direct,pkey=0x8001", "true", check=False)
    says = f"port {adapter.sysfs.name}/1 of uplink ib0 on n1 is not in partition 0x8001"
    assert done.returncode != 0
    assert says in done.stderr and says in cluster.log("n1")
    cluster.settle(seconds=300)  # all nodes idle


def test_a_port_that_is_down_drains_its_node_until_it_is_resumed(cluster: Cluster) -> None:
    adapter = adapter_of(cluster, "n1")
    wanted = ("-w", "n1", "--network=ib,mode=direct,pkey=0x8001")
    with adapter.with_control("port", "down"):
        cluster.sbatch("true", *wanted)
        eventually("n1 drains", lambda: "drain" in cluster.node_states()["n1"], 120)
    assert f"port {adapter.sysfs.name}/1 of uplink ib0 on n1 is DOWN, not ACTIVE" in cluster.log("n1")
    cluster.settle(("n2",), seconds=300)
    cluster.root("ctl", "scontrol", "update", "nodename=n1", "state=resume")
    cluster.lab.await_idle(("n1",))
    assert "hpc0" in cluster.run("srun", *wanted, "ip", "-br", "link").stdout
    cluster.settle(seconds=300)
    cluster.assert_pristine()


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
