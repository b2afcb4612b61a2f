# SPDX-License-Identifier: Apache-2.0
"""Epilog: twice, without a Prolog, without a journal, during a Prolog; and only what is the job's own."""

from __future__ import annotations

import pytest

from tests.kernel.hosts import (
    Host,
    SlowNft,
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

ENVIRONMENT = job_environment(lease_of(), "n[1-3]")
BARE = {"SLURM_JOB_ID": "17", "SLURM_JOB_UID": "20001"}
"""All that an Epilog may be given."""

JOURNAL = "/run/hpcnet/jobs/17/journal"
LOST = {
    "directory gone": "rm -r /run/hpcnet/jobs/17",
    "journal gone": f"rm {JOURNAL}",
    "empty": f": > {JOURNAL}",
    "half written": f"truncate -s 100 {JOURNAL}",
    "garbage": f"head -c 3000 /dev/urandom > {JOURNAL}",
    "another program's JSON": f"echo '[1, 2]' > {JOURNAL}",
}


def test_epilog_twice_leaves_nothing(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    built(hosts[:1], ENVIRONMENT)
    removed(hosts[:1], ENVIRONMENT)
    removed(hosts[:1], ENVIRONMENT)
    assert hosts[0].state() == pristine[0]


def test_epilog_without_a_prolog_changes_nothing(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    removed(hosts[:1], ENVIRONMENT)
    assert hosts[0].state() == pristine[0]


def test_epilog_without_the_records_fields_leaves_nothing(
    hosts: list[Host], pristine: list[dict[str, str]]
) -> None:
    built(hosts[:1], ENVIRONMENT)
    removed(hosts[:1], BARE)
    assert hosts[0].state() == pristine[0]


@pytest.mark.parametrize("how", LOST)
def test_epilog_works_from_what_the_kernel_holds_when_the_journal_is(
    hosts: list[Host], pristine: list[dict[str, str]], how: str
) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].run("sh", "-c", LOST[how])
    removed(hosts[:1], BARE)
    assert hosts[0].state() == pristine[0]


def test_epilog_removes_what_another_version_built(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    """All but the account of what was moved, which needs the lease."""
    built(hosts[:1], ENVIRONMENT)
    hosts[0].run("sh", "-c", f"sed -i s/v=1,/v=9,/ {JOURNAL}; grep -q v=9, {JOURNAL}")
    assert hosts[0].hpcnet("filter", "load").returncode == 0
    code, errors = ended(hosts[0].start_hook("epilog", BARE))
    assert code == 0, errors
    assert "no account of what it moved" in errors and len(errors.splitlines()) == 1
    assert hosts[0].state() == pristine[0]


@pytest.mark.parametrize(
    "gone",
    [
        "ip -n hpcnet-17 link del hpcvx",
        "ip -n hpcnet-17 link del hpcvx; ip netns del hpcnet-17",
        "nft delete element inet hpcnet vtep '{ 6815744 . 172.31.0.2 }'",
        "nft flush set inet hpcnet vtep",
    ],
)
def test_epilog_removes_the_rest_of_what_is_gone_in_part(
    hosts: list[Host], pristine: list[dict[str, str]], gone: str
) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].run("sh", "-c", gone)
    removed(hosts[:1], BARE)
    assert hosts[0].state() == pristine[0]


def test_epilog_without_the_filters_table_makes_none(hosts: list[Host]) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].run("nft", "delete", "table", "inet", "hpcnet")
    removed(hosts[:1], ENVIRONMENT)
    assert hosts[0].run("nft", "list", "ruleset").stdout == ""
    hosts[0].hpcnet("filter", "load")


def test_a_process_left_in_the_namespace_has_no_network_after_epilog(
    hosts: list[Host], pristine: list[dict[str, str]]
) -> None:
    built(hosts[:1], ENVIRONMENT)
    left = hosts[0].start_in_job(17, "sh", "-c", "echo ready; read word; ip -br link")
    assert left.stdout
    assert left.stdout.readline() == "ready\n"
    removed(hosts[:1], ENVIRONMENT)
    assert hosts[0].state() == pristine[0]
    out, _ = left.communicate("go on\n", timeout=60)
    assert [line.split()[0] for line in out.splitlines()] == ["lo"]


def test_removing_a_job_touches_nothing_of_another_one(hosts: list[Host]) -> None:
    other = job_environment(lease_of(5, endpoints=4), "n[1-2]", 25)
    built(hosts[:2], other)
    before = hosts[0].state(), hosts[0].lines("ip addr; ip neigh; bridge fdb", 25)
    built(hosts[:1], ENVIRONMENT)
    removed(hosts[:1], ENVIRONMENT)
    assert (hosts[0].state(), hosts[0].lines("ip addr; ip neigh; bridge fdb", 25)) == before
    peer = plan_of(lease_of(5, endpoints=4), 2, "n2").tasks
    hosts[0].in_job(25, "ping", "-c1", "-W1", "-q", str(peer.ipv4))


def test_epilog_waits_for_the_prolog_of_its_job(
    hosts: list[Host], pristine: list[dict[str, str]], slow_nft: SlowNft
) -> None:
    slow_nft.hold()
    prolog = hosts[0].start_hook("prolog", ENVIRONMENT)
    slow_nft.wait_until_called()
    epilog = hosts[0].start_hook("epilog", ENVIRONMENT)
    wait_for(lambda: waits_for_a_lock(epilog.pid), "Epilog does not wait for the job's lock")
    slow_nft.go_on()
    assert ended(prolog)[0] == 0
    assert ended(epilog)[0] == 0
    assert hosts[0].state() == pristine[0]


def waits_for_a_lock(process: int) -> bool:
    """Whether a process stands in a file lock's queue."""
    with open("/proc/locks", encoding="ascii") as locks:
        return any(words[1] == "->" and int(words[5]) in (process, -1) for words in map(str.split, locks))
