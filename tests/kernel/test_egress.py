# SPDX-License-Identifier: Apache-2.0
"""egress=host: out of a job's network through the node and nothing else; made again, checked, and gone.

Each host has a second interface, ``eth0``, on a network of its own with a server that knows no job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from hpcnet.model import Lease
from tests.kernel.hosts import (
    Host,
    SlowNft,
    built,
    ended,
    job_environment,
    lease_of,
    removed,
    require_root,
    wait_for,
)

require_root()
pytestmark = pytest.mark.kernel

SERVER, NODE = "198.51.100.9", "198.51.100.1"

# argv: address, port, bytes to send; prints what comes back
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as s:
    print(s.recv(99).decode(), s.getsockname()[0])
"""
TELL = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as s:
    print("ready", flush=True)
    while True:
        peer, address = s.accept()
        peer.sendall(address[0].encode())
        peer.close()
"""


def out(index: int = 0, **changes: object) -> Lease:
    """The lease with this number, with a way out."""
    return replace(lease_of(index), egress="host", **changes)  # type: ignore[arg-type]


def environment(index: int = 0, job_id: int = 17) -> dict[str, str]:
    return job_environment(out(index), "n1", job_id)


@pytest.fixture
def server(hosts: list[Host]) -> Iterator[Host]:
    """A machine behind n1's eth0, without a route to anything but that network; it tells who asks."""
    made = Host("server")
    peer = ("peer", "name", "eth0", "netns", str(hosts[0].pid))
    made.run("ip", "link", "add", "eth0", "type", "veth", *peer)
    for host, address in ((made, SERVER), (hosts[0], NODE)):
        host.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
    listening = made.start("python3", "-c", TELL, SERVER, "80")
    assert listening.stdout and listening.stdout.readline() == "ready\n"
    yield made
    listening.kill()
    ended(listening)
    hosts[0].run("ip", "link", "del", "eth0", check=False)
    made.close()


def ask(host: Host, address: str, port: int = 80, job_id: int = 17) -> str:
    """What a server says to a task of the job; empty when it cannot be reached."""
    return host.in_job(job_id, "python3", "-c", ASK, address, str(port), check=False).stdout.strip()


def forwarding(host: Host) -> set[str]:
    """The host's interfaces that forward."""
    found = host.run("sh", "-c", "grep -l 1 /proc/sys/net/ipv4/conf/*/forwarding || true").stdout.split()
    return {path.split("/")[-2] for path in found}


def test_a_task_reaches_what_the_node_reaches_and_looks_like_the_node(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    # the server sees the node; the task is told its address of the job, which its peers can reach
    assert ask(hosts[0], SERVER) == f"{NODE} 10.128.0.1"
    removed(hosts[:1], environment())


def test_without_egress_there_is_no_route(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], job_environment(lease_of(), "n1"))
    refused = hosts[0].in_job(17, "python3", "-c", ASK, SERVER, "80", check=False)
    assert "Network is unreachable" in refused.stderr
    assert "hpcnet_egress" not in hosts[0].run("nft", "list", "tables").stdout
    assert hosts[0].lines("ip -o link | grep hpce || true") == set()


def test_the_link_has_no_address_and_no_ipv6(hosts: list[Host]) -> None:
    built(hosts[:1], environment())
    for job_id, device in ((17, "hpcout"), (0, "hpce17")):
        link = " ".join(hosts[0].lines(f"ip -d link show {device}; ip -o addr show {device}", job_id))
        assert "inet" not in link
        assert "group 6844526" in link
        assert "alias hpcnet:lab:17:100" in link
    assert hosts[0].run("cat", "/proc/sys/net/ipv6/conf/hpce17/disable_ipv6").stdout == "1\n"
    assert hosts[0].run("cat", "/proc/sys/net/ipv4/conf/hpce17/rp_filter").stdout == "1\n"


