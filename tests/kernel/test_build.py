# SPDX-License-Identifier: Apache-2.0
"""Prolog on every node of a job: each reaches each other, by static entries alone, and Epilog leaves nothing."""

from __future__ import annotations

from itertools import product

import pytest

from hpcnet.model import Endpoint
from tests.kernel.hosts import Host, built, job_environment, lease_of, plan_of, removed, require_root

require_root()
pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(("size", "endpoints"), list(product((1, 2, 3), (0, 4))))
def test_the_nodes_of_a_job_reach_each_other_and_nothing_is_left(
    hosts: list[Host], pristine: list[dict[str, str]], size: int, endpoints: int
) -> None:
    lease = lease_of(endpoints=endpoints)
    environment = job_environment(lease, f"n[1-{size}]" if size > 1 else "n1")
    built(hosts[:size], environment)
    for host in hosts[:size]:
        for other in hosts[:size]:
            tasks = plan_of(lease, size, other.name).tasks
            for address in (tasks.ipv4, tasks.ipv6):
                host.in_job(17, "ping", "-c1", "-W1", "-q", str(address))
    removed(hosts[:size], environment)
    assert [host.state() for host in hosts] == pristine


@pytest.mark.parametrize("endpoints", [0, 4])
def test_every_endpoint_of_every_peer_has_static_entries(hosts: list[Host], endpoints: int) -> None:
    lease = lease_of(endpoints=endpoints)
    built(hosts[1:2], job_environment(lease, "n[1-3]"))
    peers = plan_of(lease, 3, "n2").peers
    assert len(peers) == 2 * (1 + endpoints)
    assert hosts[1].lines("bridge fdb show dev hpcvx", 17) == {
        f"{peer.mac} dst {peer.underlay} link-netnsid 0 self permanent" for peer in peers
    }
    assert hosts[1].lines("ip neigh show", 17) == {
        f"{address} dev hpc0 lladdr {peer.mac} PERMANENT" for peer in peers for address in (peer.ipv4, peer.ipv6)
    }


def container(host: Host, endpoint: Endpoint, peers: list[Endpoint]) -> None:
    """A container as a network driver would make it: a child of the job's VXLAN device, with static neighbours."""
    name = f"c{endpoint.slot}"
    host.run("ip", "netns", "add", name)
    child = ("address", endpoint.mac, "netns", name, "type", "macvlan", "mode", "bridge")
    host.run("ip", "-n", "hpcnet-17", "link", "add", "link", "hpcvx", "name", "eth0", *child)
    host.run("ip", "-n", name, "addr", "add", f"{endpoint.ipv4}/26", "dev", "eth0")
    host.run("ip", "-n", name, "link", "set", "eth0", "up")
    for peer in peers:
        host.run("ip", "-n", name, "neigh", "add", str(peer.ipv4), "lladdr", peer.mac, "dev", "eth0")


def test_a_containers_slot_is_reached_from_another_node_and_its_interface_goes_with_the_job(
    hosts: list[Host],
) -> None:
    lease = lease_of(endpoints=4)
    environment = job_environment(lease, "n[1-2]")
    built(hosts[:2], environment)
    plan = plan_of(lease, 2, "n2")
    slot = plan.own[3]
    container(hosts[1], slot, [plan.peers[0]])
    for host in hosts[:2]:
        host.in_job(17, "ping", "-c1", "-W1", "-q", str(slot.ipv4))
    removed(hosts[:2], environment)
    assert "eth0" not in hosts[1].run("ip", "-n", "c3", "link").stdout
    hosts[1].run("ip", "netns", "del", "c3")
