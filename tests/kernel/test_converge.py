# SPDX-License-Identifier: Apache-2.0
"""Prolog again: what is there stays, with its traffic; what is missing comes back; several at once are safe."""

from __future__ import annotations

import re

import pytest

from tests.kernel.hosts import (
    Host,
    built,
    ended,
    job_environment,
    lease_of,
    plan_of,
    removed,
    require_root,
    wait_for,
)

require_root()
pytestmark = pytest.mark.kernel

ECHO = "import socket; s = socket.create_server(('', 5000)).accept()[0]\nwhile data := s.recv(99): s.sendall(data)"
TALK = """
import socket, sys
s = socket.create_connection(("10.128.0.2", 5000), timeout=5)
for line in sys.stdin:
    s.sendall(line.encode())
    print(s.recv(99).decode(), end="", flush=True)
"""


def inside(host: Host) -> dict[str, set[str]]:
    """Everything of the job's network that Prolog makes."""
    return {
        what: host.lines(what, 17)
        for what in (
            "ip -d link",
            "ip addr",
            "ip route; ip -6 route",
            "ip neigh",
            "bridge fdb",
            "sysctl -a -r '^net'",
        )
    }


def test_prolog_again_changes_nothing(hosts: list[Host]) -> None:
    environment = job_environment(lease_of(endpoints=4), "n[1-3]")
    built(hosts, environment)
    before = [(host.state(), inside(host)) for host in hosts]
    built(hosts, environment)
    assert [(host.state(), inside(host)) for host in hosts] == before


def test_prolog_again_keeps_a_running_connection_and_its_process(hosts: list[Host]) -> None:
    environment = job_environment(lease_of(), "n[1-2]")
    built(hosts[:2], environment)
    server = hosts[1].start_in_job(17, "python3", "-c", ECHO)
    wait_for(lambda: hosts[1].lines("ss -Hltn sport = :5000", 17), "nothing listens")
    client = hosts[0].start_in_job(17, "python3", "-c", TALK)
    assert client.stdin and client.stdout

    def said(word: str) -> str:
        assert client.stdin and client.stdout
        client.stdin.write(word + "\n")
        client.stdin.flush()
        return client.stdout.readline().strip()

    assert said("before") == "before"
    built(hosts[:2], environment)
    assert said("after") == "after"
    assert ended(client) == (0, "")
    assert ended(server) == (0, "")


MISSING = {
    "IPv4 address": "ip -n hpcnet-17 addr del 10.128.0.1/26 dev hpc0",
    "IPv6 address": "ip -n hpcnet-17 addr del fd68:7063:6e65::1/64 dev hpc0",
    "link-local address": "ip -n hpcnet-17 addr del fe80::a80:1/64 dev hpc0",
    "IPv4 neighbour": "ip -n hpcnet-17 neigh del 10.128.0.2 dev hpc0",
    "IPv6 neighbour": "ip -n hpcnet-17 neigh del fd68:7063:6e65::2 dev hpc0",
    "forwarding entry": "bridge -n hpcnet-17 fdb del 02:42:0a:80:00:02 dev hpcvx dst 172.31.0.2",
    "forwarding entry elsewhere": "bridge -n hpcnet-17 fdb replace 02:42:0a:80:00:02 dev hpcvx dst 172.31.0.9",
    "tasks' link down": "ip -n hpcnet-17 link set hpc0 down",
    "VXLAN link down": "ip -n hpcnet-17 link set hpcvx down",
    "loopback down": "ip -n hpcnet-17 link set lo down",
    "tasks' device": "ip -n hpcnet-17 link del hpc0",
    "VXLAN device": "ip -n hpcnet-17 link del hpcvx",
    "ifalias": "ip -n hpcnet-17 link set hpc0 alias ''",
    "identity": "ip -n hpcnet-17 link set hpcvx alias ''",
    "filter element": "nft delete element inet hpcnet vtep '{ 6815744 . 172.31.0.2 }'",
    "filter table": "nft delete table inet hpcnet",
    "namespace": "ip -n hpcnet-17 link del hpcvx; ip netns del hpcnet-17",
    "hosts file": "rm /run/hpcnet/jobs/17/hosts",
    "directory": "rm -r /run/hpcnet/jobs/17",
}


@pytest.mark.parametrize("what", MISSING)
def test_prolog_again_repairs(hosts: list[Host], what: str) -> None:
    environment = job_environment(lease_of(), "n[1-3]")
    built(hosts[:1], environment)
    before = hosts[0].state(), {key: numberless(lines) for key, lines in inside(hosts[0]).items()}
    hosts[0].run("sh", "-c", MISSING[what])
    built(hosts[:1], environment)
    after = hosts[0].state(), {key: numberless(lines) for key, lines in inside(hosts[0]).items()}
    assert after == before


def numberless(lines: set[str]) -> set[str]:
    """Lines without interface indexes and random MACs: a device that was made again has new ones."""
    named = {re.sub(r"@\S+|(?<=vxlan id )(.*) dev \S+|\b[0-9]+\b", r"\1", line) for line in lines}
    return {line for line in named if not line.startswith("link/ether") or "02:42" in line}


def test_two_prologs_of_one_job_at_once_build_one_network(hosts: list[Host]) -> None:
    environment = job_environment(lease_of(), "n[1-2]")
    built(hosts[1:2], environment)
    both = [hosts[0].start_hook("prolog", environment) for _ in range(2)]
    assert [ended(process)[0] for process in both] == [0, 0]
    hosts[0].in_job(17, "ping", "-c1", "-W1", "-q", "10.128.0.2")
    assert hosts[0].hpcnet("check").returncode == 0


def test_prologs_and_epilogs_of_eight_jobs_at_once_on_a_new_host(hosts: list[Host]) -> None:
    host, jobs = hosts[0], range(21, 29)
    host.run("umount", "--lazy", "/run/netns")
    host.run("nft", "delete", "table", "inet", "hpcnet")
    environments = [job_environment(lease_of(job), "n[1-3]", job) for job in jobs]
    prologs = [host.start_hook("prolog", environment) for environment in environments]
    assert [ended(process)[0] for process in prologs] == [0] * 8
    assert host.jobs() == list(jobs)
    admitted = host.run("nft", "list", "set", "inet", "hpcnet", "vtep").stdout
    for job in jobs:
        assert len(host.lines("ip neigh", job)) == 4
        assert len(host.lines("bridge fdb show dev hpcvx", job)) == 2
        assert admitted.count(f"{lease_of(job).vni:#x} . 172.31.0.") == 2
    epilogs = [host.start_hook("epilog", environment) for environment in environments]
    assert [ended(process)[0] for process in epilogs] == [0] * 8
    assert host.jobs() == []
    assert host.hpcnet("filter", "load").stderr == ""


def test_a_job_goes_while_another_one_comes(hosts: list[Host]) -> None:
    stays, goes, comes = (job_environment(lease_of(job), "n[1-2]", job) for job in (31, 32, 33))
    built(hosts[:2], stays)
    built(hosts[:2], goes)
    running = [hosts[0].start_hook("epilog", goes), hosts[0].start_hook("prolog", comes)]
    assert [ended(process)[0] for process in running] == [0, 0]
    assert hosts[0].jobs() == [31, 33]
    hosts[0].in_job(31, "ping", "-c1", "-W1", "-q", str(plan_of(lease_of(31), 2, "n2").tasks.ipv4))
    removed(hosts[:1], comes)
