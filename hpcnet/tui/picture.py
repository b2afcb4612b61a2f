# SPDX-License-Identifier: Apache-2.0
"""What the screens show of one moment: jobs, nodes and folds of nodes, out of a Board. Pure; no widget, no clock.

All rates are per second and all counts since the interfaces were made, as hpcnet.counters has them. None is "not
known"; a sum over nodes of which some are not known says so by ``partial``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, Optional

from hpcnet import nodelist
from hpcnet.counters.model import CONTAINER, PORT, TASKS, Counters, JobInfo, NodeSample
from hpcnet.counters.rates import UNKNOWN, Rates, counted, moved, node_rates
from hpcnet.counters.troubles import ERROR, Trouble
from hpcnet.frozen import frozen

KEEP = 240
"""Points of a history."""

Point = tuple[Optional[float], Optional[float], Optional[float], Optional[float], float]
"""rx bytes, tx bytes, rx packets, tx packets, per second; and when that was, Unix seconds."""

Track = deque[Point]
"""The newest KEEP points, oldest first."""


def track() -> Track:
    """An empty history."""
    return deque(maxlen=KEEP)


def times(history: Iterable[Point]) -> list[float]:
    """Of its points, Unix seconds."""
    return [each[4] for each in history]


NOTHING_COUNTED = Counters()


def point(rates: Rates, now: float) -> Point:
    """What a history keeps of rates."""
    return rates.rx_bytes, rates.tx_bytes, rates.rx_packets, rates.tx_packets, now


def bad(of: Rates | Counters) -> float | None:
    """Errors and drops together; None when one of them is not known."""
    parts = of[4:]
    return None if None in parts else sum(part for part in parts if part is not None)


class NodeView(NamedTuple):
    """One node of a job."""

    node: str
    sample: NodeSample | None
    """The last one; None before the first."""
    rates: Rates
    counted: Counters
    older: NodeSample | None
    """The one before."""
    silent_since: float | None
    """Unix seconds of the viewer's clock; None: it speaks."""
    speed: int | None
    """Bit/s of its link."""
    history: tuple[Point, ...] = ()
    """Oldest first."""
    troubles: tuple[Trouble, ...] = ()
    """By what it said last."""

    @property
    def by_interface(self) -> dict[tuple[str, str, str], Rates]:
        """Rates of each interface; empty before the second sample."""
        return node_rates(self.older, self.sample) if self.older and self.sample else {}

    @property
    def load(self) -> float | None:
        """Share of the link that the busier direction takes, from 0 to 1."""
        return _share(self.rates, self.speed)

    @property
    def pace(self) -> float | None:
        """Bytes per second, both ways."""
        rx, tx = self.rates.rx_bytes, self.rates.tx_bytes
        return None if rx is None or tx is None else rx + tx

    @property
    def address(self) -> str:
        """Of the tasks' interface, the first one; empty when not known."""
        for each in self.sample.interfaces if self.sample else ():
            if each.kind == TASKS and each.addresses:
                return each.addresses[0]
        return ""


def _share(rates: Rates, speed: float | None) -> float | None:
    if rates.rx_bytes is None or rates.tx_bytes is None or not speed:
        return None
    return max(rates.rx_bytes, rates.tx_bytes) * 8 / speed


def link_speed(sample: NodeSample | None) -> int | None:
    """Bit/s of the link below a job on a node, as its interfaces tell; its tasks' interface first."""
    found = sample.interfaces if sample else ()
    if found and found[0].kind == TASKS and found[0].speed:
        return found[0].speed  # the usual case
    speeds = {each.kind: each.speed for each in found if each.speed}
    return next((speeds[kind] for kind in (TASKS, CONTAINER, PORT) if kind in speeds), None)


def node_view(
    node: str,
    older: NodeSample | None,
    sample: NodeSample | None,
    silent_since: float | None,
    history: Sequence[Point] = (),
    troubles: tuple[Trouble, ...] = (),
) -> NodeView:
    """A node out of what the board has of it; the rates of a silent one are not known."""
    return NodeView(
        node=node,
        sample=sample,
        rates=UNKNOWN if silent_since is not None or not (older and sample) else moved(older, sample),
        counted=counted(sample) if sample else NOTHING_COUNTED,
        older=older,
        silent_since=silent_since,
        speed=link_speed(sample),
        history=tuple(history),
        troubles=troubles,
    )


