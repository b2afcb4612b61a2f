# SPDX-License-Identifier: Apache-2.0
"""Rates out of counters: the only place where one is taken from the other.

    rates = node_rates(older, newer)            # two samples of one job on one node
    rates[interface.key].rx_bytes               # bytes per second, or None

Unknown stays unknown. A counter that went down means that the device is another one of the same name: a gap, all
of its rates are None.

A large cluster has 10,000 samples a second, so the usual case, all known and one endpoint on the node, has a short
way here.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import sub
from typing import NamedTuple

from hpcnet.counters.model import ENDPOINTS, Counters, Interface, NodeSample


class Rates(NamedTuple):
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

_SHORTEST = 0.001
"""Seconds between two samples that say anything."""


def rates(older: Counters, newer: Counters, seconds: float) -> Rates:
    """What happened per second between two readings of one interface."""
    if seconds < _SHORTEST:
        return UNKNOWN
    if None in older or None in newer:
        changes = [None if was is None or now is None else now - was for was, now in zip(older, newer)]
        if any(change is not None and change < 0 for change in changes):
            return UNKNOWN
        return Rates(*(None if change is None else change / seconds for change in changes))
    grown = list(map(sub, newer, older))
    return UNKNOWN if min(grown) < 0 else Rates(*[change / seconds for change in grown])


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
    columns = list(zip(*parts))
    return Rates(*(None if None in column else sum(column) for column in columns)) if columns else UNKNOWN


def endpoints(sample: NodeSample) -> list[Interface]:
    """Those whose counters make up what the job moves on the node, without what carries them."""
    return [each for each in sample.interfaces if each.kind in ENDPOINTS]


def moved(older: NodeSample, newer: NodeSample) -> Rates:
    """A job's rates on a node between two samples."""
    seconds, was, now = seconds_between(older, newer), endpoints(older), endpoints(newer)
    if len(was) == len(now) == 1 and was[0].key == now[0].key:
        return rates(was[0].counters, now[0].counters, seconds)
    before = {each.key: each.counters for each in was}
    return total(
        rates(before[each.key], each.counters, seconds) if each.key in before else UNKNOWN for each in now
    )


def counted(sample: NodeSample) -> Counters:
    """What a job has moved on a node since its interfaces there were made; as ``total``."""
    parts = [each.counters for each in endpoints(sample)]
    if len(parts) == 1:
        return parts[0]
    return Counters(*(None if None in column else sum(column) for column in zip(*parts)))
