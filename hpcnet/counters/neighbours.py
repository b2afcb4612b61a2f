# SPDX-License-Identifier: Apache-2.0
"""Whom interfaces know: the kernel's neighbour tables (ARP, NDP), read without privilege.

tables = Tables()                             # one for as long as one samples
tables.of(netlink, devices)["hpc0"]           # Neighbours

A job of 10,000 nodes has 20,000 entries in its table, so it is not read for every sample.
Source: Linux include/uapi/linux/neighbour.h; ip-neighbour(8), which shows the same entries.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Callable

from hpcnet.counters.model import LISTED_NEIGHBOURS, NEIGHBOUR_STATES, Neighbour, Neighbours
from hpcnet.kernel import rtnl
from hpcnet.kernel.statistics import Device

_HEADER = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, interface, state, flags, type
_BITS = {"incomplete": 0x01, "reachable": 0x02, "stale": 0x04, "delay": 0x08, "probe": 0x10, "failed": 0x20}
_STATES = {**{bit: state for state, bit in _BITS.items()}, rtnl.NUD_PERMANENT: "permanent"}
_FACTOR = 100  # a reading is repeated after so many times the CPU time that it took: one percent of a core at most

Found = dict[int, Neighbours]
"""By interface index; one without an entry is not in it."""


class Tables:
    """What was read last, for as long as it holds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, spent: Callable[[], float] = time.thread_time
    ) -> None:
        """``spent``: CPU seconds of the calling thread."""
        self._clock, self._spent = clock, spent
        self._last: dict[object, tuple[float, Found]] = {}

    def of(self, netlink: rtnl.Rtnl, devices: Sequence[Device]) -> dict[str, Neighbours]:
        """Those of these interfaces, by name. They are in the socket's namespace, and tell it from others."""
        now = self._clock()
        self._last = {key: held for key, held in self._last.items() if held[0] > now}
        key = tuple((each.link.index, each.link.alias, each.link.address) for each in devices)
        if key not in self._last:
            before = self._spent()
            found = read(netlink)
            self._last[key] = now + (self._spent() - before) * _FACTOR, found
        held = self._last[key][1]
        return {each.link.name: held.get(each.link.index, Neighbours()) for each in devices}


def read(netlink: rtnl.Rtnl) -> Found:
    """All tables of the socket's namespace. Entries that need no resolving (multicast, loopback) are none."""
    counts: dict[int, dict[str, int]] = {}
    dynamic: dict[int, list[tuple[str, int, bytes]]] = {}
    for kind, body in netlink.dump(rtnl.message(rtnl.RTM_GETNEIGH, rtnl.DUMP, rtnl.neighbour_header(0, 0, 0))):
        family, index, bits, _, _ = _HEADER.unpack_from(body)
        state = _STATES.get(bits)
        if kind != rtnl.RTM_NEWNEIGH or state is None or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        of_state = counts.setdefault(index, {})
        of_state[state] = of_state.get(state, 0) + 1
        if state != "permanent":
            dynamic.setdefault(index, []).append((state, family, body))
    return {index: Neighbours(listed=_listed(dynamic.get(index, ())), **each) for index, each in counts.items()}


def _listed(entries: Iterable[tuple[str, int, bytes]]) -> tuple[Neighbour, ...]:
    found = []
    for state, family, body in entries:
        attributes = rtnl.attributes(body, _HEADER.size)
        address, mac = attributes.get(rtnl.NDA_DST, b""), attributes.get(rtnl.NDA_LLADDR, b"")
        found.append((NEIGHBOUR_STATES.index(state), family, address, mac))
    return tuple(
        Neighbour(socket.inet_ntop(family, address), mac.hex(":"), NEIGHBOUR_STATES[rank])
        for rank, family, address, mac in sorted(found)[:LISTED_NEIGHBOURS]
    )