@frozen
class Sum:
    """Of a field over nodes: what is known of it."""

    rates: Rates = UNKNOWN
    counted: Counters = NOTHING_COUNTED
    partial: bool = False
    """Whether some node's rates are not in it."""
    uncounted: bool = False
    """Whether something that some node has counted is not in it."""
    speed: int | None = None
    """Bit/s of the links of the nodes whose rates are in it, together."""
    links: int | None = None
    """Bit/s of the links of all nodes that were ever heard, together: what a history is drawn against, which must
    not grow when they fall silent."""

    @property
    def load(self) -> float | None:
        """Share of these links that the busier direction takes, from 0 to 1."""
        return _share(self.rates, self.speed)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rates": self.rates._asdict(),
            "counted": self.counted._asdict(),
            "partial": self.partial,
            "uncounted": self.uncounted,
            "speed": self.speed,
        }


def add_up(nodes: Sequence[NodeView]) -> Sum:
    """The sum of the nodes that speak; the speed of links only where all of them know it."""
    known = [each for each in nodes if each.rates.rx_bytes is not None]
    heard = [each for each in nodes if each.sample]
    return Sum(
        rates=Rates(*_columns([each.rates for each in known])),
        counted=Counters(*_columns([each.counted for each in heard])),
        partial=len(known) < len(nodes),
        uncounted=len(heard) < len(nodes) or any(None in each.counted for each in heard),
        speed=_together(known),
        links=_together(heard),
    )


def _together(nodes: Sequence[NodeView]) -> int | None:
    speeds = [each.speed for each in nodes]
    return None if not speeds or None in speeds else sum(speed for speed in speeds if speed)


def _columns(parts: Sequence[Rates | Counters]) -> Iterator[Any]:
    """The sums of what is known, field by field; None where nothing is."""
    for column in zip(*parts):
        known = column if None not in column else [value for value in column if value is not None]
        yield sum(known) if known else None


@frozen
class JobView:
    """One job of the Jobs screen."""

    info: JobInfo
    sum: Sum
    history: tuple[Point, ...]
    silent: Mapping[str, float]
    """Nodes that say nothing, and since when, Unix seconds of the viewer's clock."""
    nodes: int
    problem: str = ""
    troubles: tuple[tuple[str, Trouble], ...] = ()
    """Each with its node."""

    @property
    def broken(self) -> bool:
        """Whether traffic stands still somewhere, or cannot be told."""
        return bool(self.problem) or any(each.grade == ERROR for _, each in self.troubles)

    @property
    def network(self) -> str:
        """What separates it: ``vxlan 6815744``, ``direct 0x8001``."""
        info = self.info
        number = info.pkey if info.mode == "direct" else "" if info.vni is None else str(info.vni)
        return f"{info.mode} {number}".strip()


@frozen
class Spread:
    """How the nodes of a job compare."""

    rates: Rates = UNKNOWN
    """The median of each."""
    counted: Counters = NOTHING_COUNTED
    """The median of each."""
    slowest: NodeView | None = None
    """Which moves least; None when nothing moves or nothing is known."""


def spread(nodes: Iterable[NodeView]) -> Spread:
    """The median node and the slowest one, of those of which it is known."""
    members = list(nodes)
    known = [each for each in members if each.pace is not None]
    slowest = min(known, key=lambda each: each.pace or 0.0, default=None)
    return Spread(
        rates=Rates(*map(middle, zip(*(each.rates for each in members)))),
        counted=Counters(*map(middle, zip(*(each.counted for each in members)))),
        slowest=slowest if any(each.pace for each in known) else None,
    )


def middle(values: Iterable[float | None]) -> Any:
    """The median of those that are known; None when none is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


SILENT, WAITING, IDLE, SLOW, USUAL, FAST = "silent", "waiting", "idle", "slow", "usual", "fast"


@frozen
class Fold:
    """Nodes that are alike."""

    kind: str
    """silent; waiting: no rate yet; idle: moves nothing; slow: under half of the median; fast: over twice the
    median; usual: the rest."""
    nodes: tuple[NodeView, ...]

    @property
    def hostlist(self) -> str:
        """Such as ``n[1-128]``."""
        return nodelist.fold(each.node for each in self.nodes)


def kind_of(node: NodeView, usual: float) -> str:
    """The kind of fold that the node belongs to; ``usual`` is the median of bytes per second, both ways."""
    if node.silent_since is not None:
        return SILENT
    if node.pace is None:
        return WAITING
    if not node.pace:
        return IDLE
    return SLOW if node.pace < usual / 2 else FAST if node.pace > usual * 2 else USUAL


def fold(nodes: Sequence[NodeView]) -> list[Fold]:
    """Nodes by kind, what wants a look first; each in the order of the job's nodes."""
    paces = [each.pace for each in nodes if each.pace]
    usual = median(paces) if paces else 0.0
    kinds: dict[str, list[NodeView]] = {}
    for each in nodes:
        kinds.setdefault(kind_of(each, usual), []).append(each)
    return [Fold(kind, tuple(kinds[kind])) for kind in (SILENT, SLOW, FAST, USUAL, IDLE, WAITING) if kind in kinds]
