# SPDX-License-Identifier: Apache-2.0
"""One node of a job: its interfaces, and all that is known of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal

from hpcnet.counters import wire
from hpcnet.counters.model import NEIGHBOUR_STATES, Interface, JobInfo
from hpcnet.counters.rates import UNKNOWN, Rates
from hpcnet.tui import figures
from hpcnet.tui.picture import NodeView, times
from hpcnet.tui.rows import counter_lines, interface_columns, interface_row
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session
from hpcnet.tui.view import matches
from hpcnet.tui.widgets.facts import Facts, Part, pair, prose
from hpcnet.tui.widgets.plot.plot import Plot
from hpcnet.tui.widgets.table.table import Row, Table


class NodeScreen(Watching):
    """Interfaces above; below, the one that the cursor is on."""

    def __init__(self, session: Session, job: JobInfo, node: str) -> None:
        super().__init__(session)
        self._job = job
        self._host = node
        self._node: NodeView | None = None

    def content(self) -> ComposeResult:
        """Facts, interfaces, one interface."""
        yield Facts(id="facts")
        yield Table(
            interface_columns(self.session.view),
            id="interfaces",
            empty="nothing is known of this node yet",
            opens=False,
        )
        yield Facts(id="one")
        with Horizontal(id="top-half"):
            yield Facts(id="counters")
            yield Plot(ascii_only=self.session.view.ascii)

    def load(self) -> None:
        """The node as it is; of a job that has ended, as it was."""
        self._node = self.session.seen.node(self._job.job_id, self._host) or self._node
        self._histories = {
            each.key: self.session.seen.interface_history(self._job.job_id, self._host, each.key)
            for each in self._interfaces()
        }

    def _interfaces(self) -> list[Interface]:
        sample = self._node.sample if self._node else None
        found = sample.interfaces if sample else ()
        return [each for each in found if matches(self.words, each.device, each.kind, each.name, *each.addresses)]

    def _rates(self, each: Interface) -> Rates:
        if self._node is None or self._node.silent_since is not None:
            return UNKNOWN
        return self._node.by_interface.get(each.key, UNKNOWN)

    def draw(self) -> None:
        """All of it."""
        view, node = self.session.view, self._node
        found = {" ".join(each.key): each for each in self._interfaces()}
        stale = node is not None and node.silent_since is not None
        speed = node.speed if node else None

        def row(key: str, widths: dict[str, int]) -> Row:
            each = found[key]
            history = self._histories.get(each.key, ())
            return interface_row(each, self._rates(each), history, speed, view, widths.get("history", 0), stale)

        table = self.query_one(Table)
        table.set_columns(interface_columns(view))
        table.show(list(found), row)
        self.query_one("#facts", Facts).show(list(self._facts()))
        self._draw_one(found.get(table.key or ""))

    def _draw_one(self, each: Interface | None) -> None:
        view, node = self.session.view, self._node
        one, counters, plot = (
            self.query_one("#one", Facts),
            self.query_one("#counters", Facts),
            self.query_one(Plot),
        )
        plot.display = each is not None
        if each is None or node is None:
            one.show([])
            counters.show([])
            return
        one.show(list(self._of_interface(each)))
        counters.show(list(self._counters(each)))
        history = self._histories.get(each.key, ())
        plot.show(*view.series(history), view.ceiling(each.speed or node.speed), view.rate_unit, times(history))

    @on(Table.Moved)
    def _moved(self) -> None:
        self.paint()

    def _facts(self) -> Iterator[list[Part]]:
        node = self._node
        line: list[Part] = []
        if node and node.silent_since is not None:
            yield [
                (
                    f"Nothing was heard for {figures.duration(self.now - node.silent_since)}; below, the last.",
                    "warning",
                )
            ]
        for trouble in node.troubles if node else ():
            yield prose(f"{trouble.text} -> {trouble.remedy}", "warning")
        load = figures.share(node.load if node else None)
        speed = figures.quantity(node.speed if node else None)
        for name, value in (("link", f"{speed}bit/s" if speed != "-" else speed), ("taken", load)):
            line += pair(name, value)
        yield line

    def _of_interface(self, each: Interface) -> Iterator[list[Part]]:
        where = "the node's own" if not each.namespace else each.namespace
        pairs = [
            ("interface", each.device + (f" of {each.name}" if each.name else "")),
            ("kind", each.kind),
            ("namespace", where),
            ("mtu", str(each.mtu or "-")),
            ("mac", each.mac or "-"),
        ]
        line: list[Part] = []
        for name, value in pairs:
            line += pair(name, value)
        yield line
        yield [("addresses ", "name"), ("  ".join(each.addresses) or "-", "value")]
        yield [("neighbours ", "name"), *_neighbours(each)]

    def _counters(self, each: Interface) -> Iterator[list[Part]]:
        yield [(f"{'':<8}{'received':>20}{'/s':>7}{'sent':>21}{'/s':>7}", "name")]
        for name, received, rx_rate, sent, tx_rate in counter_lines(each, self._rates(each)):
            yield [
                (f"{name:<8}", "name"),
                (f"{received:>20}", "rx"),
                (f"{rx_rate:>7}", "value"),
                (f"{sent:>21}", "tx"),
                (f"{tx_rate:>7}", "value"),
            ]

    def where(self) -> list[Part]:
        """Which node."""
        return [("hpcnet ", "title"), (f" job {self._job.label}", ""), (f"  node {self._host}", "")]

    def document(self) -> dict[str, Any]:
        """The node and its interfaces."""
        return {
            "job": asdict(self._job),
            "node": self._host,
            "silent_since": self._node.silent_since if self._node else None,
            "troubles": [each._asdict() for each in self._node.troubles] if self._node else [],
            "interfaces": [
                {**wire.encode_interface(each), "rates": self._rates(each)._asdict()}
                for each in self._interfaces()
            ],
        }


def _neighbours(each: Interface) -> Iterator[Part]:
    """How many in each state, then those that are listed: as many as the line has room for."""
    found = each.neighbours
    if found is None:
        yield "-", "value"
        return
    counts = [f"{getattr(found, state)} {state}" for state in reversed(NEIGHBOUR_STATES) if getattr(found, state)]
    yield ", ".join(counts) or "none", "value"
    yield "".join(f"  {entry.address} {entry.state}" for entry in found.listed), "name"
