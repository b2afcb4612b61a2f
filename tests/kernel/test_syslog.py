# SPDX-License-Identifier: Apache-2.0
"""What a real hook sends to /dev/log, on a node with a /dev of its own: one datagram, its severity by blame."""

from __future__ import annotations

import re
import sys

import pytest

from tests.kernel.hosts import Host, job_environment, lease_of, require_root

require_root()
pytestmark = pytest.mark.kernel

LEASED = job_environment(lease_of(), "n[1-2]")
ASKED = job_environment(None, "n[1-2]")
HOOKS = '[hooks]\nlog = "syslog"\n'

_DAEMON = """
import socket, subprocess, sys
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.bind("/dev/log")
if sys.argv[1] == "hangs":
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.setblocking(False)
    other.connect("/dev/log")
    try:
        while True:
            other.send(b"theirs")
    except BlockingIOError:
        pass
code = subprocess.run(sys.argv[2:]).returncode
daemon.setblocking(False)
try:
    while True:
        print(daemon.recv(1 << 16).decode())
except BlockingIOError:
    sys.exit(code)
"""
"""Has /dev/log, runs the hook, prints each datagram. A daemon that hangs has a full queue."""

_OWN_DEV = """
mkdir -p /run/dev/upper /run/dev/work
mount -t overlay overlay -o lowerdir=/dev,upperdir=/run/dev/upper,workdir=/run/dev/work /dev
exec "$@"
"""


def said(host: Host, hook: str, environment: dict[str, str], code: int = 0, daemon: str = "listens") -> list[str]:
    """The datagrams that a hook sent."""
    own_dev = ("unshare", "--mount", "sh", "-ec", _OWN_DEV, "sh")
    done = host.hook(hook, environment, under=(*own_dev, sys.executable, "-I", "-c", _DAEMON, daemon))
    host.run("rm", "-r", "/run/dev")
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, "the same on stderr"
    return done.stdout.splitlines()


SEVERITIES = {
    "done": ("prolog", LEASED, HOOKS, 0, 6, "built"),
    "refused": ("prolog", ASKED, HOOKS, 0, 4, "refused: the controller gave it no lease"),
    "failed": ("prolog", LEASED, f'[fabric]\nuplink = "ib7"\n{HOOKS}', 1, 3, "uplink ib7 does not exist"),
    "nothing to do": ("epilog", LEASED, HOOKS, 0, 6, "removed"),
    "a broken toml": ("epilog", LEASED, "fabric = [", 0, 4, "removed"),
}


@pytest.mark.parametrize("what", SEVERITIES)
def test_one_datagram_with_a_severity_that_follows_blame(hosts: list[Host], what: str) -> None:
    hook, environment, toml, code, severity, words = SEVERITIES[what]
    hosts[0].write("/etc/hpcnet/hpcnet.toml", toml)
    [line] = said(hosts[0], hook, environment, code)
    head = rf"<{24 + severity}>\w{{3}} [ \d]\d [\d:]{{8}} hpcnet\[\d+\]: {hook}: job 17: "
    assert re.match(head + re.escape(words), line), line
    assert re.search(rf"; serial \w+, done in \d+ ms, exit {code}$", line), line


def test_a_daemon_that_hangs_costs_two_seconds_and_nothing_else(hosts: list[Host]) -> None:
    hosts[0].write("/etc/hpcnet/hpcnet.toml", HOOKS)
    assert set(said(hosts[0], "prolog", LEASED, daemon="hangs")) == {"theirs"}
