# SPDX-License-Identifier: Apache-2.0
"""Jobs, nodes and interfaces as rows of a table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Callable

from hpcnet.counters.model import Counters, Interface
from hpcnet.counters.rates import Rates
from hpcnet.counters.troubles import ERROR
from hpcnet.tui import figures
from hpcnet.tui.draw import peak, spark
from hpcnet.tui.picture import IDLE, SILENT, SLOW, WAITING, Fold, JobView, NodeView, Point, Sum, bad, middle
from hpcnet.tui.view import View
from hpcnet.tui.widgets.table.columns import Column
from hpcnet.tui.widgets.table.table import Row

STALE, PARTLY, TROUBLE = ("◌", "?"), ("◐", "~"), ("!", "!")
"""Marks in front of a row, each also in ASCII: nothing is heard; of some nodes nothing is heard; trouble."""


def _mark(mark: tuple[str, str], view: View) -> str:
    return mark[view.ascii]


def at_least(view: View, lacks: bool) -> str:
    """The sign in front of a sum that lacks something."""
    return (">" if view.ascii else "≥") if lacks else ""


def _numbers(view: View, rates: Rates, counted: Counters, lacks: bool = False) -> list[tuple[str, str]]:
    """Received and sent."""
    sign, cells = at_least(view, lacks), []
    for value, style in zip(view.values(rates, counted), ("rx", "tx")):
        text = figures.quantity(value)
        cells.append((text if value is None else sign + text, style if value else "muted"))
    return cells


def _load(share: float | None) -> tuple[str, str]:
    style = "muted" if not share else "warning" if share >= 0.9 else ""
    return figures.share(share), style


def _spark(view: View, history: Sequence[Point], speed: int | None, width: int) -> tuple[str, str]:
    """The busier direction, on the link's rate; without one, on the largest that is shown."""
    rx, tx = view.series(history[-width:] if width else ())
    both = [None if a is None or b is None else max(a, b) for a, b in zip(rx, tx)]
    ceiling = view.ceiling(speed) or peak(both)
    return spark(both, ceiling, width, view.ascii), "rx"


def _bad(rates: Rates, counted: Counters, sign: str = "") -> tuple[str, str]:
    count = bad(counted)
    text = figures.quantity(count)
    return text if count is None else sign + text, "bad" if any(rates[4:]) else "warning" if count else "muted"


def lacks(summed: Sum, view: View) -> bool:
    """Whether what the view shows of a sum lacks something."""
    return summed.uncounted if view.total else summed.partial


# -- jobs


def job_columns(view: View) -> list[Column]:
    """Of the Jobs screen."""
    return [
        Column("mark", " ", 1),
        Column("job", "JOB", 9),
        Column("user", "USER", 8, most=16, grow=1),
        Column("network", "NETWORK", 14, rank=5),
        Column("nodes", "NODES", 5, right=True),
        Column("rx", f"RX {view.unit}", 9, right=True),
        Column("tx", f"TX {view.unit}", 9, right=True),
        Column("link", "LINK", 5, right=True, rank=2),
        Column("history", "HISTORY", 8, grow=6, most=45, rank=1),
        Column("bad", "DROP+ERR", 8, right=True, rank=3),
        Column("age", "AGE", 6, right=True, rank=4),
    ]


JOB_ORDER: dict[str, Callable[[JobView], Any]] = {
    "rx": lambda job: job.sum.rates.rx_bytes,
    "tx": lambda job: job.sum.rates.tx_bytes,
    "link": lambda job: job.sum.load,
    "bad": lambda job: bad(job.sum.counted),
    "nodes": lambda job: job.nodes,
    "age": lambda job: None if job.info.started is None else -job.info.started,
    "job": lambda job: job.info.job_id,
    "user": lambda job: job.info.user,
    "network": lambda job: job.network,
}
"""What the Jobs screen can be sorted by; the first is the default, downwards."""


def job_row(job: JobView, view: View, width: int, now: float) -> Row:
    """One job; ``width`` is its sparkline's."""
    silent, stale = len(job.silent), bool(job.nodes) and len(job.silent) == job.nodes
    mark = TROUBLE if job.broken else STALE if stale else PARTLY if silent else ("", "")
    info = job.info
    return Row(
        (
            (_mark(mark, view), "bad" if job.broken else "warning"),
            (info.label, "strong"),
            (info.user or figures.UNKNOWN, ""),
            (job.network, "muted"),
            (str(job.nodes or figures.UNKNOWN), ""),
            *_numbers(view, job.sum.rates, job.sum.counted, lacks(job.sum, view)),
            _load(job.sum.load),
            _spark(view, job.history, job.sum.links, width),
            _bad(job.sum.rates, job.sum.counted, at_least(view, job.sum.uncounted)),
            (figures.duration(None if info.started is None else now - info.started), "muted"),
        ),
        stale=stale,
    )


# -- nodes of a job


def node_columns(view: View) -> list[Column]:
    """Of the Job screen."""
    return [
        Column("mark", " ", 1),
        Column("node", "NODE", 16, grow=3, most=48),
        Column("kind", "STATE", 7),
        Column("nodes", "N", 4, right=True, rank=4),
        Column("rx", f"RX {view.unit}", 9, right=True),
        Column("tx", f"TX {view.unit}", 9, right=True),
        Column("link", "LINK", 5, right=True, rank=2),
        Column("history", "HISTORY", 10, grow=3, most=40, rank=1),
        Column("bad", "DROP+ERR", 8, right=True, rank=3),
        Column("address", "ADDRESS", 18, rank=5),
    ]


