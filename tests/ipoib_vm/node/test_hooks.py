# SPDX-License-Identifier: Apache-2.0
"""Prolog and Epilog of mode=direct on the VM itself, whose ib5 is the uplink: what is built, what is refused.

The VM's own network namespace is the node's here, so a child whose namespace dies comes back where hpcnet looks.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from hpcnet.model import Lease, Request
from tests.ipoib_vm.adapter import Adapter, duplicates, parameter, sh, wait_for_carrier
from tests.kernel.hosts import Host, built, job_environment, removed, wait_for
from tests.kernel.test_direct import direct_lease
from tests.kernel.test_reap import Slurmctld, cleanup

pytestmark = pytest.mark.ipoib_vm

UPLINK = Adapter(5)
SITE = """
[fabric]
uplink = "{uplink}"
[offer]
modes = ["vxlan", "direct"]
pkeys = ["0x8001", "0x8002"]
[direct]
allow_shared = true
"""
_SETUP = """
mount --make-rprivate /; mount -t tmpfs tmpfs /run; mkdir -p /run/netns /etc/hpcnet
echo '172.31.0.1 n1-ib' >>/etc/hosts; ip netns add first; ip netns del first
echo ready; exec sleep infinity
"""

_MAKE_MACVLAN = """
from dataclasses import replace
from hpcnet.errors import NodeError
from hpcnet.kernel import child
from tests.kernel.hosts import plan_of
from tests.kernel.test_direct import direct_lease
try:
    child.make_device(replace(plan_of(direct_lease(), 1), uplink="ib5"))
except NodeError as error:
    print(error)
