# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/performance.md: made of the benchmarks' JSON, put between their marks, all on the page."""

from __future__ import annotations

import json
from pathlib import Path

from hpcnet.cli import flow
from tests.bench import report, verdict

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def table() -> dict[str, object]:
    rounds = [{"gbit": 10.0, "there": 5.0, "back": 5.0, "processor": 0.07}] * 4
    trips = [{"median": 3.0, "p99": 4.0}] * 4
    tests = {test: trips if test == "round trip" else rounds for test in flow.TESTS}
    figures = dict.fromkeys(("host", "hpcnet direct", "hpcnet vxlan", "kernel VXLAN as in 2016"), tests)
    fabric = {"mtu": 65520, "offloads": "on"}
    return {
        "study": {"host": [6.37, 5.69]},
        "fabrics": {"65520": {"on": verdict.summary(figures), "off": verdict.summary(figures)}},
        "aims": verdict.aims(figures, "65520", "on"),
        "comparisons": [{**fabric, **each} for each in verdict.comparisons(figures)],
        "machine": {"processor": "a", "processors": 2, "kernel": "6", "python": "3", "load": [1.0]},
        "load before": [0.1],
    }


def test_ways_aims_and_the_study_are_in_the_tables(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(json.dumps(table()))
    tables = report.of_results(tmp_path)
    assert "| hpcnet vxlan | 10.0 (1.00) |" in tables["table-65520-on"]
    assert "| 6.37 / 5.69 |" in tables["table-65520-off"] and "3.0, 4 us" in tables["table-65520-off"]
    assert (
        "| hpcnet vxlan / hpcnet direct, one way, offloads on | 0.95 | 1.00 | 1.00 to 1.00 | met |"
        in tables["aims"]
    )
    assert tables["behind"] == "Behind in 0 of 6 cells.\n"
    assert "hooks" not in tables, "not measured"


def test_only_what_was_measured_is_replaced() -> None:
    page = "a\n<!-- bench one -->\nold\n<!-- end -->\nb\n<!-- bench two -->\nkept\n<!-- end -->\n"
    filled = report.filled(page, {"one": "new\n"})
    assert filled == page.replace("old", "new")
    assert report.filled(filled, {"one": "new\n"}) == filled


def test_the_page_has_a_place_for_each_table() -> None:
    states = [f"table-{mtu}-{state}" for mtu in (65520, 4092, 2044) for state in ("on", "off")]
    wanted = {*states, "aims", "behind", "machine", "hooks", "hooks-aims", "hooks-more", "launch", "launch-hooks"}
    wanted |= {"requests", "scale", "growth", "jobs", "leases", "start", "tuning-on", "tuning-off"}
    assert set(report._names(PAGE.read_text(encoding="utf-8"))) == wanted
