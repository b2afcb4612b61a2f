# SPDX-License-Identifier: Apache-2.0
"""The encoder's socket when the kernel's tables change under it."""

from __future__ import annotations

import pytest

from tests.kernel.hosts import Host, require_root

require_root()
pytestmark = pytest.mark.kernel

# 60 pairs: more than one answer of a dump holds, so that a change falls between two of them
SCRIPT = """
import errno, subprocess, sys
from hpcnet.kernel import links, rtnl

def each(command):
    lines = "".join(command.format(n) + "\\n" for n in range(60))
    subprocess.run(["ip", "-force", "-batch", "-"], input=lines, text=True, stderr=subprocess.DEVNULL)

each("link add x{0} type veth peer y{0}")

class Disturbed(rtnl.Rtnl):
    times, dumps = int(sys.argv[1]), 0
    def _answers(self):
        self.dumps += 1
        for count, answer in enumerate(super()._answers()):
            if count == 0 and self.dumps <= self.times:
                subprocess.run(["ip", "link", "del", f"x{self.dumps}"], check=True)
            yield answer

with Disturbed() as netlink:
    try:
        found = {link.name for link in links.every(netlink)}
    except rtnl.RtnlError as error:
        print(netlink.dumps, errno.errorcode[error.errno])
    else:
        print(netlink.dumps, len(found), "x1" in found)
each("link del x{0}")
"""


def reading(host: Host, times: int) -> str:
    """What a dump of all links comes to when it is disturbed so many times."""
    return host.python(SCRIPT, str(times)).strip()


def test_a_dump_that_nothing_disturbs_is_asked_once(hosts: list[Host]) -> None:
    assert reading(hosts[2], 0) == "1 122 True"


def test_a_dump_that_a_change_interrupted_is_asked_again(hosts: list[Host]) -> None:
    assert reading(hosts[2], 1) == "2 120 False"


def test_a_dump_that_is_always_interrupted_ends_with_an_error(hosts: list[Host]) -> None:
    assert reading(hosts[2], 1000) == "20 EAGAIN"