"""


class Machine(Host):
    """n1: files of its own, and the VM's own network."""

    def __init__(self) -> None:
        self.name, self.used, self._namespaces = "n1", False, ["--mount"]
        self.seen: dict[str, str] = {}  # its state after the last test
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", _SETUP], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.pid = self._holder.pid

    def configure(self, text: str = "", deadline: int = 240) -> None:
        """As of any host, with time for an emulated processor."""
        super().configure(text, deadline)

    def prolog(self, lease: Lease, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run Prolog of job 17."""
        return self.hook("prolog", job_environment(lease, "n1", **more))


@contextmanager
def booted(site: str) -> Iterator[Machine]:
    """The machine with ib5 up as its uplink, and this hpcnet.toml."""
    made = Machine()
    # No link-local address, which would come a moment later than the tests compare what the node has.
    sh("ip link set ib5 addrgenmode none; ip addr add 172.31.0.1/16 dev ib5; ip link set ib5 up")
    wait_for_carrier("ib5")
    made.configure(site)
    assert made.hpcnet("filter", "load").returncode == 0
    yield made
    made.close()
    sh("nft flush ruleset; ip addr flush dev ib5; ip link set ib5 down addrgenmode eui64")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with booted(SITE.format(uplink="ib5")) as made:
        yield made


@pytest.fixture
def node(machine: Machine) -> Iterator[Machine]:
    """The node; after the test an Epilog must leave it exactly as it was."""
    before = machine.seen or machine.state()
    yield machine
    for job in machine.jobs():
        removed([machine], {"SLURM_JOB_ID": str(job), "SLURM_JOB_UID": "0"})
    machine.seen = machine.state()
    assert machine.seen == before


def lease_of(index: int = 0, **changes: Any) -> Lease:
    """A lease of mode=direct in partition 0x8001."""
    return direct_lease(index, **{"pkey": "0x8001", **changes})


def refusal(node: Machine, lease: Lease, **more: Any) -> str:
    """The one line with which Prolog refuses the job; no node drains for it."""
    done = node.prolog(lease, **more)
    assert done.returncode == 0, done.stderr
    assert "refused: " in done.stderr
    assert "hpcnet-17" not in node.run("ip", "netns").stdout
    return done.stderr


def complaint(node: Machine, lease: Lease) -> str:
    """The one line with which Prolog says what is wrong with the node, which drains."""
    done = node.prolog(lease)
    assert done.returncode == 1, done.stderr
    assert node.jobs() == []
    return done.stderr


@contextmanager
def uplink(node: Machine, name: str) -> Iterator[None]:
    """Another interface as the uplink, with the node's address on it."""
    sh(f"ip addr flush dev ib5; ip addr add 172.31.0.1/16 dev {name}; ip link set {name} up")
    wait_for_carrier(name)
    node.configure(SITE.format(uplink=name))
    try:
        yield
    finally:
        node.configure(SITE.format(uplink="ib5"))
        sh(f"ip addr flush dev {name}; ip addr add 172.31.0.1/16 dev ib5")


def test_what_is_built(node: Machine) -> None:
    environment = job_environment(lease_of(), "n[1-1]")
    built([node], environment)
    inside = " ".join(node.lines("ip -d -o link show hpc0", 17))
    for words in ("ipoib pkey 0x8001 mode datagram", " mtu 4092 ", "addrgenmode none", "LOWER_UP"):
        assert words in inside
    assert len(node.lines("ip -o link", 17)) == 2  # lo and hpc0
    addresses = " ".join(node.lines("ip -o addr show hpc0", 17))
    assert "10.192.0.1/26" in addresses and "fd68:7063:6e66::1/64" in addresses and "tentative" not in addresses
    assert "hpc0" not in node.run("ip", "-o", "link").stdout
    assert node.hpcnet("check").stdout.splitlines() == ["job 17: ok"]
    removed([node], environment)
    removed([node], environment)


def test_without_pkey_it_is_the_uplinks(node: Machine) -> None:
    built([node], job_environment(lease_of(pkey="none", mtu=2000), "n1"))
    inside = " ".join(node.lines("ip -d -o link show hpc0", 17))
    assert "ipoib pkey 0xffff mode datagram" in inside and " mtu 2000 " in inside


def test_two_jobs_of_one_partition_have_addresses_of_their_own(node: Machine) -> None:
    jobs, before = {17: lease_of(), 18: lease_of(1)}, duplicates()
    for job, lease in jobs.items():
        built([node], job_environment(lease, "n1", job))
    found = {job: node.in_job(job, "ip", "-o", "-6", "addr", "show", "hpc0").stdout for job in jobs}
    local = {job: next(word for word in text.split() if word.startswith("fe80")) for job, text in found.items()}
    assert local[17] != local[18]
    assert "dadfailed" not in "".join(found.values()) and "tentative" not in "".join(found.values())
    for target in (jobs[18].ipv4[1], jobs[18].ipv6[1]):
        node.in_job(17, "ping", "-c1", "-W5", "-q", "-I", "hpc0", str(target), check=False)
    node.in_job(17, "ping", "-c1", "-W5", "-q", f"{local[18].partition('/')[0]}%hpc0")
    assert duplicates() == before


def test_children_of_killed_namespaces_come_back_and_each_epilog_finds_its_own(node: Machine) -> None:
    """One keeps its name, which the other cannot have."""
    environments = {job: job_environment(lease_of(job - 17), "n1", job) for job in (17, 18)}
    for environment in environments.values():
        built([node], environment)
    for job in environments:
        node.run("ip", "netns", "del", f"hpcnet-{job}")
    wait_for(lambda: sh("ip -o link").count("@ib5: ") == 2, "this kernel does not give the children back", 60)
    for left, environment in zip((1, 0), environments.values()):
        removed([node], environment)
        assert sh("ip -o link").count("@ib5: ") == left


def test_a_child_that_came_back_is_not_in_the_next_jobs_way(node: Machine) -> None:
    built([node], job_environment(lease_of(), "n1"))
    node.run("ip", "netns", "del", "hpcnet-17")
    wait_for(lambda: "hpc0" in sh("ip -o link"), "this kernel does not give the child back", 60)
    built([node], job_environment(lease_of(1), "n1", 18))
    assert node.hpcnet("check", "18").stdout.splitlines() == ["job 18: ok"]


def test_cleanup_finds_children_that_came_back_by_themselves(node: Machine) -> None:
    """Of dead jobs, one of which has lost its journal too; that of a live job stays."""
    slurmctld = Slurmctld(node)
    try:
        for job in (17, 18, 19):
            built([node], job_environment(lease_of(job - 17), "n1", job))
        for job in (17, 18, 19):
            node.run("ip", "netns", "del", f"hpcnet-{job}")
        wait_for(lambda: sh("ip -o link").count("@ib5: ") == 3, "this kernel does not give the children back", 60)
        node.run("rm", "-r", "/run/hpcnet/jobs/18")
        slurmctld.has("19 RUNNING n1")
        for options, code, done in ((("--dry-run",), 1, "found"), ((), 0, "removed")):
            report = cleanup(node, *options, code=code)
            found = {network["job_id"]: (network["kind"], network["done"]) for network in report["networks"]}
            assert found == {17: ("dead", done), 18: ("dead", done), 19: ("live", "kept")}
        assert sh("ip -o link").count("@ib5: ") == 1
        slurmctld.has()
        cleanup(node)
        assert sh("ip -o link").count("@ib5: ") == 0
    finally:
        slurmctld.close()


def test_containers_have_children_of_their_own(node: Machine) -> None:
    """Attached by hand, as by the Docker driver: an IPoIB child each, which goes with the job."""
    lease = lease_of(endpoints=2)
    environment = job_environment(lease, "n1")
    built([node], environment)
    for name in ("c1", "c2"):
        node.run("ip", "netns", "add", name)
        done = node.hpcnet("attach", "17", f"/run/netns/{name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("hpc0 10.192.0.") and f"known as n1-{name[1]}, MTU 4092" in done.stdout
        shown = node.run("ip", "-n", name, "-d", "-o", "link", "show", "hpc0").stdout
        assert "ipoib pkey 0x8001 mode datagram" in shown and " mtu 4092 " in shown
    second = node.run("ip", "-n", "c2", "-o", "-4", "addr", "show", "hpc0").stdout.split()[3].partition("/")[0]
    for target in (second, str(lease.ipv4[1]), str(lease.ipv6[1])):
        node.run("ip", "netns", "exec", "c1", "ping", "-c1", "-W10", "-q", target)
    assert "hpc0" not in sh("ip -o link")
    node.run("ip", "netns", "del", "c2")
    wait_for(lambda: "hpc0" in sh("ip -o link"), "this kernel does not give the child back", 60)
    removed([node], environment)
    assert "hpc0" not in sh("ip -o link") + node.run("ip", "-n", "c1", "-o", "link").stdout
    node.run("ip", "netns", "del", "c1")


def test_connected_mode(node: Machine) -> None:
    built([node], job_environment(lease_of(ipoib="connected"), "n1"))
    inside = " ".join(node.lines("ip -d -o link show hpc0", 17))
    assert "ipoib pkey 0x8001 mode connected" in inside and " mtu 65520 " in inside


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("0xffff 0x8002", "port softib5/1 of uplink ib5 on n1 is not in partition 0x8001; make it a full member"),
        ("0xffff 0x0001", "port softib5/1 of uplink ib5 on n1 is a limited member of partition 0x8001"),
    ],
    ids=["not in the table", "limited member"],
)
def test_a_pkey_that_the_port_has_not(node: Machine, table: str, says: str) -> None:
    with UPLINK.with_control("pkeys", table):
        assert says in refusal(node, lease_of())


