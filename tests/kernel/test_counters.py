# SPDX-License-Identifier: Apache-2.0
"""Counters of a job's interfaces, read as root, by a task, and by an Epilog, against what iproute2 reads."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from hpcnet.names import DEVICE_GROUP
from tests.kernel.hosts import Host, built, job_environment, lease_of, plan_of, removed, require_root

require_root()
pytestmark = pytest.mark.kernel

_READ = """
import json
from hpcnet.counters import reading, wire
from hpcnet.counters.neighbours import Tables
found = {call}
print(json.dumps([wire.encode(sample) for sample in (found if isinstance(found, list) else [found])]))
"""

_CONTAINER = f"""
ip netns add container
ip -n hpcnet-17 link add link hpcvx name hpc1 netns container group {DEVICE_GROUP} type macvlan mode bridge
ip -n container link set hpc1 alias "$1"
ip -n container addr add 192.0.2.1/24 dev hpc1
ip -n container neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 nud stale dev hpc1
"""


def read(host: Host, call: str) -> list[dict[str, Any]]:
    found = json.loads(host.python(_READ.format(call=call)))
    assert isinstance(found, list)
    return found


def is_between(first: dict[str, Any], found: dict[str, Any], last: dict[str, Any]) -> bool:
    """Of three readings in a row: the kernel itself may send a packet meanwhile (MLD)."""
    return all(first[name] <= found[name] <= last[name] for name in first)


def job(hosts: list[Host]) -> dict[str, str]:
    """Job 17 on n1 and n2, where n1 has sent n2 ten packets."""
    lease = lease_of()
    environment = job_environment(lease, "n[1-2]")
    built(hosts[:2], environment)
    peer = plan_of(lease, 2, "n2").tasks.ipv4
    hosts[0].in_job(17, "ping", "-q", "-c10", "-i0.01", "-s1000", str(peer))
    return environment


def test_what_root_reads_is_what_iproute2_reads(hosts: list[Host]) -> None:
    job(hosts)
    [sample] = read(hosts[0], "reading.read_job(17, 'n1')")
    shown = {
        device["ifname"]: device
        for device in json.loads(hosts[0].in_job(17, "ip", "-s", "-j", "address", "show").stdout)
    }
    [later] = read(hosts[0], "reading.read_job(17, 'n1')")
    assert (sample["job"], sample["node"], sample["problem"]) == (17, "n1", "")
    assert [(each["device"], each["kind"]) for each in sample["interfaces"]] == [
        ("hpc0", "tasks"),
        ("hpcvx", "segment"),
    ]
    for found, again in zip(sample["interfaces"], later["interfaces"]):
        device = shown[found["device"]]
        names = [(way, what) for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")]
        counters = {f"{way}_{what}": device["stats64"][way][what] for way, what in names}
        assert is_between(found["counters"], counters, again["counters"])
        assert (found["mtu"], found["mac"], found["state"]) == (
            device["mtu"],
            device["address"],
            device["operstate"],
        )
        assert found["addresses"] == [f"{each['local']}/{each['prefixlen']}" for each in device["addr_info"]]
    # ten echo requests of 14 + 20 + 8 + 1000 bytes
    assert sample["interfaces"][0]["counters"]["tx_bytes"] >= 10 * 1042


def stranger_on(host: Host) -> None:
    """Entries in the table of hpc0 that hpcnet did not make."""
    for address, state in (("192.0.2.7", "stale"), ("fd00::7", "failed"), ("192.0.2.8", "failed")):
        mac = ["lladdr", "02:00:00:00:00:07"] if state == "stale" else []
        host.in_job(17, "ip", "neigh", "replace", address, *mac, "nud", state, "dev", "hpc0")


def test_neighbours_are_those_that_iproute2_shows(hosts: list[Host]) -> None:
    job(hosts)
    stranger_on(hosts[0])
    [sample] = read(hosts[0], "reading.read_node('n1', Tables())")
    for interface in sample["interfaces"]:
        words = ["ip", "-j", "neigh", "show", "dev", interface["device"]]
        shown = [
            state.lower() for each in json.loads(hosts[0].in_job(17, *words).stdout) for state in each["state"]
        ]
        found = dict(interface["neighbours"])
        listed = found.pop("listed")
        assert found == {state: shown.count(state) for state in found}
        assert len(listed) == len(shown) - found["permanent"]
    assert sample["interfaces"][0]["neighbours"]["permanent"] > 0
    assert sample["interfaces"][0]["neighbours"]["listed"] == [
        {"address": "192.0.2.8", "mac": "", "state": "failed"},
        {"address": "fd00::7", "mac": "", "state": "failed"},
        {"address": "192.0.2.7", "mac": "02:00:00:00:00:07", "state": "stale"},
    ]
    [without] = read(hosts[0], "reading.read_node('n1')")
    assert [each["neighbours"] for each in without["interfaces"]] == [None] * 2


def test_a_task_reads_the_same_without_privilege(hosts: list[Host]) -> None:
    job(hosts)
    stranger_on(hosts[0])
    [as_root] = read(hosts[0], "reading.read_node('n1', Tables())")
    assert as_root["interfaces"][0]["neighbours"]["stale"] == 1
    inside = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    script = _READ.format(call="reading.read_own(17, 'n1', Tables())")
    text = hosts[0].python(
        "import os, sys; from hpcnet.kernel import netns\n"
        "with netns.inside(17):\n"
        f"    exec({inside + script!r})\n"
        "    sys.stdout.flush(); os._exit(0)\n"
    )
    [own] = json.loads(text)
    [later] = read(hosts[0], "reading.read_job(17, 'n1')")
    for before, found, after in zip(as_root["interfaces"], own["interfaces"], later["interfaces"]):
        assert is_between(before["counters"], found["counters"], after["counters"])
        assert {**found, "counters": None} == {**before, "counters": None}
    [stranger] = read(hosts[0], "reading.read_own(17, 'n1')")
    assert stranger["interfaces"] == [] and "join=none" in stranger["problem"]


def test_a_containers_interface_is_its_jobs(hosts: list[Host]) -> None:
    job(hosts)
    alias = json.loads(hosts[0].in_job(17, "ip", "-j", "link", "show", "hpc0").stdout)[0]["ifalias"]
    hosts[0].run("sh", "-ec", _CONTAINER, "sh", alias)
    try:
        [sample] = read(hosts[0], "reading.read_node('n1', Tables())")
        kinds = {each["kind"]: each for each in sample["interfaces"]}
        assert set(kinds) == {"tasks", "segment", "container"}
        assert kinds["container"]["addresses"] == ["192.0.2.1/24"]
        assert kinds["container"]["neighbours"]["listed"][0]["address"] == "192.0.2.9"
        assert re.fullmatch(r"net:\[\d+\]", kinds["container"]["namespace"])
        hosts[0].run("ip", "-n", "container", "link", "set", "hpc1", "alias", "hpcnet:cluster:18:1")
        [sample] = read(hosts[0], "reading.read_node('n1')")
        assert {each["kind"] for each in sample["interfaces"]} == {"tasks", "segment"}
    finally:
        hosts[0].run("ip", "netns", "del", "container")


def test_a_job_that_is_not_here_is_a_problem_and_no_error(hosts: list[Host]) -> None:
    assert read(hosts[2], "reading.read_node('n3')") == []
    [sample] = read(hosts[2], "reading.read_job(17, 'n3')")
    assert (sample["interfaces"], sample["problem"]) == ([], "no network of this job on this node")


def test_what_containers_move_is_in_the_account_too(hosts: list[Host]) -> None:
    environment = job(hosts)
    alias = json.loads(hosts[0].in_job(17, "ip", "-j", "link", "show", "hpc0").stdout)[0]["ifalias"]
    hosts[0].run("sh", "-ec", _CONTAINER + "ip -n container link set hpc1 up", "sh", alias)
    taken = "from hpcnet import slots\nslots.take(17, [1], 'one')\nslots.describe(17, 1, 'one', '192.0.2.1 web')"
    hosts[0].python(taken)
    try:
        hosts[0].run(
            "ip", "netns", "exec", "container", "ping", "-q", "-c2", "-i0.01", "-W1", "192.0.2.9", check=False
        )
        hosts[0].run("rm", "-f", "/run/hpcnet.log")
        hosts[0].write("/etc/hpcnet/hpcnet.toml", '[hooks]\nlog = "/run/hpcnet.log"\n')
        hosts[0].hook("epilog", environment)
        [line] = [
            text for text in hosts[0].run("cat", "/run/hpcnet.log").stdout.splitlines() if "account {" in text
        ]
    finally:
        hosts[0].run("ip", "netns", "del", "container")
    account = json.loads(line.partition("account ")[2])
    tasks, container = (
        next(each for each in account["interfaces"] if each["kind"] == kind) for kind in ("tasks", "container")
    )
    assert container["counters"]["tx_packets"] >= 2
    assert account["moved"] == {
        name: count + container["counters"][name] for name, count in tasks["counters"].items()
    }
    removed(hosts[1:2], environment)


def test_the_epilog_writes_what_the_job_moved_and_what_breaks_it_does_not_stop_it(hosts: list[Host]) -> None:
    environment = job(hosts)
    [before] = read(hosts[0], "reading.read_job(17, 'n1')")
    hosts[0].run("rm", "-f", "/run/hpcnet.log")
    settings = '[hooks]\nlog = "/run/hpcnet.log"\naccounts = "/run/accounts/none"\n'
    hosts[0].write("/etc/hpcnet/hpcnet.toml", settings)
    done = hosts[0].hook("epilog", environment)
    assert done.returncode == 0, done.stderr
    log = hosts[0].run("cat", "/run/hpcnet.log").stdout
    [line] = re.findall(r"^\S+ hpcnet epilog: job 17: account (\{.*\})$", log, re.MULTILINE)
    account = json.loads(line)
    assert (account["job"], account["node"], account["problem"], account["peak"]) == (17, "n1", "", None)
    [tasks] = [each for each in account["interfaces"] if each["kind"] == "tasks"]
    counted = before["interfaces"][0]["counters"]
    assert is_between(counted, tasks["counters"], {name: count + 1000 for name, count in counted.items()})
    assert account["moved"] == tasks["counters"]
    assert "removed; its account is not kept: /run/accounts/none: No such file or directory; serial" in log
    assert hosts[0].hook("epilog", environment).returncode == 0
    assert hosts[0].run("cat", "/run/hpcnet.log").stdout.count("account {") == log.count("account {")
    removed(hosts[1:2], environment)