NODE_ORDER: dict[str, Callable[[NodeView], Any]] = {
    "rx": lambda node: node.rates.rx_bytes,
    "tx": lambda node: node.rates.tx_bytes,
    "link": lambda node: node.load,
    "bad": lambda node: bad(node.counted),
}
"""What the Job screen can be sorted by, beside ``node``, the job's own order."""

_KIND_STYLES = {SILENT: "bad", SLOW: "warning", IDLE: "muted", WAITING: "muted"}


def node_row(node: NodeView, kind: str, view: View, width: int, now: float, indent: str = "") -> Row:
    """One node; ``width`` is its sparkline's."""
    stale = node.silent_since is not None
    broken = any(each.grade == ERROR for each in node.troubles)
    mark = STALE if stale else TROUBLE if broken else ("", "")
    state = figures.duration(now - (node.silent_since or now)) if stale else kind
    return Row(
        (
            (_mark(mark, view), "warning"),
            (indent + node.node, "strong"),
            (state, _KIND_STYLES.get(kind, "")),
            ("", ""),
            *_numbers(view, node.rates, node.counted),
            _load(node.load),
            _spark(view, node.history, node.speed, width),
            _bad(node.rates, node.counted),
            (node.address or figures.UNKNOWN, "muted"),
        ),
        stale=stale,
    )


def fold_row(fold: Fold, view: View, width: int, opened: bool) -> Row:
    """Nodes that are alike: what the median one of them moves, and the drops and errors of all."""
    nodes = fold.nodes
    arrow = ("v " if opened else "> ") if view.ascii else ("▾ " if opened else "▸ ")
    middles = [middle(view.values(each.rates, each.counted)[way] for each in nodes) for way in (0, 1)]
    numbers = [
        (figures.quantity(value), style if value else "muted") for value, style in zip(middles, ("rx", "tx"))
    ]
    known = [count for count in (bad(each.counted) for each in nodes) if count is not None]
    growing = any(any(each.rates[4:]) for each in nodes)
    drops = sum(known) if known else None
    sign = at_least(view, bool(known) and len(known) < len(nodes))
    return Row(
        (
            (_mark(STALE, view) if fold.kind == SILENT else "", "warning"),
            (arrow + fold.hostlist, "strong"),
            (fold.kind, _KIND_STYLES.get(fold.kind, "")),
            (str(len(nodes)), ""),
            *numbers,
            _load(middle(each.load for each in nodes)),
            _spark(view, _mean_history(nodes, width), nodes[0].speed, width),
            (sign + figures.quantity(drops), "bad" if growing else "warning" if drops else "muted"),
            ("", ""),
        ),
        stale=fold.kind == SILENT,
    )


_NO_POINT: Point = (None, None, None, None, 0.0)


def _mean_history(nodes: Sequence[NodeView], width: int) -> list[Point]:
    """They end at the same time; some begin later."""
    if not width:
        return []
    newest_first = (each.history[: -width - 1 : -1] for each in nodes)
    return [_mean_point(each) for each in zip_longest(*newest_first, fillvalue=_NO_POINT)][::-1]


def _mean_point(points: Sequence[Point]) -> Point:
    means = []
    for column in list(zip(*points))[:4]:
        known = [value for value in column if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means[0], means[1], means[2], means[3], max(each[4] for each in points)


# -- interfaces of a node


def interface_columns(view: View) -> list[Column]:
    """Of the Node screen."""
    return [
        Column("device", "DEVICE", 9, grow=1, most=14),
        Column("kind", "KIND", 9),
        Column("state", "STATE", 7),
        Column("mtu", "MTU", 5, right=True),
        Column("rx", f"RX {view.unit}", 9, right=True),
        Column("tx", f"TX {view.unit}", 9, right=True),
        Column("bad", "DROP+ERR", 8, right=True, rank=2),
        Column("history", "HISTORY", 10, grow=2, most=30, rank=3),
        Column("address", "ADDRESSES", 20, grow=3, most=60, rank=4),
    ]


def interface_row(
    each: Interface, rates: Rates, history: Sequence[Point], speed: int | None, view: View, width: int, stale: bool
) -> Row:
    """One interface."""
    return Row(
        (
            (each.name or each.device, "strong"),
            (each.kind, ""),
            (each.state or figures.UNKNOWN, "good" if each.state in ("UP", "ACTIVE") else "warning"),
            (str(each.mtu or figures.UNKNOWN), ""),
            *_numbers(view, rates, each.counters),
            _bad(rates, each.counters),
            _spark(view, history, each.speed or speed, width),
            (" ".join(each.addresses) or figures.UNKNOWN, "muted"),
        ),
        stale=stale,
    )


_COUNTERS = (
    ("bytes", "rx_bytes", "tx_bytes"),
    ("packets", "rx_packets", "tx_packets"),
    ("errors", "rx_errors", "tx_errors"),
    ("dropped", "rx_dropped", "tx_dropped"),
)


def counter_lines(each: Interface, rates: Rates) -> list[tuple[str, str, str, str, str]]:
    """Each counter: its name, and received and sent, in all and per second."""
    lines = []
    for name, rx, tx in _COUNTERS:
        numbers = (getattr(of, way) for way in (rx, tx) for of in (each.counters, rates))
        in_all, rx_rate, out_all, tx_rate = numbers
        lines.append(
            (
                name,
                figures.exact(in_all),
                figures.quantity(rx_rate),
                figures.exact(out_all),
                figures.quantity(tx_rate),
            )
        )
    return lines