def test_a_pkey_that_the_site_has_not(node: Machine) -> None:
    assert "pkey 0x8003 of its lease is not in [offer] pkeys" in refusal(node, lease_of(pkey="0x8003"))


@pytest.mark.parametrize("state", ["down", "init"])
def test_a_port_that_is_down(node: Machine, state: str) -> None:
    with ExitStack() as stack:
        stack.callback(wait_for_carrier, "ib5")
        stack.enter_context(UPLINK.with_control("port", state))
        wait_for_carrier("ib5", there=False)
        says = f"port softib5/1 of uplink ib5 on n1 is {state.upper()}, not ACTIVE; check its cable and the subnet"
        assert says in complaint(node, lease_of())


def test_no_carrier_though_the_port_is_active(node: Machine) -> None:
    with ExitStack() as stack:
        stack.callback(wait_for_carrier, "ib5")
        stack.enter_context(UPLINK.with_control("sm", "off"))
        sh("ip link set ib5 down; ip link set ib5 up")
        says = "uplink ib5 has no carrier on n1 though port softib5/1 is ACTIVE: it could not join its partition's"
        assert says in complaint(node, lease_of())


def test_a_macvlan_child(node: Machine) -> None:
    """Only a plan for Ethernet has one; here the uplink is none, which the kernel says in two words."""
    node.run("ip", "netns", "add", "hpcnet-17")
    try:
        says = "a macvlan child of ib5: Invalid argument; an IPoIB interface can have none\n"
        assert node.python(_MAKE_MACVLAN) == f"the kernel of n1 refused {says}"
    finally:
        node.run("ip", "netns", "del", "hpcnet-17")


def test_an_uplink_that_is_down(node: Machine) -> None:
    sh("ip link set ib5 down")
    try:
        assert "uplink ib5 is down on n1; bring it up (ip link set ib5 up)" in complaint(node, lease_of())
    finally:
        sh("ip link set ib5 up")
        wait_for_carrier("ib5")


def test_a_subnet_manager_that_does_not_let_it_join(node: Machine) -> None:
    with UPLINK.with_control("sm", "off"):
        says = refusal(node, lease_of())
    assert "n1 could not join partition 0x8001 within 10 s; see whether the subnet manager makes" in says


@pytest.mark.parametrize(
    "make", ["ip link add link ib5 name {} type ipoib pkey 0x8002", "echo 0x8002 >/sys/class/net/ib5/create_child"]
)
def test_a_child_of_a_child(node: Machine, make: str) -> None:
    sh(make.format("ib5.8002"))
    try:
        with uplink(node, "ib5.8002"):
            assert (
                "uplink ib5.8002 on n1 is an IPoIB child itself and can have none; "
                "set [fabric] uplink to its parent ib5" in complaint(node, lease_of())
            )
    finally:
        sh("ip link del ib5.8002 2>/dev/null || echo 0x8002 >/sys/class/net/ib5/delete_child")


def test_an_mtu_that_the_uplink_has_not(node: Machine) -> None:
    says = refusal(node, lease_of(mtu=4093), request=Request(mtu=4093))
    assert "mtu=4093 is too large: uplink ib5 on n1 allows 4092; leave mtu out" in says


def test_an_mtu_that_the_partition_has_not(node: Machine) -> None:
    with parameter("group_mtu", "2048"):
        says = refusal(node, lease_of())
        assert "partition 0x8001 carries 2044 bytes on n1, not 4092: ask for mtu=2044" in says
        built([node], job_environment(lease_of(mtu=2044), "n1"))
    assert " mtu 2044 " in " ".join(node.lines("ip -o link show hpc0", 17))