def test_nothing_but_answers_goes_into_the_job(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    task = hosts[0].start_in_job(17, "python3", "-c", TELL, "0.0.0.0", "5000")
    assert task.stdout and task.stdout.readline() == "ready\n"
    assert hosts[0].in_job(17, "python3", "-c", ASK, "10.128.0.1", "5000").stdout.strip()  # it does listen
    server.run("ip", "route", "add", "10.128.0.0/10", "via", NODE)
    assert server.run("ping", "-c1", "-W1", "-q", NODE).returncode == 0
    assert server.run("python3", "-c", ASK, "10.128.0.1", "5000", check=False).returncode != 0
    # nor from the node itself, and whatever device a program of the node binds itself to
    for bound in ((), ("-I", "hpce17")):
        assert hosts[0].run("ping", "-c1", "-W1", "-q", *bound, "10.128.0.1", check=False).returncode != 0
    assert hosts[0].run("python3", "-c", ASK, "10.128.0.1", "5000", check=False).returncode != 0
    task.kill()
    ended(task)


def test_one_job_does_not_reach_another_by_its_way_out(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    built(hosts[:1], environment(1, 18))
    other = str(out(1).ipv4.network_address + 1)
    task = hosts[0].start_in_job(18, "python3", "-c", TELL, "0.0.0.0", "5000")
    assert task.stdout and task.stdout.readline() == "ready\n"
    assert hosts[0].in_job(18, "python3", "-c", ASK, other, "5000").stdout.strip() == f"{other} {other}"
    assert ask(hosts[0], other, 5000) == ""
    assert ask(hosts[0], SERVER) == f"{NODE} 10.128.0.1"  # while out it goes
    task.kill()
    ended(task)


def test_an_address_of_another_jobs_network_is_refused_at_once(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    hosts[0].run("ip", "route", "add", "default", "via", SERVER)  # or the node would not know where to send it
    refused = hosts[0].in_job(17, "python3", "-c", ASK, "10.129.0.1", "80", check=False)
    hosts[0].run("ip", "route", "del", "default")
    assert "No route to host" in refused.stderr


def test_a_foreign_source_address_does_not_pass(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    counter = "table ip seen { chain in { type filter hook input priority 0; tcp dport 80 counter; }; }"
    server.run("nft", "-f", "-", text=counter)
    hosts[0].in_job(17, "ip", "addr", "add", "10.128.0.77/32", "dev", "hpc0")
    hosts[0].in_job(17, "ip", "route", "replace", "default", "via", "192.0.0.8", "dev", "hpcout", "onlink",
                    "src", "10.128.0.77")  # fmt: skip
    for filter_only in (False, True):
        if filter_only:  # the second lock, where a site has opened the first
            hosts[0].run("sh", "-c", "echo 2 > /proc/sys/net/ipv4/conf/hpce17/rp_filter")
        assert ask(hosts[0], SERVER) == ""
    assert "packets 0" in server.run("nft", "list", "table", "ip", "seen").stdout


def test_no_vxlan_goes_out_by_the_link(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    counter = (
        "table ip seen { chain in { type filter hook input priority -400; udp dport { 4788, 4789 } counter; }; }"
    )
    server.run("nft", "-f", "-", text=counter)
    send = f"import socket; u = socket.socket(2, 2)\nfor p in 4789, 4788: u.sendto(b'x', ('{SERVER}', p))"
    hosts[0].in_job(17, "python3", "-c", send)
    wait_for(lambda: "packets 0" not in server.run("nft", "list", "table", "ip", "seen").stdout, "nothing came")
    assert "packets 1" in server.run("nft", "list", "table", "ip", "seen").stdout


def test_a_node_that_forwards_nothing_goes_on_so_for_everybody_else(hosts: list[Host], server: Host) -> None:
    """Its own interfaces forward while a job is there: for answers to jobs."""
    assert forwarding(hosts[0]) == set()
    built(hosts[:1], environment())
    assert forwarding(hosts[0]) == {"eth0", "ib0", "hpce17"}
    server.run("ip", "route", "add", "172.31.0.0/24", "via", NODE)
    hosts[1].run("ip", "route", "add", "198.51.100.0/24", "via", "172.31.0.1")
    assert server.run("ping", "-c1", "-W1", "-q", "172.31.0.2", check=False).returncode != 0
    hosts[1].run("ip", "route", "del", "198.51.100.0/24")
    built(hosts[:1], environment(1, 18))
    removed(hosts[:1], environment())
    assert ask(hosts[0], SERVER, job_id=18) == f"{NODE} 10.128.0.65"
    removed(hosts[:1], environment(1, 18))
    assert forwarding(hosts[0]) == set()


def test_a_node_that_forwards_anyway_is_left_as_it_is(hosts: list[Host], server: Host) -> None:
    hosts[0].run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    before = forwarding(hosts[0])
    built(hosts[:1], environment())
    assert ask(hosts[0], SERVER) == f"{NODE} 10.128.0.1"
    server.run("ip", "route", "add", "172.31.0.0/24", "via", NODE)
    hosts[1].run("ip", "route", "add", "198.51.100.0/24", "via", "172.31.0.1")
    server.run("ping", "-c1", "-W1", "-q", "172.31.0.2")
    hosts[1].run("ip", "route", "del", "198.51.100.0/24")
    removed(hosts[:1], environment())
    assert forwarding(hosts[0]) == before
    hosts[0].run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")


def test_forwarding_that_somebody_wants_meanwhile_stays(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    hosts[0].run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")  # as dockerd does at its start
    built(hosts[:1], environment(1, 18))
    assert "elements" not in hosts[0].run("nft", "list", "set", "inet", "hpcnet_egress", "lent").stdout
    removed(hosts[:1], environment())
    removed(hosts[:1], environment(1, 18))
    assert {"all", "eth0", "ib0"} <= forwarding(hosts[0])
    hosts[0].run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")


def test_iptables_that_forwards_nothing_by_itself_needs_two_rules(hosts: list[Host], server: Host) -> None:
    """As Docker sets its policy; the rules are those of docs/install.md."""
    built(hosts[:1], environment())
    hosts[0].run("iptables", "-P", "FORWARD", "DROP")
    dropped = ask(hosts[0], SERVER)
    hosts[0].run("sh", "-c", "iptables -I FORWARD -i hpce+ -j ACCEPT")
    hosts[0].run("sh", "-c", "iptables -I FORWARD -o hpce+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
    allowed = ask(hosts[0], SERVER)
    hosts[0].run("sh", "-c", "iptables -F; iptables -P FORWARD ACCEPT; nft delete table ip filter")
    assert (dropped, allowed) == ("", f"{NODE} 10.128.0.1")


MISSING = {
    "link": "ip link del hpce17",
    "node's end down": "ip link set hpce17 down",
    "job's end down": "ip -n hpcnet-17 link set hpcout down",
    "default route": "ip -n hpcnet-17 route del default",
    "gateway's MAC": "ip -n hpcnet-17 neigh del 192.0.0.8 dev hpcout",
    "route to the job": "ip route del 10.128.0.1",
    "job's MAC": "ip neigh del 10.128.0.1 dev hpce17",
    "ifalias": "ip link set hpce17 alias ''",
    "filter element": "nft delete element inet hpcnet_egress links '{ \"hpce17\" . 10.128.0.1 }'",
    "filter table": "nft delete table inet hpcnet_egress",
    "filter rules": "nft flush chain inet hpcnet_egress nat",
}


@pytest.mark.parametrize("what", MISSING)
def test_check_sees_what_is_missing_and_prolog_again_repairs_it(
    hosts: list[Host], server: Host, what: str
) -> None:
    built(hosts[:1], environment())
    assert hosts[0].hpcnet("check").stdout == "job 17: ok\n"
    hosts[0].run("sh", "-c", MISSING[what])
    [report] = json.loads(hosts[0].hpcnet("check", "--json").stdout)
    assert report["missing"]
    assert ask(hosts[0], SERVER) == "" or what in ("ifalias", "gateway's MAC", "job's MAC")
    if what == "filter rules":  # more than a Prolog looks for
        hosts[0].hpcnet("filter", "load")
    built(hosts[:1], environment())
    assert hosts[0].hpcnet("check").stdout == "job 17: ok\n"
    assert ask(hosts[0], SERVER) == f"{NODE} 10.128.0.1"


@pytest.mark.parametrize("loaded", [False, True])
def test_a_table_of_other_settings_is_loaded_anew(hosts: list[Host], server: Host, loaded: bool) -> None:
    """By the next job, and by ``filter load`` under the feet of those that run."""
    built(hosts[:1], environment())
    hosts[0].configure('[pool]\nipv4 = "10.64.0.0/10"\n')
    [report] = json.loads(hosts[0].hpcnet("check", "--json").stdout)
    assert [line for line in report["missing"] if "masquerade" in line and "10.64.0.0/10" in line]
    if loaded:
        assert hosts[0].hpcnet("filter", "load").returncode == 0
        assert hosts[0].hpcnet("check").stdout == "job 17: ok\n"
    wider = out(1, ipv4=IPv4Network("10.64.0.64/26"))
    built(hosts[:1], job_environment(wider, "n1", 18))
    assert ask(hosts[0], SERVER, job_id=18) == f"{NODE} 10.64.0.65"
    assert hosts[0].hpcnet("check").stdout == "job 17: ok\njob 18: ok\n"


def test_check_sees_what_does_not_belong_there(hosts: list[Host]) -> None:
    built(hosts[:1], environment())
    hosts[0].run("ip", "addr", "add", "192.0.2.1/32", "dev", "hpce17")
    hosts[0].run("ip", "-n", "hpcnet-17", "route", "add", "192.0.2.0/24", "dev", "hpc0")
    [report] = json.loads(hosts[0].hpcnet("check", "--json").stdout)
    assert report["foreign"] == [
        "on the node: address 192.0.2.1/32 on hpce17",
        "route 192.0.2.0 by None on hpc0 from None",
    ]


def test_filter_load_brings_it_back_after_a_flush(hosts: list[Host], server: Host) -> None:
    built(hosts[:1], environment())
    hosts[0].run("nft", "flush", "ruleset")
    assert hosts[0].hpcnet("filter", "load").returncode == 0
    assert hosts[0].hpcnet("check").stdout == "job 17: ok\n"
    assert ask(hosts[0], SERVER) == f"{NODE} 10.128.0.1"
    guard = hosts[0].run("nft", "list", "set", "inet", "hpcnet_egress", "lent").stdout
    assert all(f'"{interface}"' in guard for interface in ("eth0", "ib0"))


def test_prolog_again_keeps_the_link(hosts: list[Host]) -> None:
    built(hosts[:1], environment())
    before = hosts[0].lines("ip -d link show hpce17; ip route; nft list ruleset; ip neigh")
    hosts[0].run("touch", "/run/hpcnet/tracked.new")  # as of an Epilog that was killed
    built(hosts[:1], environment())
    assert hosts[0].lines("ip -d link show hpce17; ip route; nft list ruleset; ip neigh") == before
    assert hosts[0].lines("cd /run/hpcnet; ls tracked*; cat tracked") == {"tracked", "17 10.128.0.1"}


GONE = {
    "nothing": "true",
    "journal": "rm /run/hpcnet/jobs/17/journal",
    "namespace": "ip netns del hpcnet-17",
    "journal and job's end": "rm /run/hpcnet/jobs/17/journal; ip -n hpcnet-17 link del hpcout",
    "identity": "rm /run/hpcnet/jobs/17/journal; ip link set hpce17 alias ''",
    "table": "nft delete table inet hpcnet_egress",
}


@pytest.mark.parametrize("what", GONE)
def test_epilog_leaves_nothing_whatever_is_gone_already(
    hosts: list[Host], pristine: list[dict[str, str]], what: str
) -> None:
    built(hosts[:1], environment())
    hosts[0].run("sh", "-c", GONE[what])
    removed(hosts[:1], {"SLURM_JOB_ID": "17", "SLURM_JOB_UID": "0"})
    wait_for(lambda: hosts[0].state() == pristine[0], "something is left")
    assert forwarding(hosts[0]) == set()


def test_a_device_of_that_name_that_is_not_ours_fails_the_prolog_and_stays(
    hosts: list[Host], pristine: list[dict[str, str]]
) -> None:
    hosts[0].run("ip", "link", "add", "hpce17", "type", "bridge")
    failed = hosts[0].hook("prolog", environment())
    assert failed.returncode == 1
    assert "has an interface hpce17 that hpcnet did not make" in failed.stderr
    hosts[0].run("ip", "link", "del", "hpce17")
    assert hosts[0].state() == pristine[0]


def test_eight_jobs_come_and_go_at_once(hosts: list[Host], server: Host, pristine: list[dict[str, str]]) -> None:
    host, jobs = hosts[0], range(21, 29)
    environments = [environment(job, job) for job in jobs]
    prologs = [host.start_hook("prolog", one) for one in environments]
    assert [ended(process)[0] for process in prologs] == [0] * 8
    for job in jobs:
        assert ask(host, SERVER, job_id=job).startswith(NODE)
    goes, stays = environments[:-1], environments[-1]
    epilogs = [host.start_hook("epilog", one) for one in goes]
    assert [ended(process)[0] for process in epilogs] == [0] * 7
    assert ask(host, SERVER, job_id=28).startswith(NODE)
    removed(hosts[:1], stays)
    assert forwarding(host) == set()


def test_direct_networks_have_it_too(hosts: list[Host], server: Host) -> None:
    hosts[0].configure('[direct]\nallow_shared = true\n[offer]\nmodes = ["vxlan", "direct"]\n')
    lease = out(mode="direct", vni=0, shared=True)
    built(hosts[:1], job_environment(lease, "n1"))
    assert ask(hosts[0], SERVER) == f"{NODE} 10.128.0.1"
    removed(hosts[:1], job_environment(lease, "n1"))


@pytest.mark.parametrize("others", [0, 1], ids=["the node's last", "one of two"])
def test_epilog_asks_nft_twice(hosts: list[Host], slow_nft: SlowNft, others: int) -> None:
    jobs = [(number, job_environment(out(number), "n[1-2]", 17 + number)) for number in range(others + 1)]
    for _, each in jobs:
        built(hosts[:1], each)
    hosts[0].write("/run/slow/program", '#!/bin/sh\necho "$*" >> /run/slow/calls\nexec /run/slow/nft "$@"\n')
    removed(hosts[:1], jobs[0][1])
    calls = hosts[0].run("cat", "/run/slow/calls").stdout.splitlines()
    assert [call.split()[0] for call in calls] == ["--json", "-f"], "each transaction waits for the kernel"
    listed = hosts[0].run("nft", "list", "ruleset").stdout
    assert str(out(0).vni) not in listed.partition("set vtep")[2].partition("}")[0]
    assert "hpce17" not in listed and ("hpce18" in listed) == bool(others)


def test_the_way_out_ends_where_the_peers_are_gone_from_the_filter_already(hosts: list[Host]) -> None:
    job = job_environment(out(), "n[1-2]")
    built(hosts[:1], job)
    hosts[0].run("nft", "flush", "set", "inet", "hpcnet", "vtep")
    removed(hosts[:1], job)
    assert "hpce17" not in hosts[0].run("nft", "list", "ruleset").stdout
