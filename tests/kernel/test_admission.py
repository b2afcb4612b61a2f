# SPDX-License-Identifier: Apache-2.0
"""A VNI that is leased again where its last job could not be removed whole: each keeps to its own peers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Host, built, job_environment, lease_of, plan_of, require_root
from tests.kernel.test_reap import Slurmctld, cleanup, only, slurmctld

__all__ = ["slurmctld"]  # a fixture
require_root()
pytestmark = pytest.mark.kernel

VNI = lease_of().vni
OLD = job_environment(lease_of(), "n[1-3]")
NEW_LEASE = lease_of(5, vni=VNI)
NEW = job_environment(NEW_LEASE, "n[1-2]", 25)
STALE = "172.31.0.3"
"""A peer of the old job alone."""


def admitted(host: Host) -> list[str]:
    script = f"from hpcnet.kernel.filter import admitted\nprint(*sorted(map(str, admitted({VNI}))))"
    return host.python(script).split()


@pytest.fixture
def leftover(hosts: list[Host]) -> Iterator[list[Host]]:
    """On n1 an Epilog of job 17 got everything away but the filter's entries."""
    built(hosts[:1], OLD)
    hosts[0].run("mount", "--bind", "/bin/false", "/usr/sbin/nft")
    epilog = hosts[0].hook("epilog", OLD)
    hosts[0].run("umount", "/usr/sbin/nft")
    assert epilog.returncode == 0 and f"packets of VNI {VNI} are still let in, to no device" in epilog.stderr
    assert admitted(hosts[0]) == ["172.31.0.2", STALE]
    yield hosts


def reaches_its_peer(host: Host) -> bool:
    peer = plan_of(NEW_LEASE, 2, "n2", 25).tasks
    return host.in_job(25, "ping", "-c1", "-W1", "-q", str(peer.ipv4), check=False).returncode == 0


@pytest.mark.parametrize("by", ["cleanup", "epilog"])
def test_what_the_old_job_left_goes_without_the_new_ones_peers(
    leftover: list[Host], slurmctld: Slurmctld, by: str
) -> None:
    host = leftover[0]
    built(leftover[:2], NEW)
    if by == "cleanup":
        slurmctld.has("25 RUNNING n[1-2]")
        report = cleanup(host)
        assert {network["job_id"]: network["done"] for network in report["networks"]} == {
            17: "removed",
            25: "kept",
        }
    else:
        assert host.hook("epilog", OLD).returncode == 0
    assert host.jobs() == [25]
    assert admitted(host) == ["172.31.0.2"]
    assert reaches_its_peer(host)


def test_the_new_jobs_prolog_takes_packets_from_its_own_peers_alone(leftover: list[Host]) -> None:
    built(leftover[:1], NEW)
    assert admitted(leftover[0]) == ["172.31.0.2"]


def test_a_filter_that_is_loaded_again_has_only_the_living_jobs_peers(leftover: list[Host]) -> None:
    host = leftover[0]
    built([host], NEW)
    host.run("nft", "flush", "ruleset")
    assert host.hpcnet("filter", "load").returncode == 0
    assert admitted(host) == ["172.31.0.2"]


def test_jobs_that_are_removed_at_the_same_time_spare_nothing_for_each_other(leftover: list[Host]) -> None:
    """The devices of both are gone, the journals not yet."""
    host = leftover[0]
    built([host], NEW)
    host.run("ip", "netns", "del", "hpcnet-25")
    script = "from hpcnet import admission, journal\nentry = journal.read({0})\n"
    for job in (17, 25):
        host.python(f"{script.format(job)}admission.expel({VNI}, entry.vteps, {job})")
    assert host.jobs() == [17, 25]
    assert admitted(host) == []


def test_entries_of_nobody_go_without_those_of_a_job_that_came_meanwhile(
    leftover: list[Host], slurmctld: Slurmctld
) -> None:
    """Cleanup has seen the entries before the new job's Prolog began."""
    host = leftover[0]
    host.run("rm", "-r", "/run/hpcnet/jobs/17")
    built([host], NEW)
    seen = "{IPv4Address('172.31.0.2'), IPv4Address('172.31.0.3')}"
    script = f"from ipaddress import IPv4Address\nfrom hpcnet import admission\nadmission.expel({VNI}, {seen})"
    host.python(script)
    assert admitted(host) == ["172.31.0.2"]


def test_the_leftovers_of_one_job_alone_go_by_cleanup(
    leftover: list[Host], slurmctld: Slurmctld, pristine: list[dict[str, str]]
) -> None:
    assert only(cleanup(leftover[0]))["done"] == "removed"
    assert leftover[0].state() == pristine[0]
