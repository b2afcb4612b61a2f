# SPDX-License-Identifier: Apache-2.0
"""Rates out of counters: the only place where one is taken from the other.

    rates = node_rates(older, newer)            # two samples of one job on one node
    rates[interface.key].rx_bytes               # bytes per second, or None

Unknown stays unknown. A counter that went down means that the device is another one of the same name: a gap, all
of its rates are None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter

from hpcnet.counters.model import ENDPOINTS, Counters, NodeSample


@dataclass(frozen=True)
class Rates:
    """Per second, by the names of Counters. None: not known, or a gap."""

    rx_bytes: float | None = None
    tx_bytes: float | None = None
    rx_packets: float | None = None
    tx_packets: float | None = None
    rx_errors: float | None = None
    tx_errors: float | None = None
    rx_dropped: float | None = None
    tx_dropped: float | None = None


UNKNOWN = Rates()

# As dataclasses.astuple, which copies deeply: 50 times as long, and a large cluster has 10,000 samples a second.
_values = attrgetter(*(each.name for each in fields(Rates)))


def rates(older: Counters, newer: Counters, seconds: float) -> Rates:
    """What happened per second between two readings of one interface."""
    pairs = list(zip(_values(older), _values(newer)))
    known = [(before, now) for before, now in pairs if before is not None and now is not None]
    if seconds <= 0 or any(now < before for before, now in known):
        return UNKNOWN
    return Rates(*(None if None in pair else (pair[1] - pair[0]) / seconds for pair in pairs))


def seconds_between(older: NodeSample, newer: NodeSample) -> float:
    """By the clock that nobody sets, where both have it. Not positive: the node was booted, or its time set."""
    if older.clock is not None and newer.clock is not None:
        return newer.clock - older.clock
    return newer.time - older.time


def node_rates(older: NodeSample, newer: NodeSample) -> dict[tuple[str, str, str], Rates]:
    """Rates of each interface of the newer sample by its key; UNKNOWN for one that the older does not have."""
    seconds = seconds_between(older, newer)
    before = {interface.key: interface.counters for interface in older.interfaces}
    return {
        interface.key: rates(before[interface.key], interface.counters, seconds)
        if interface.key in before
        else UNKNOWN
        for interface in newer.interfaces
    }


def total(parts: Iterable[Rates]) -> Rates:
    """The sum; of no parts, and where one part is not known, nothing is known."""
    columns = list(zip(*map(_values, parts)))
    return Rates(*(None if None in column else sum(column) for column in columns)) if columns else UNKNOWN


def moved(found: dict[tuple[str, str, str], Rates]) -> Rates:
    """A job's rates on a node out of ``node_rates``: its endpoints', without what carries them."""
    return total(each for (kind, _, _), each in found.items() if kind in ENDPOINTS)


def counted(sample: NodeSample) -> Counters:
    """What a job has moved on a node since its interfaces there were made; as ``total``."""
    parts = [_values(each.counters) for each in sample.interfaces if each.kind in ENDPOINTS]
    return Counters(*(None if None in column else sum(column) for column in zip(*parts)))
