# SPDX-License-Identifier: Apache-2.0
"""egress=host: only answers come in, and an answer to one job is none to the next that has its address."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Host, built, ended, job_environment, removed, require_root
from tests.kernel.test_egress import NODE, SERVER, environment, out, server

require_root()
pytestmark = pytest.mark.kernel

__all__ = ["server"]

# argv: "asks" port peer, or "waits" port. Says each datagram that came from outside, with its sender's port.
DATAGRAMS = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[2])))
for peer in sys.argv[3:]:
    s.sendto(b"question", (peer, 7000))
print("ready", flush=True)
while True:
    print(*s.recvfrom(99), flush=True)
"""
# argv: address. An unprivileged program that goes on talking with whoever has talked to it.
TALKS = """
import os, socket, sys, time
os.setuid(65534)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7000))
print("ready", flush=True)
peer = s.recvfrom(99)[1]
while True:
    try:
        s.sendto(b"answer", peer)
    except OSError:  # while no job has the address
        pass
    time.sleep(0.05)
"""
ENDS = {
    "by its Epilog": "",
    "without one": "nft delete table inet hpcnet_egress; ip netns del hpcnet-17; ip link del hpce17; "
    "rm -r /run/hpcnet/jobs/17; nft flush set inet hpcnet vtep",
}


def heard_nothing(task: subprocess.Popen[str], ready: str = "ready\n") -> bool:
    """Whether a task with DATAGRAMS hears nothing in half a second, in which a talker says ten things."""
    assert task.stdout and (not ready or task.stdout.readline() == ready)
    time.sleep(0.5)
    task.kill()
    return task.communicate()[0] == ""


@pytest.fixture
def talkers(hosts: list[Host], server: Host) -> Iterator[None]:
    """On the node and on the server."""
    made = [host.start("python3", "-c", TALKS, own) for host, own in ((hosts[0], NODE), (server, SERVER))]
    for process in made:
        assert process.stdout and process.stdout.readline() == "ready\n"
    yield
    for process in made:
        process.kill()
        ended(process)


@pytest.mark.usefixtures("talkers")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ENDS)
def test_who_talked_with_a_job_does_not_reach_the_next_one_that_has_its_address(
    hosts: list[Host], how: str
) -> None:
    built(hosts[:1], environment())
    task = hosts[0].start_in_job(17, "python3", "-c", DATAGRAMS, "asks", "5000", NODE, SERVER)
    assert task.stdout and task.stdout.readline() == "ready\n"
    heard: set[str] = set()
    while len(heard) < 2:
        heard.add(task.stdout.readline())
    task.kill()
    ended(task)
    if ENDS[how]:
        hosts[0].run("sh", "-c", ENDS[how])
    else:
        removed(hosts[:1], environment())
    built(hosts[:1], job_environment(out(serial=900), "n1", 18))
    task = hosts[0].start_in_job(18, "python3", "-c", DATAGRAMS, "waits", "5000")
    assert heard_nothing(task)


@pytest.mark.timeout(60)
def test_a_connection_from_outside_stays_out_also_if_it_is_older_than_the_rules(
    hosts: list[Host], server: Host
) -> None:
    """Begun while somebody had flushed the rules that forbid it, it is known to the kernel when they are back."""
    built(hosts[:1], environment())
    task = hosts[0].start_in_job(17, "python3", "-c", DATAGRAMS, "asks", "5000", SERVER)
    assert task.stdout and task.stdout.readline() == "ready\n"
    server.run("ip", "route", "add", "10.128.0.0/10", "via", NODE)
    talk = "import socket, sys; s = socket.socket(2, 2); s.bind(('', 7001)); s.sendto(b'x', ('10.128.0.1', 5000))"
    hosts[0].run("sh", "-c", "for c in forward output; do nft flush chain inet hpcnet_egress $c; done")
    for source in (server, hosts[0]):
        source.run("python3", "-c", talk)
        assert "7001" in task.stdout.readline()
    answer = f"import socket; s = socket.socket(2, 2); s.bind(('', 5000)); s.sendto(b'x', ('{SERVER}', 7001))"
    task.kill()
    ended(task)
    hosts[0].in_job(17, "python3", "-c", answer)  # now it is established
    hosts[0].hpcnet("filter", "load")
    task = hosts[0].start_in_job(17, "python3", "-c", DATAGRAMS, "waits", "5000")
    assert task.stdout and task.stdout.readline() == "ready\n"
    for source in (server, hosts[0]):
        source.run("python3", "-c", talk, check=False)
    assert heard_nothing(task, "")
