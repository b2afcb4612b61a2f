# SPDX-License-Identifier: Apache-2.0
"""One job: what it moves, how its nodes compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from hpcnet.tui import figures
from hpcnet.tui.picture import Fold, JobView, NodeView, bad, fold, spread, times
from hpcnet.tui.rows import NODE_ORDER, at_least, fold_row, lacks, node_columns, node_row
from hpcnet.tui.screens import cleanup
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session
from hpcnet.tui.view import Order, matches
from hpcnet.tui.widgets.facts import Facts, Part, pair
from hpcnet.tui.widgets.plot.plot import Plot
from hpcnet.tui.widgets.table.table import Row, Table

FEW = 12
"""Nodes that are not folded unless one asks."""


class JobScreen(Watching):
    """One line for each node, or for nodes that are alike."""

    ORDERS: ClassVar[tuple[str, ...]] = ("node", *NODE_ORDER)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "fold", "fold", id="fold", tooltip="Fold nodes that are alike into one row, or show each"),
        cleanup.CLEANUP,
    ]

    def __init__(self, session: Session, job: JobView) -> None:
        super().__init__(session, Order("node", down=False))
        self._job = job
        self._gone = False
        self._members: list[NodeView] = []
        self._folding = job.nodes > FEW
        self._opened: set[str] = set()

    @property
    def job_id(self) -> int:
        """The job's number."""
        return self._job.info.job_id

    def content(self) -> ComposeResult:
        """Facts, plot, nodes."""
        yield Facts(id="facts")
        with Horizontal(id="top-half"):
            yield Plot(ascii_only=self.session.view.ascii)
            yield Facts(id="beside")
        yield Table(node_columns(self.session.view), id="nodes", empty="no node matches; esc clears the filter")
        yield Facts(id="row")

    def load(self) -> None:
        """The job as it is; one that has ended stays as it was."""
        job = self.session.seen.job(self.job_id)
        self._gone = job is None
        if job is not None:
            self._job = job
            self._members = self.session.seen.nodes(self.job_id)

    def _folds(self) -> list[Fold]:
        return fold([each for each in self._members if matches(self.words, each.node, each.address)])

    def draw(self) -> None:
        """All of it."""
        view, job, rows = self.session.view, self._job, {}
        for key, draw_row in self._rows():
            rows[key] = draw_row
        table = self.query_one(Table)
        table.set_columns(node_columns(view))
        assert self.order is not None
        table.show(
            list(rows),
            lambda key, widths: rows[key](widths.get("history", 0)),
            (self.order.column, self.order.down),
        )
        self.query_one("#facts", Facts).show(list(self._facts()))
        self.query_one("#beside", Facts).show(list(self._beside()))
        rest = table.left_out(rows[table.key](0), ["address"]) if table.key else []
        self.query_one("#row", Facts).show([*self._interfaces(table.key or ""), *([rest] if rest else [])])
        rx, tx = view.series(job.history)
        self.query_one(Plot).show(rx, tx, view.ceiling(job.sum.links), view.rate_unit, times(job.history))

    def _seen(self) -> list[Fold]:
        """From above down, the nodes of each fold in their order; without folding each node is one."""
        folds = self._folds()
        if self._folding:
            return [Fold(each.kind, tuple(self._sorted(each.nodes))) for each in folds]
        kinds = {node.node: each.kind for each in folds for node in each.nodes}
        nodes = self._sorted([node for node in self._members if node.node in kinds])
        return [Fold(kinds[node.node], (node,)) for node in nodes]

    def _rows(self) -> Iterator[tuple[str, Any]]:
        for each in self._seen():
            if len(each.nodes) == 1:
                yield self._node_row(each.nodes[0], each.kind)
                continue
            opened = each.kind in self._opened
            yield f"fold {each.kind}", self._fold_row(each, opened)
            if opened:
                for node in each.nodes:
                    yield self._node_row(node, each.kind, "  ")

    def _interfaces(self, key: str) -> Iterator[list[Part]]:
        """Of the row under the cursor, each with its addresses; of a fold those of its first node and its last."""
        what, _, name = key.partition(" ")
        if what == "fold":
            fold = next((each for each in self._folds() if each.kind == name), None)
            nodes = [fold.nodes[0], fold.nodes[-1]] if fold else []
        else:
            nodes = [each for each in self._members if each.node == name]
        for node in nodes:
            line = pair("node", node.node)
            for each in node.sample.interfaces if node.sample else ():
                line += pair(each.name or each.device, " ".join(each.addresses) or "-")
            yield line

    @on(Table.Moved)
    def _moved(self) -> None:
        self.paint()

    def _sorted(self, nodes: list[NodeView] | tuple[NodeView, ...]) -> list[NodeView]:
        assert self.order is not None
        if self.order.column == "node":
            return list(nodes)[:: -1 if self.order.down else 1]
        return self.order.sort(nodes, NODE_ORDER)

    def _node_row(self, node: NodeView, kind: str, indent: str = "") -> tuple[str, Any]:
        view, now = self.session.view, self.now

        def row(width: int) -> Row:
            return node_row(node, kind, view, width, now, indent)

        return f"node {node.node}", row

    def _fold_row(self, each: Fold, opened: bool) -> Any:
        view = self.session.view
        return lambda width: fold_row(each, view, width, opened)

    def _facts(self) -> Iterator[list[Part]]:
        info = self._job.info
        age = figures.duration(None if info.started is None else self.now - info.started)
        pairs = [
            ("user", f"{info.user or '-'}/{info.account}" if info.account else info.user or "-"),
            ("network", self._job.network or "-"),
            ("subnet", info.subnet or "-"),
            ("mtu", str(info.mtu or "largest")),
            ("age", age),
            ("state", info.state or "-"),
            ("ipv6", info.subnet6 or "-"),
        ]
        line: list[Part] = []
        for name, value in pairs:
            line += pair(name, value)
        yield line
        if self._gone:
            yield [("This job has ended; what is shown is the last that was seen.", "warning")]
        elif self._job.problem:
            yield [(self._job.problem, "warning")]

    def _beside(self) -> Iterator[list[Part]]:
        view, job = self.session.view, self._job
        compared = spread(self._members)
        yield [("", ""), (f"{'':<9}{'rx ' + view.unit:>10}{'tx ' + view.unit:>11}", "name")]
        rx, tx = view.values(job.sum.rates, job.sum.counted)
        yield self._pair("sum", rx, tx, at_least(view, lacks(job.sum, view)))
        yield self._pair("median", *view.values(compared.rates, compared.counted))
        if compared.slowest is not None:
            slowest = compared.slowest
            yield self._pair("slowest", *view.values(slowest.rates, slowest.counted))
            yield [("", ""), (f"{'':<9}{slowest.node}", "value")]
        yield [("nodes    ", "name"), (str(job.nodes), "value"), *self._silent()]
        yield [("of links ", "name"), (figures.share(job.sum.load), "value")]
        count = bad(job.sum.counted)
        sign = at_least(view, job.sum.uncounted and count is not None)
        yield [("drop+err ", "name"), (sign + figures.quantity(count), "warning" if count else "value")]

    def _silent(self) -> list[Part]:
        return [(f"  {len(self._job.silent)} silent", "warning")] if self._job.silent else []

    @staticmethod
    def _pair(name: str, rx: float | None, tx: float | None, sign: str = "") -> list[Part]:
        texts = [figures.quantity(way) if way is None else sign + figures.quantity(way) for way in (rx, tx)]
        return [(f"{name:<9}", "name"), (f"{texts[0]:>10}", "rx"), (f"{texts[1]:>11}", "tx")]

    def where(self) -> list[Part]:
        """Which job."""
        info = self._job.info
        return [("hpcnet ", "title"), (f" job {info.label}", ""), (f" of {info.user}", "muted")]

    def action_cleanup(self) -> None:
        """Of this job, which may have ended."""
        cleanup.ask(self, self.session, self._job.info)

    def action_fold(self) -> None:
        """Fold all, or show each node."""
        self._folding = not self._folding
        self.paint()

    @on(Table.Chosen)
    def _choose(self, event: Table.Chosen) -> None:
        what, _, name = event.key.partition(" ")
        if what == "fold":
            self._opened ^= {name}
            self.paint()
        else:
            from hpcnet.tui.screens.node import NodeScreen

            self.app.push_screen(NodeScreen(self.session, self._job.info, name))

    def document(self) -> dict[str, Any]:
        """The job, how its nodes compare, and they in the order in which they are seen."""
        summed, compared = self._job.sum, spread(self._members)
        return {
            "job": asdict(self._job.info),
            "sum": summed.document(),
            "median": {"rates": compared.rates._asdict(), "counted": compared.counted._asdict()},
            "slowest": compared.slowest.node if compared.slowest else None,
            "nodes": [
                {
                    "node": node.node,
                    "state": each.kind,
                    "silent_since": node.silent_since,
                    "rates": node.rates._asdict(),
                    "counted": node.counted._asdict(),
                    "speed": node.speed,
                    "interfaces": [
                        {"device": at.device, "kind": at.kind, "name": at.name, "addresses": at.addresses}
                        for at in (node.sample.interfaces if node.sample else ())
                    ],
                }
                for each in self._seen()
                for node in each.nodes
            ],
        }
