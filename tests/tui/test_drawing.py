# SPDX-License-Identifier: Apache-2.0
"""The pure parts: numbers as text, series as characters, folds, columns, orders."""

from __future__ import annotations

import pytest

from hpcnet.counters.model import Counters, JobInfo, NodeSample
from hpcnet.counters.rates import UNKNOWN, Rates
from hpcnet.tui import figures, rows
from hpcnet.tui.draw import area, hanging, spark
from hpcnet.tui.picture import JobView, NodeView, add_up, bad, fold, spread
from hpcnet.tui.rows import job_row
from hpcnet.tui.view import Order, View, matches
from hpcnet.tui.widgets.table.columns import GAP, Column, fit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.25, "0.2"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.00k"),
        (9_812_345_678, "9.81G"),
        (98_123_456_789, "98.1G"),
        (999_600_000, "1.00G"),
        (12e18, "12.0E"),
        (-1500, "-1.50k"),
    ],
)
def test_quantity(value: float | None, text: str) -> None:
    assert figures.quantity(value) == text


def test_what_is_not_known_is_never_a_number() -> None:
    shown = {figures.quantity(None), figures.exact(None), figures.share(None), figures.duration(None)}
    assert shown == {"-"}
    assert (figures.share(0.0), figures.share(0.001), figures.share(1.0)) == ("0%", "<1%", "100%")
    assert [figures.duration(each) for each in (0, 59, 61, 3700, 90000)] == [
        "0s",
        "59s",
        "1m01s",
        "1h01m",
        "1d01h",
    ]


def test_an_idle_link_and_a_full_one_look_different() -> None:
    assert spark([0.0] * 4, 100, 4) == "▁▁▁▁"
    assert spark([100.0] * 4, 100, 4) == "████"
    assert spark([99.0, 100.0, 99.5], 10_000, 3) == "▂▂▂", "the ceiling is the link's, not the series' own"
    assert spark([None, 0.0, 1.0, 200.0], 100, 5) == "  ▁▂█"
    assert spark([None, 0.0, 1.0, 200.0], 100, 5, ascii_only=True) == "  _.#"
    assert spark([1.0], 100, 0) == ""


def test_area() -> None:
    assert area([None, 0.0, 50.0, 100.0], 100, 4, 2) == ["   █", "  ██"]
    assert area([25.0, 75.0], 100, 3, 1) == [" ▂▆"]
    assert area([100.0], 100, 2, 2, ascii_only=True) == [" #", " #"]
    assert hanging(["▂ ", "██"]) == [[("██", False)], [("▆", True), (" ", False)]]


def node(name: str, pace: float | None, silent: bool = False) -> NodeView:
    rates = UNKNOWN if pace is None or silent else Rates(pace, pace)
    return NodeView(name, NodeSample(1, name, 0.0), rates, Counters(), None, 1.0 if silent else None, None)


def test_nodes_fold_by_what_they_move() -> None:
    nodes = [node(f"n{number}", 100.0) for number in range(1, 9)]
    nodes += [node("n9", 10.0), node("n10", 900.0), node("n11", 0.0), node("n12", None), node("n13", 5.0, True)]
    found = [(each.kind, each.hostlist) for each in fold(nodes)]
    assert found == [
        ("silent", "n13"),
        ("slow", "n9"),
        ("fast", "n10"),
        ("usual", "n[1-8]"),
        ("idle", "n11"),
        ("waiting", "n12"),
    ]
    compared = spread(nodes)
    assert compared.rates.rx_bytes == 100.0
    assert compared.slowest is not None and compared.slowest.node == "n11"
    assert spread([node("n1", 0.0)]).slowest is None


def test_a_sum_says_what_it_lacks() -> None:
    assert add_up([node("n1", 3.0), node("n2", 4.0)]).rates.rx_bytes == 7.0
    assert not add_up([node("n1", 3.0), node("n2", 4.0)]).partial
    lacking = add_up([node("n1", 3.0), node("n2", None)])
    assert (lacking.speed, lacking.links) == (None, None)
    assert (lacking.rates.rx_bytes, lacking.partial) == (3.0, True)
    assert add_up([node("n1", None)]).rates.rx_bytes is None
    assert add_up([]).rates == Rates()


def test_links_are_as_wide_as_before_when_all_is_silent() -> None:
    nodes = [node(f"n{number}", None, silent=True)._replace(speed=100) for number in (1, 2)]
    assert add_up(nodes).rates.rx_bytes is None
    assert (add_up(nodes).speed, add_up(nodes).links) == (None, 200)
    assert add_up([*nodes, node("n3", 1.0)]).links is None, "of one the rate is not known"
    unheard = node("n4", None, silent=True)._replace(sample=None)
    assert add_up([*nodes, unheard]).links == 200, "of whose link nothing was ever known"


ALL = Counters(1, 1, 1, 1, 0, 0, 0, 0)


def test_what_is_counted_says_what_it_lacks_and_drops_of_which_some_are_not_known_are_not_known() -> None:
    whole, unheard = node("n1", 1.0)._replace(counted=ALL), node("n2", None)._replace(sample=None)
    blind = node("n3", 1.0)._replace(counted=ALL._replace(rx_dropped=None))
    assert not add_up([whole, whole]).uncounted
    assert add_up([whole, unheard]).uncounted and add_up([whole, blind]).uncounted
    assert bad(ALL) == 0
    assert bad(blind.counted) is None
    view = View(total=True)
    info = JobInfo(7, user="alice", nodes=("n1", "n2"))
    cells = [text for text, _ in job_row(JobView(info, add_up([whole, unheard]), (), {}, 2), view, 0, 0.0).cells]
    assert [cells[5], cells[6], cells[9]] == ["≥8", "≥8", "≥0"]


def test_the_mean_of_histories_ends_with_all_of_them() -> None:
    def of(*values: float | None) -> NodeView:
        points = tuple((value, value, None, None, 10.0 + at) for at, value in enumerate(values, -len(values)))
        return node("n1", 1.0)._replace(history=points)

    mean = rows._mean_history([of(2.0, 4.0, 6.0), of(8.0), of()], 5)
    assert [each[0] for each in mean] == [2.0, 4.0, 7.0]
    assert [each[4] for each in mean] == [7.0, 8.0, 9.0]
    assert [each[0] for each in rows._mean_history([of(2.0, 4.0, 6.0), of(8.0)], 2)] == [4.0, 7.0]


def test_columns_that_do_not_fit_are_left_out_by_rank() -> None:
    columns = [
        Column("a", "A", 5),
        Column("b", "B", 5, rank=1),
        Column("c", "C", 5, rank=2),
        Column("d", "D", 4, grow=1),
    ]
    for room in range(9 + GAP, 60):
        fitted = fit(columns, room)
        assert sum(width + GAP for _, width in fitted) - GAP == room
    assert [index for index, _ in fit(columns, 24)] == [0, 1, 3]
    assert [index for index, _ in fit(columns, 3)] == [0, 3]


def test_unknown_sorts_last_both_ways() -> None:
    keys = {"x": lambda item: item}
    items: list[float | None] = [2.0, None, 3.0, 1.0]
    assert Order("x").sort(items, keys) == [3.0, 2.0, 1.0, None]
    assert Order("x").turned().sort(items, keys) == [1.0, 2.0, 3.0, None]
    assert Order("x").next(["x", "y"]) == Order("y")
    assert Order("y").next(["x", "y"]) == Order("x")


def test_filter_words() -> None:
    assert matches("", "a")
    assert matches("ALI vx", "alice", "vxlan 7")
    assert not matches("alice direct", "alice", "vxlan 7")
