# SPDX-License-Identifier: Apache-2.0
"""hpcnet bench: what it reads in iperf3's and ping's answers, where it runs, what it compares with."""

from __future__ import annotations

import json
import xml.dom.minidom
from pathlib import Path

import pytest

from hpcnet.cli import bench
from hpcnet.errors import NodeError, UserError
from tests.bench import chart, measure

STEP = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}


def answer(**end: object) -> dict[str, object]:
    used = {"host_total": 60.0, "remote_total": 40.0}
    return {"end": {"cpu_utilization_percent": used, "sum_received": {"bits_per_second": 8e9}, **end}}


def test_one_way_and_both() -> None:
    assert bench.figures("one way", answer()) == {"gbit": 8.0, "processor": 0.125}
    back = {"bits_per_second": 2e9}
    both = bench.figures("both ways", answer(sum_received_bidir_reverse=back))
    assert both == {"gbit": 10.0, "there": 8.0, "back": 2.0, "processor": 0.1}
    assert bench.headline(both) == "gbit"


def test_lost_packets_do_not_count() -> None:
    total = {"packets": 3000, "lost_packets": 1000, "seconds": 2.0}
    assert bench.figures("small packets", answer(sum=total)) == {"kpackets": 1.0}


def test_a_round_trip_is_the_median_and_its_tail() -> None:
    text = "".join(f"64 bytes from 10.0.0.1: icmp_seq={n} ttl=64 time=0.{n:03d} ms\n" for n in range(1, 101))
    assert bench.round_trip(text, "") == pytest.approx({"median": 50.5, "p99": 99.0})
    with pytest.raises(NodeError, match="Network is unreachable"):
        bench.round_trip("", "ping: connect: Network is unreachable\n")


def test_it_is_a_step_of_two_tasks_on_two_nodes() -> None:
    assert bench._places(STEP) == ("n1", "n2")
    for wrong in ({}, {**STEP, "SLURM_STEP_NUM_TASKS": "3"}, {**STEP, "SLURM_STEP_NODELIST": "n1"}):
        with pytest.raises(UserError, match="srun -N2 -n2"):
            bench._places(wrong)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tests": {}}', '{"tests": {"one way": {}}}'])
def test_it_compares_with_an_answer_of_its_own_only(tmp_path: Path, text: str) -> None:
    file = tmp_path / "host.json"
    file.write_text(text)
    with pytest.raises(UserError, match="no answer of hpcnet bench --json"):
        bench._read(str(file))


def test_a_comparison_shows_the_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    def document(network: str, gbit: float) -> dict[str, object]:
        row = {"gbit": {"median": gbit, "min": gbit, "max": gbit}}
        return {"network": network, "mtu": None, "nodes": ["n1", "n2"], "tests": {"one way": row}}

    bench._show(document("vxlan", 9.0), document("host", 10.0))
    head, titles, line = capsys.readouterr().out.splitlines()
    assert head == "n1 to n2, vxlan"
    assert titles.split() == ["TEST", "MEDIAN", "FROM", "TO", "UNIT", "HOST", "RATIO"]
    assert line.split() == ["one", "way", "9.00", "9.00", "9.00", "Gbit/s", "10.00", "0.90"]


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    # the machine was slow in the second round: both sides were
    assert measure.ratio([9.0, 1.0, 8.0], [10.0, 1.0, 10.0])["median"] == 0.9
    assert measure.spread([5.0])["n"] == 1


def test_the_picture_is_one_svg_with_a_bar_for_each_way() -> None:
    row = {"both ways": {"gbit": {"median": 10.0, "low": 9.0, "high": 11.0}}}
    text = chart.table(json.loads(json.dumps({"fabrics": {"4092": {"on": {"host": row, "a < b": row}}}})))
    root = xml.dom.minidom.parseString(text).documentElement
    assert root is not None and root.tagName == "svg"
    assert len(root.getElementsByTagName("rect")) == 3  # the background too
