# SPDX-License-Identifier: Apache-2.0
"""Cleanup where dockerd is dead or hangs: all but its own networks goes, and the report says what nobody knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Host, built, ended, job_environment, lease_of, require_root
from tests.kernel.test_reap import Slurmctld, cleanup, only, slurmctld
from tests.kernel.test_remove import JOURNAL

__all__ = ["slurmctld"]  # a fixture
require_root()
pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("slurmctld")]

ENVIRONMENT = job_environment(lease_of(), "n[1-3]")
SOCKET = "/run/dockerd.sock"
OFFER = f'[offer]\ndocker = true\n[docker]\nsocket = "{SOCKET}"\ndeadline = 1\n'
HUNG = f"""
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind({SOCKET!r})
listener.listen(100)
print("ready", flush=True)
sys.stdin.read()
listener.setblocking(False)
asked = 0
while True:
    try:
        listener.accept()
        asked += 1
    except BlockingIOError:
        break
print(asked, file=sys.stderr)
"""
"""A dockerd that answers nobody; at its end it says how often it was asked."""

HAS_DOCKER = "echo 5ca1ab1e > /run/hpcnet/jobs/17/docker"
OLDER = f'sed -i \'s/"boot_id": "[^"]*"/"boot_id": "older"/\' {JOURNAL}; {HAS_DOCKER}'


@pytest.fixture
def offering(hosts: list[Host]) -> Iterator[Host]:
    """n1 of a site that offers Docker, with a job's network; nobody has dockerd's socket."""
    built(hosts[:1], ENVIRONMENT)
    hosts[0].configure(OFFER)
    yield hosts[0]
    hosts[0].run("rm", "-f", SOCKET)


@pytest.mark.parametrize("dockerd", ["dead", "hung"])
@pytest.mark.parametrize("job", ["without", "with"])
def test_everything_else_is_removed(
    offering: Host, pristine: list[dict[str, str]], dockerd: str, job: str
) -> None:
    listener = offering.start_python(HUNG) if dockerd == "hung" else None
    if listener:
        assert listener.stdout and listener.stdout.readline() == "ready\n"
    if job == "with":
        offering.run("sh", "-c", HAS_DOCKER)
    report = cleanup(offering, code=1)
    if listener:
        code, asked = ended(listener)
        assert code == 0 and int(asked) == (2 if job == "with" else 1)
    why = f"dockerd did not answer on {SOCKET} within 1 s" if listener else f"dockerd does not answer on {SOCKET}"
    assert report["docker_problem"].startswith(why) and report["filter_problem"] is None
    network = only(report)
    if job == "with":
        [complaint] = network["complaints"]
        assert network["done"] == "failed"
        assert complaint.startswith(f"Docker network hpcnet-17: {why}")
    else:
        assert (network["done"], network["complaints"]) == ("removed", [])
    assert offering.state() == pristine[0]


def test_a_person_reads_which_of_the_two_was_not_asked(offering: Host) -> None:
    said = offering.hpcnet("cleanup", "--min-age", "0").stdout.splitlines()
    assert said[-1].startswith(f"Docker: dockerd does not answer on {SOCKET}: No such file or directory")
    assert not [line for line in said if line.startswith("packet filter")]
    offering.run("mount", "--bind", "/bin/false", "/usr/sbin/nft")
    try:
        said = offering.hpcnet("cleanup", "--min-age", "0").stdout.splitlines()
    finally:
        offering.run("umount", "/usr/sbin/nft")
    assert [line.partition(": ")[0] for line in said] == ["packet filter", "Docker"]


def test_at_boot_nobody_is_asked(offering: Host, slurmctld: Slurmctld, pristine: list[dict[str, str]]) -> None:
    """dockerd may be about to start, and slurmd waits for this."""
    slurmctld.silent()
    offering.run("sh", "-c", f"ip netns del hpcnet-17; nft flush set inet hpcnet vtep; {OLDER}")
    listener = offering.start_python(HUNG)
    assert listener.stdout and listener.stdout.readline() == "ready\n"
    report = cleanup(offering, "--boot")
    assert ended(listener) == (0, "0\n")
    assert only(report)["done"] == "removed" and report["docker_problem"] is None
    assert offering.state() == pristine[0]
