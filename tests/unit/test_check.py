# SPDX-License-Identifier: Apache-2.0
"""What ``hpcnet check`` says of a job's Docker network; the kernel is as planned here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hpcnet import check, journal, lifecycle, names
from hpcnet.check import Report
from hpcnet.config import Docker, Site
from hpcnet.kernel import netns, observe, trial
from tests.unit.test_driver import LEASE, entry
from tests.unit.test_engine import Daemon, daemon, reply

__all__ = ["daemon"]


@pytest.fixture
def site(tmp_path: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Job 12 with docker=yes is complete on this node but for what dockerd says."""
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path / "hpcnet"))
    monkeypatch.setattr(observe, "observed", lambda job_id, vni: {"all"})
    monkeypatch.setattr(observe, "planned", lambda plan: {"all"})
    monkeypatch.setattr(netns, "exists", lambda job_id: False)
    for difference in ("filter_difference", "translation_difference"):
        monkeypatch.setattr(trial, difference, lambda site: [])
    journal.prepare()
    journal.begin(replace(entry(), boot_id=lifecycle.boot_id()))
    return Site(docker=Docker(socket=str(sockets / "docker.sock"), deadline=60))


def networks(*jobs: int) -> bytes:
    """dockerd's list of networks with one for each of these jobs."""
    return json.dumps(
        [
            {"Id": "a", "Name": f"hpcnet-{job}", "Labels": {"hpcnet.job": str(job), "hpcnet.serial": "7"}}
            for job in jobs
        ]
    ).encode()


def test_a_docker_network_that_is_there(site: Site, daemon: Daemon) -> None:
    daemon.serve = reply(200, networks(11, 12))
    assert check.check(12, site) == Report(12)


def test_a_docker_network_that_somebody_removed_is_missing(site: Site, daemon: Daemon) -> None:
    daemon.serve = reply(200, networks(11, 120))
    report = check.check(12, site)
    assert report == Report(12, missing=("Docker network hpcnet-12",)) and not report.clean


def test_a_dockerd_that_does_not_answer_is_the_problem(site: Site) -> None:
    words = (
        f"dockerd does not answer on {site.docker.socket}: No such file or directory; see systemctl status docker"
    )
    assert check.check(12, site) == Report(12, problem=words)


def test_a_dockerd_that_refuses_is_the_problem(site: Site, daemon: Daemon) -> None:
    daemon.serve = reply(500, b'{"message": "database is closed"}')
    assert check.check(12, site) == Report(12, problem="dockerd does not list its networks: database is closed")


def test_a_job_without_docker_needs_no_dockerd(site: Site) -> None:
    journal.begin(replace(entry(replace(LEASE, docker=False)), boot_id=lifecycle.boot_id()))
    assert check.check(12, site) == Report(12)
