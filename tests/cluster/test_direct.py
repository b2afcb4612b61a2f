# SPDX-License-Identifier: Apache-2.0
"""``mode=direct`` on the lab's Ethernet fabric: interfaces on the uplink itself, shared and said to be so."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import NODES, Cluster
from tests.cluster.test_job import _IPERF, names

pytestmark = pytest.mark.cluster


@pytest.fixture
def direct(cluster: Cluster) -> Iterator[Cluster]:
    """The lab as a site that offers both modes and allows shared networks."""
    cluster.lab.configure(hpcnet={"offer": {"modes": ["vxlan", "direct"]}, "direct": {"allow_shared": True}})
    yield cluster
    cluster.settle()
    cluster.lab.configure()


def test_where_it_is_not_offered_it_is_refused_at_submit(cluster: Cluster) -> None:
    refused = cluster.run("sbatch", "--network=ib,mode=direct", "-N1", "--wrap=true", check=False)
    assert refused.returncode != 0
    assert "mode=direct is not offered here; offered: vxlan" in refused.stderr


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_iperf3_between_three_nodes_by_name(direct: Cluster, family: str) -> None:
    bind = "$HPCNET_ADDRESS" if family == "-4" else "$HPCNET_ADDRESS6"
    job = direct.sbatch(_IPERF.format(family=family, bind=bind), "--network=ib,mode=direct", "-N3")
    assert direct.finished(job) == "COMPLETED", direct.output(job)
    report = json.loads(direct.output(job))
    remote = report["start"]["connected"][0]["remote_host"]
    assert remote.startswith("10.192." if family == "-4" else "fd68:7063:6e66:")
    assert report["end"]["sum_received"]["bytes"] > 1_000_000


def test_a_task_sees_one_interface_with_the_uplinks_mtu(direct: Cluster) -> None:
    show = "ip -o link; echo $HPCNET_MODE $HPCNET_MTU; cat /sys/class/net/hpc0/mtu; getent ahostsv4 n1 n2 n3"
    lines = direct.srun("-N3", "-l", "--network=ib,mode=direct,egress=none", "sh", "-c", show)
    first = [line.partition(": ")[2] for line in lines if line.startswith("0: ")]
    assert sorted(names(first[:2])) == ["hpc0", "lo"]
    assert first[2] == "direct 65520"
    assert {line.split()[0].rpartition(".")[0] for line in first[4:]} == {"10.192.0"}


def test_show_list_and_plan_say_that_it_is_shared(direct: Cluster) -> None:
    words = ["hpcnet", "plan", "--network", "ib,mode=direct", "--nodes", "n[1-3]", "--node", "n2"]
    planned = direct.root("ctl", *words)
    job = direct.hold("--network=ib,mode=direct,egress=none", "-N3")
    shown = direct.run("hpcnet", "show", str(job)).stdout
    own = "network   direct, the uplink's own network, shared with other jobs, 10.192."
    assert own in planned and own in shown
    [line] = [line for line in direct.run("hpcnet", "list").stdout.splitlines() if line.startswith(str(job))]
    assert line.split()[3:5] == ["direct", "-"]
    assert direct.lease(job)["shared"] is True
    for node in NODES:
        assert direct.root(node, "hpcnet", "check").strip() == f"job {job}: ok"
        assert names(direct.root(node, "ip", "-o", "link").splitlines()) == ["lo", "eth0", "ib0"]


def test_both_modes_beside_each_other_and_two_direct_jobs(direct: Cluster) -> None:
    wanted = ("ib,mode=direct", "ib,mode=vxlan", "ib,mode=direct")
    jobs = [
        direct.hold(f"--network={network}", "-N3", user=user)
        for network, user in zip(wanted, ("alice", "bob", "bob"))
    ]
    leases = [direct.lease(job) for job in jobs]
    assert [lease["mode"] for lease in leases] == ["direct", "vxlan", "direct"]
    assert len({lease["ipv4"] for lease in leases}) == len({lease["ipv6"] for lease in leases}) == 3
    assert direct.root("n1", "hpcnet", "check").splitlines() == [f"job {job}: ok" for job in jobs]
    ping = "for n in n1 n2 n3; do ping -c1 -W2 -q $n || exit 1; done"
    for job, user in zip(jobs, ("alice", "bob", "bob")):
        direct.run("srun", "--jobid", str(job), "--overlap", "-N1", "sh", "-c", ping, user=user)


def test_what_the_fabric_has_not_is_said_to_the_user(direct: Cluster) -> None:
    """The controller does not know what the nodes' uplinks are; the first node that does refuses."""
    done = direct.run("srun", "-N1", "--network=ib,mode=direct,ipoib=connected", "true", check=False)
    assert done.returncode != 0
    assert "ipoib=connected needs InfiniBand, but uplink ib0 on n1 is Ethernet" in done.stderr
    assert set(direct.node_states().values()) <= {"idle", "completing"}
