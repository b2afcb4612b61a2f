# SPDX-License-Identifier: Apache-2.0
"""A job of 2,000 nodes on one of them: it is built whole and leaves nothing. The times are for the reader (-s)."""

from __future__ import annotations

import time
from ipaddress import IPv4Network

import pytest

from tests.kernel.hosts import Host, built, job_environment, lease_of, removed, require_root

require_root()
pytestmark = pytest.mark.kernel

NODES = 2000


def test_a_job_of_two_thousand_nodes(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    (host,) = hosts[:1]
    host.configure('[fabric]\npeers = "number"\npeers_base = "172.31.0.0"')
    lease = lease_of(ipv4=IPv4Network("10.128.0.0/21"))
    environment = job_environment(lease, f"n[1-{NODES}]")
    started = time.monotonic()
    built([host], environment)
    building = time.monotonic() - started
    assert len(host.lines("bridge fdb show dev hpcvx", 17)) == NODES - 1
    assert len(host.lines("ip -4 neigh", 17)) == len(host.lines("ip -6 neigh", 17)) == NODES - 1
    assert host.run("nft", "list", "set", "inet", "hpcnet", "vtep").stdout.count(" . ") == NODES
    started = time.monotonic()
    removed([host], environment)
    removing = time.monotonic() - started
    assert host.state() == pristine[0]
    print(f"\n{NODES} nodes: built in {building * 1000:.0f} ms, removed in {removing * 1000:.0f} ms")
