# SPDX-License-Identifier: Apache-2.0
"""Neighbour tables out of netlink messages, and how often they are read; tests/kernel has the kernel's own."""

from __future__ import annotations

import socket
from typing import Any, cast

from hpcnet.counters.model import LISTED_NEIGHBOURS, Neighbour, Neighbours
from hpcnet.counters.neighbours import Tables, read
from hpcnet.kernel import rtnl
from hpcnet.kernel.links import Link
from hpcnet.kernel.statistics import Device

MAC = bytes.fromhex("02420a800001")


def entry(address: str, state: int, mac: bytes = MAC, index: int = 2) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    attributes = rtnl.attribute(rtnl.NDA_DST, socket.inet_pton(family, address))
    if mac:
        attributes += rtnl.attribute(rtnl.NDA_LLADDR, mac)
    return rtnl.neighbour_header(family, index, state) + attributes


class Kernel:
    """In the place of a netlink socket; counts how often it was asked."""

    def __init__(self, *entries: bytes) -> None:
        self.entries, self.asked = entries, 0

    def dump(self, packed: bytes) -> list[tuple[int, bytes]]:
        self.asked += 1
        return [(rtnl.RTM_NEWNEIGH, each) for each in self.entries]


def socket_of(kernel: Kernel) -> rtnl.Rtnl:
    return cast(rtnl.Rtnl, kernel)


def device(alias: str) -> Device:
    return Device(Link(2, "hpc0", "", 0, 0, 0, alias, 0, MAC, {}, 1), {}, (), None)


def test_each_state_is_counted_and_what_wants_a_look_is_listed_first() -> None:
    kernel = Kernel(
        entry("10.0.0.9", 0x02),
        entry("10.0.0.8", 0x20, b""),
        entry("fd00::1", 0x01, b""),
        entry("10.0.0.10", 0x80),
        entry("10.0.0.7", 0x04, index=3),
        entry("ff02::1", 0x40),
        entry("10.0.0.6", 0x00),
    )
    listed = (
        Neighbour("10.0.0.8", "", "failed"),
        Neighbour("fd00::1", "", "incomplete"),
        Neighbour("10.0.0.9", "02:42:0a:80:00:01", "reachable"),
    )
    assert read(socket_of(kernel)) == {
        2: Neighbours(failed=1, incomplete=1, reachable=1, permanent=1, listed=listed),
        3: Neighbours(stale=1, listed=(Neighbour("10.0.0.7", "02:42:0a:80:00:01", "stale"),)),
    }


def test_of_many_only_the_first_are_listed() -> None:
    entries = [entry(f"10.0.0.{last}", 0x20) for last in range(200, 100, -1)]
    found = read(socket_of(Kernel(*entries)))[2]
    assert found.failed == 100
    assert [each.address for each in found.listed] == [f"10.0.0.{101 + n}" for n in range(LISTED_NEIGHBOURS)]


def test_a_reading_holds_for_a_hundred_times_as_long_as_it_took() -> None:
    now, cpu = 1000.0, iter(range(100))
    kernel = Kernel(entry("10.0.0.9", 0x02))
    tables = Tables(clock=lambda: now, spent=lambda: next(cpu) * 0.5)

    def ask(*aliases: str) -> Any:
        return tables.of(socket_of(kernel), [*map(device, aliases)])

    first = ask("hpcnet:c:17:1")
    assert first["hpc0"].reachable == 1
    now += 49
    kernel.entries = ()
    assert ask("hpcnet:c:17:1") == first
    assert kernel.asked == 1
    assert ask("hpcnet:c:18:1") == {"hpc0": Neighbours()}, "another job's are not this one's"
    now += 2
    assert ask("hpcnet:c:17:1") == {"hpc0": Neighbours()}
    assert kernel.asked == 3
