# SPDX-License-Identifier: Apache-2.0
"""hpcnet bench: where it runs, what it measures over loopback, what it compares with; what the table concludes."""

from __future__ import annotations

import argparse
import json
import socket
import threading
import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest

from hpcnet.cli import bench, chart, flow
from hpcnet.errors import NodeError, UserError
from tests.bench import measure, verdict

STEP = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}


@pytest.fixture
def near() -> Any:
    """The near end of a pair over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = threading.Thread(target=flow.serve, args=(listener,))
        far.start()
        with flow.Near(*listener.getsockname()) as end:
            yield end
        far.join(10)
        assert not far.is_alive(), "the far end goes when the near one has hung up"


def test_streams_are_measured_each_way(near: flow.Near) -> None:
    one = near.measure(flow.TESTS["one way"], 0.1)
    assert one["gbit"] > 0.01 and one["processor"] > 0 and "back" not in one
    both = near.measure(flow.Test(2, 2), 0.3)
    assert both["there"] > 0 and both["back"] > 0
    assert both["gbit"] == pytest.approx(both["there"] + both["back"])


def test_packets_and_round_trips_are_measured(near: flow.Near) -> None:
    assert near.measure(flow.TESTS["small packets"], 0.1)["kpackets"] > 0.1
    trips = near.measure(flow.TESTS["round trip"], 0.1)
    assert 1 < trips["median"] <= trips["p99"]
    assert near.measure(flow.TESTS["one way"], 0.1)["gbit"] > 0.01, "it can be asked on"


def test_who_is_not_there_is_named() -> None:
    with pytest.raises(NodeError, match=r"127\.0\.0\.1, is not reached"):
        flow.Near("127.0.0.1", 1, patience=0)


def test_an_end_that_goes_away_is_no_figure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, flow.Near(*listener.getsockname()) as near:
        listener.accept()[0].close()
        with pytest.raises(NodeError, match=r"broke off|went away"):
            near.measure(flow.TESTS["one way"], 0.1)


def test_it_is_a_step_of_two_tasks_on_two_nodes() -> None:
    assert bench._places(STEP) == ("n1", "n2")
    for wrong in ({}, {**STEP, "SLURM_STEP_NUM_TASKS": "3"}, {**STEP, "SLURM_STEP_NODELIST": "n1"}):
        with pytest.raises(UserError, match="srun -N2 -n2"):
            bench._places(wrong)


def rounds(gbit: list[float]) -> bench.Rounds:
    found = {
        test: [{"gbit": each, "there": each / 2, "back": each / 2, "processor": 0.1} for each in gbit]
        for test in flow.TESTS
    }
    return {**found, "round trip": [{"median": 100 / each, "p99": 200 / each} for each in gbit]}


def answer(**networks: list[float]) -> dict[str, Any]:
    return {
        "nodes": ["n1", "n2"],
        "networks": {name: bench._summary(None, rounds(gbit)) for name, gbit in networks.items()},
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"networks": []}', '{"networks": {"host": {"tests": {}}}}'])
def test_it_compares_with_an_answer_of_its_own_only(tmp_path: Path, text: str) -> None:
    file = tmp_path / "host.json"
    file.write_text(text)
    with pytest.raises(UserError, match="no answer of hpcnet bench --json"):
        bench._read(str(file))
    file.write_text(json.dumps(answer(host=[10.0])))
    assert list(bench._read(str(file))["networks"]) == ["host"]


def test_what_there_is_to_compare_with_is_read_before_anything_is_measured(tmp_path: Path) -> None:
    arguments = argparse.Namespace(compare=str(tmp_path / "none"), networks=["host"])
    with pytest.raises(UserError, match="No such file"):
        bench.run(arguments)


def test_a_comparison_shows_and_saves_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, older = answer(vxlan=[9.0]), answer(host=[10.0])
    bench._compare(document, older)
    ratio = document["networks"]["vxlan"]["tests"]["both ways"]["ratio"]["median"]
    assert ratio == 0.9
    saved, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    bench._save(document, argparse.Namespace(save=str(saved), svg=str(picture)))
    assert json.loads(saved.read_text()) == json.loads(json.dumps(document))
    root = xml.dom.minidom.parseString(picture.read_text()).documentElement
    assert root is not None and "docker overlay over Ethernet" in picture.read_text()
    bench._show(document)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["both", "ways", "vxlan", "9.00", "9.00", "9.00", "Gbit/s", "-", "0.100", "0.90"] in lines
    assert ["round", "trip", "host", "10.00", "10.00", "10.00", "us", "20", "-", "-"] in lines


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    # the machine was slow in the second round: both sides were
    assert measure.ratio([9.0, 1.0, 8.0], [10.0, 1.0, 10.0])["median"] == 0.9
    assert measure.spread([5.0])["n"] == 1
    both = bench._summary(None, rounds([9.0, 1.0, 8.0]), rounds([10.0, 1.0, 10.0]))["tests"]["one way"]
    assert both["ratio"] == {"median": 0.9, "min": 0.8, "max": 1.0}


class FakePair:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def measure(self, test: str, seconds: float) -> dict[str, float]:
        self.calls.append(self.name)
        return {"gbit": 1.0}


def test_each_round_has_an_order_of_its_own() -> None:
    calls: list[str] = []
    pairs: Any = {name: FakePair(name, calls) for name in "abcd"}
    found = measure.in_turns(pairs, {"one way": 0.1}, 3)
    orders = ["".join(calls[4 * number : 4 * number + 4]) for number in range(3)]
    assert len(set(orders)) == 3 and all(sorted(order) == list("abcd") for order in orders)
    assert len(found["a"]["one way"]) == 3


def table(**gbit: list[float]) -> verdict.Rounds:
    names = {
        "host": "host",
        "direct": "hpcnet direct",
        "vxlan": "hpcnet vxlan",
        "kernel": "kernel VXLAN as in 2016",
    }
    return {names[way]: {"one way": [{"gbit": each} for each in each_round]} for way, each_round in gbit.items()}


def test_an_aim_is_met_or_missed_by_the_ratios_of_rounds() -> None:
    base = [10.0, 20.0, 10.0, 20.0]
    found = table(host=base, direct=base, vxlan=[0.9 * each for each in base])
    assert [(each["least"], each["verdict"]) for each in verdict.aims(found, "65520", "on")] == [
        (0.98, "met"),
        (0.95, "missed"),
    ]
    found = table(direct=base, vxlan=[9.0, 20.0, 9.0, 18.0])
    assert [each["verdict"] for each in verdict.aims(found, "65520", "on")] == ["missed, within the spread"]
    assert verdict.aims(found, "4092", "on") == []


def test_behind_a_peer_is_what_the_quartiles_say() -> None:
    slower = verdict.comparisons(table(vxlan=[9.0, 18.0, 9.0, 9.0], kernel=[10.0, 20.0, 10.0, 10.0]))
    assert [(each["peer"], each["behind"]) for each in slower] == [("kernel VXLAN as in 2016", True)]
    mixed = verdict.comparisons(table(vxlan=[9.0, 22.0, 9.0, 9.9], kernel=[10.0, 20.0, 10.0, 10.0]))
    assert [each["behind"] for each in mixed] == [False]


def test_more_microseconds_are_behind() -> None:
    trips = {
        way: {"round trip": [{"median": value, "p99": value} for value in (each, each, each, each)]}
        for way, each in (("hpcnet vxlan", 12.0), ("kernel VXLAN as in 2016", 10.0))
    }
    assert [each["behind"] for each in verdict.comparisons(trips)] == [True]


def test_the_picture_is_one_svg_with_a_bar_for_each_way() -> None:
    figure = {"median": 10.0, "low": 9.0, "high": 11.0}
    text = chart.svg([("a group", {"host": figure, "a < b": figure})], "a note")
    root = xml.dom.minidom.parseString(text).documentElement
    assert root is not None and root.tagName == "svg"
    assert len(root.getElementsByTagName("rect")) == 3  # the background too
