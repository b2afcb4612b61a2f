# SPDX-License-Identifier: Apache-2.0
"""``hpcnet attach`` and ``detach`` without Docker: a namespace's interface in a job's network, in both modes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hpcnet.model import Lease
from tests.kernel.hosts import Host, built, job_environment, lease_of, plan_of, removed, require_root
from tests.kernel.test_direct import direct_lease

require_root()
pytestmark = pytest.mark.kernel

SITE = "[direct]\nallow_shared = true\n"
LEASES = {"vxlan": lease_of(endpoints=2), "direct": direct_lease(endpoints=2)}
BOX = "/run/netns/box"


@pytest.fixture(params=LEASES)
def lease(request: pytest.FixtureRequest) -> Lease:
    return LEASES[request.param]


@pytest.fixture
def boxes(hosts: list[Host]) -> Iterator[list[Host]]:
    """n1 and n2, each with a namespace "box" that no job made."""
    for host in hosts[:2]:
        host.configure(SITE)
        host.run("ip", "netns", "add", "box")
        host.run("ip", "-n", "box", "link", "set", "lo", "up")
    yield hosts[:2]
    for host in hosts[:2]:
        host.run("ip", "netns", "del", "box")


def attach(host: Host, *words: str) -> dict[str, Any]:
    done = host.hpcnet("attach", "17", BOX, "--json", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def refused(host: Host, *words: str) -> tuple[int, str]:
    done = host.hpcnet("attach", "17", BOX, *words)
    assert done.returncode != 0 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    return done.returncode, done.stderr


def links(host: Host) -> set[str]:
    names = host.run("ip", "-n", "box", "-o", "link").stdout.splitlines()
    return {line.split()[1].partition("@")[0].rstrip(":") for line in names} - {"lo"}


def slots(host: Host) -> list[str]:
    return host.run("sh", "-c", "ls /run/hpcnet/jobs/17/slots").stdout.split()


def test_attached_namespaces_reach_each_other_and_the_tasks(boxes: list[Host], lease: Lease) -> None:
    """By IPv4 and IPv6, at once: the first packet, with no address still tentative."""
    built(boxes, job_environment(lease, "n[1-2]"))
    found = {host.name: attach(host) for host in boxes}
    for host, other in (boxes, boxes[::-1]):
        own, peer = plan_of(lease, 2, host.name).own[1], plan_of(lease, 2, other.name)
        assert (found[host.name]["interface"], found[host.name]["ipv4"]) == ("hpc0", str(own.ipv4))
        shown = host.run("ip", "-n", "box", "addr", "show", "hpc0").stdout
        assert f" {own.ipv4}/26 " in shown and f" {own.ipv6}/64 " in shown and "tentative" not in shown
        for endpoint in peer.own[:2]:
            for address in (endpoint.ipv4, endpoint.ipv6):
                host.run("ip", "netns", "exec", "box", "ping", "-c1", "-W1", "-q", str(address))
                if endpoint.slot:
                    host.in_job(17, "ping", "-c1", "-W1", "-q", str(address))
        assert not [line for line in host.lines("ip -o link") if "hpc" in line or "hpd" in line]
        assert host.hpcnet("check").stdout == "job 17: ok\n"


def test_detaching_gives_address_and_interface_back(boxes: list[Host], lease: Lease) -> None:
    built(boxes[:1], job_environment(lease, "n[1-2]"))
    before = boxes[0].state()["links"], boxes[0].lines("ip -d link", 17)
    second = plan_of(lease, 2).own[2]
    assert attach(boxes[0], "--ip", str(second.ipv4))["ipv4"] == str(second.ipv4)
    assert attach(boxes[0])["interface"] == "hpc1"
    assert (links(boxes[0]), slots(boxes[0])) == ({"hpc0", "hpc1"}, ["1", "2"])
    assert "all 2 container addresses of job 17" in refused(boxes[0])[1]
    assert boxes[0].hpcnet("detach", "17", BOX).returncode == 0
    assert (links(boxes[0]), slots(boxes[0])) == (set(), [])
    assert (boxes[0].state()["links"], boxes[0].lines("ip -d link", 17)) == before
    again = boxes[0].hpcnet("detach", "17", BOX)
    assert again.returncode == 2 and "nothing of job 17 is attached there" in again.stderr


def test_epilog_removes_what_is_still_attached(boxes: list[Host], lease: Lease) -> None:
    before = [host.state() for host in boxes]
    environment = job_environment(lease, "n[1-2]")
    built(boxes, environment)
    for host in boxes:
        attach(host)
        attach(host)
    removed(boxes, environment)
    assert [links(host) for host in boxes] == [set(), set()]
    assert [host.state() for host in boxes] == before


def test_a_job_that_is_being_removed_is_attached_to_no_more(boxes: list[Host], lease: Lease) -> None:
    built(boxes[:1], job_environment(lease, "n1"))
    boxes[0].run("rm", "/run/hpcnet/jobs/17/network")  # what Epilog does first
    code, words = refused(boxes[0])
    assert code == 2 and "job 17 has no network on this node" in words
    assert links(boxes[0]) == set()


def test_a_refused_mtu_leaves_nothing(boxes: list[Host]) -> None:
    """The uplink was made smaller in the middle of the job."""
    built(boxes[:1], job_environment(LEASES["direct"], "n1"))
    boxes[0].run("ip", "link", "set", "ib0", "mtu", "9000")
    try:
        code, words = refused(boxes[0])
        assert (code == 3 and "Invalid argument" in words) or "carries less" in words, words
    finally:
        boxes[0].run("ip", "link", "set", "ib0", "mtu", "65520")
    assert (links(boxes[0]), slots(boxes[0])) == (set(), []), words


def test_a_name_that_is_taken_leaves_what_has_it(boxes: list[Host], lease: Lease) -> None:
    """Also when that is an interface of hpcnet's: another job's, attached at the same time."""
    built(boxes[:1], job_environment(lease, "n1"))
    inode = boxes[0].run("stat", "-Lc", "%i", BOX).stdout.strip()
    boxes[0].run("ip", "-n", "box", "link", "add", f"hpd{inode}", "group", "6844526", "type", "bridge")
    code, words = refused(boxes[0])
    assert code == 3 and "File exists" in words
    assert (links(boxes[0]), slots(boxes[0])) == ({f"hpd{inode}"}, [])


def test_no_free_name_leaves_nothing(boxes: list[Host], lease: Lease) -> None:
    built(boxes[:1], job_environment(lease, "n1"))
    names = [f"hpc{number}" for number in range(100)]
    boxes[0].run(
        "ip", "-n", "box", "-batch", "-", text="".join(f"link add {name} type bridge\n" for name in names)
    )
    assert "hpc0 to hpc99 are all taken there" in refused(boxes[0])[1]
    assert (links(boxes[0]), slots(boxes[0])) == (set(names), [])
