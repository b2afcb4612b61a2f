# SPDX-License-Identifier: Apache-2.0
"""Every network namespace of a node is found: by its processes, by its pin, and once."""

from __future__ import annotations

import json

import pytest

from tests.kernel.hosts import Host, require_root

require_root()
pytestmark = pytest.mark.kernel

_EVERYWHERE = """
import json, os
from hpcnet.kernel import netns
before = len(os.listdir("/proc/self/fd"))
found = [os.fstat(file).st_ino for file in netns.everywhere()]
print(json.dumps({"found": found, "leaked": len(os.listdir("/proc/self/fd")) - before}))
"""
_LINKS = """
import json, socket
from hpcnet.kernel import netns
found = []
for file in netns.everywhere():
    with netns.inside_fd(file):
        found += [name for _, name in socket.if_nameindex()]
print(json.dumps([found, [name for _, name in socket.if_nameindex()]]))
"""


def inode(host: Host, path: str) -> int:
    return int(host.run("stat", "-Lc", "%i", path).stdout)


def test_pinned_and_inhabited_namespaces_are_found_once(hosts: list[Host]) -> None:
    host = hosts[0]
    host.run("sh", "-c", "ip netns add pinned; ip netns add both; mkdir '/run/a b'; touch '/run/a b/pin'")
    inside = host.start("ip", "netns", "exec", "both", "sh", "-c", "echo ready; read word")
    unpinned = host.start("unshare", "--net", "sh", "-c", "echo ready; read word")
    for process in (inside, unpinned):
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    blank = host.run("sh", "-c", "unshare --net='/run/a b/pin' true; stat -Lc %i '/run/a b/pin'").stdout
    wanted = {inode(host, f"/run/netns/{name}") for name in ("pinned", "both")} | {int(blank)}
    wanted.add(inode(host, f"/proc/{unpinned.pid}/ns/net"))
    answer = json.loads(host.python(_EVERYWHERE))
    for process in (inside, unpinned):
        process.communicate("go on\\n", timeout=60)
    host.run("sh", "-c", "umount '/run/a b/pin'; rm -r '/run/a b'; ip netns del pinned; ip netns del both")
    assert wanted <= set(answer["found"])
    assert len(set(answer["found"])) == len(answer["found"])
    assert inode(host, "/proc/self/ns/net") not in answer["found"]
    assert answer["leaked"] == 0


def test_what_is_mounted_over_a_pin_or_is_no_network_is_passed_over(hosts: list[Host]) -> None:
    host = hosts[0]
    host.run("sh", "-c", "ip netns add hidden; mkfifo /run/fifo; mount --bind /run/fifo /run/netns/hidden")
    host.run("sh", "-c", "touch /run/uts; unshare --uts=/run/uts true")
    uts = inode(host, "/run/uts")
    answer = json.loads(host.python(_EVERYWHERE))
    host.run("sh", "-c", "umount /run/netns/hidden; ip netns del hidden; umount /run/uts; rm /run/uts /run/fifo")
    assert uts not in answer["found"]
    assert answer["leaked"] == 0


def test_one_enters_each_and_comes_back(hosts: list[Host]) -> None:
    host = hosts[0]
    host.run("sh", "-c", "ip netns add other; ip -n other link add mark7 type bridge")
    theirs, own = json.loads(host.python(_LINKS))
    host.run("ip", "netns", "del", "other")
    assert "mark7" in theirs
    assert "ib0" in own and "mark7" not in own
