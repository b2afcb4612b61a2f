# SPDX-License-Identifier: Apache-2.0
"""One fabric for all tests; whatever a test did, the Epilogs of its jobs leave every host as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Fabric, Host, SlowNft, ended


@pytest.fixture(scope="session")
def fabric() -> Iterator[Fabric]:
    made = Fabric(3)
    yield made
    made.close()


@pytest.fixture(scope="session")
def pristine(fabric: Fabric) -> list[dict[str, str]]:
    """The hosts' states before any test."""
    return [host.state() for host in fabric.hosts]


@pytest.fixture
def hosts(fabric: Fabric, pristine: list[dict[str, str]]) -> Iterator[list[Host]]:
    """n1, n2 and n3; afterwards an Epilog without any field of the record must have made them as before."""
    for host in fabric.hosts:
        host.used = False
    yield fabric.hosts
    used = [(host, before) for host, before in zip(fabric.hosts, pristine) if host.used]
    epilogs = []
    for host, _ in used:
        host.configure()
        for job in host.jobs():
            epilogs.append(host.start_hook("epilog", {"SLURM_JOB_ID": str(job), "SLURM_JOB_UID": "0"}))
    said = [ended(epilog) for epilog in epilogs]
    left = []
    for host, before in used:
        after = host.state()
        if after != before:
            left.append((host.name, {key: after[key] for key in after if after[key] != before[key]}, said))
            _wipe(host)
    assert not left, left


@pytest.fixture
def slow_nft(hosts: list[Host]) -> Iterator[SlowNft]:
    """An nft on n1 that can be held up."""
    made = SlowNft(hosts[0])
    yield made
    made.close()


def _wipe(host: Host) -> None:
    """So that what one test leaves does not fail all that follow."""
    host.run("sh", "-c", "for name in $(ls /run/netns); do ip netns del $name; done")
    host.run("sh", "-c", "rm -rf /run/netns/* /run/hpcnet/jobs/*")
    host.run("nft", "flush", "ruleset")
    host.hpcnet("filter", "load")
