# SPDX-License-Identifier: Apache-2.0
"""What the screens show: frozen, silent, in each unit, of the row under the cursor."""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest
from textual.pilot import Pilot

from hpcnet import nodelist
from hpcnet.tui.events import Said
from hpcnet.tui.figures import quantity
from hpcnet.tui.screens.job import JobScreen
from hpcnet.tui.screens.node import NodeScreen
from hpcnet.tui.view import View
from tests.tui.stage import LARGE, Stage


def test_frozen_stops_painting_and_not_sampling() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("space")
        seen = stage.text()[1:]
        points = len(stage.feed.jobs()[0].history)
        for _ in range(10):
            stage.tick()
            await pilot.pause()
        assert stage.text()[1:] == seen
        assert "frozen 18s" in stage.text()[0]
        assert len(stage.feed.jobs()[0].history) == points + 10
        await pilot.press("b", "b", "s", "r")
        await pilot.pause()
        stage.tick()
        await pilot.press("s", *["s"] * (len(stage.screen.ORDERS) - 2), "r")
        await pilot.pause()
        assert stage.text()[1:] == seen, "sorting a frozen screen sorts what was frozen"
        await pilot.press("space")
        await pilot.pause()
        assert stage.text()[1:] != seen

    stage.run(play)


def test_what_is_opened_while_frozen_is_frozen_too() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter", "space")
        await pilot.pause()
        job = stage.text()[1:]
        stage.feed.note([Said("info", "", "that came later")])
        for _ in range(10):
            stage.tick()
        rated = stage.feed.jobs()[0].sum.rates.rx_bytes
        await pilot.press("v")
        await pilot.pause()
        assert "that came later" not in "\n".join(stage.text())
        await pilot.press("escape", "escape")
        await pilot.pause()
        line = stage.text()[2]
        held = stage.app.session.seen.jobs()
        assert held[0].sum.rates.rx_bytes != rated
        assert quantity(max(each.sum.rates.rx_bytes or 0 for each in held) * 8) in line
        await pilot.press("enter")
        await pilot.pause()
        assert stage.text()[1:] == job, "the same screen made anew"
        await pilot.press("end", "enter", "end", "enter")
        await pilot.pause()
        assert isinstance(stage.screen, NodeScreen)
        node = stage.text()[1:]
        stage.tick()
        await pilot.press("escape", "enter")
        await pilot.pause()
        assert stage.text()[1:] == node
        await pilot.press("space")
        await pilot.pause()
        assert stage.text()[1:] != node

    stage.run(play)


def test_a_silent_job_is_dim_and_marked_and_its_rates_unknown() -> None:
    stage = Stage()
    job = stage.source.jobs()[5]
    stage.mute = {(job.job_id, node) for node in job.nodes}

    async def play(pilot: Pilot[Any]) -> None:
        for _ in range(3):
            stage.tick()
        await pilot.pause()
        number = stage.line_of(job.label)
        line = stage.text()[number]
        assert line.lstrip().startswith("◌")
        assert line.split()[4:7] == ["-", "-", "-"]
        styles = [segment.style for segment in stage.lines()[number] if job.label in segment.text]
        stale = stage.table.get_component_rich_style("table--stale")
        assert [style.color for style in styles] == [stale.color]
        await pilot.press("v")
        await pilot.pause()
        assert any(f"{job.label}" in line and "says nothing" in line for line in stage.text())
        stage.mute = set()
        stage.tick()
        stage.tick()
        await pilot.pause()
        [line] = [line for line in stage.text() if f" {job.label} " in line and "says nothing" in line]
        assert line.split()[1:4] == ["over", job.label, nodelist.fold(job.nodes)]

    stage.run(play, (80, 25))


def test_units() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        async def after(key: str) -> str:
            await pilot.press(key)
            await pilot.pause()
            return stage.text()[1]

        assert "RX bit/s" in stage.text()[1]
        bits = stage.text()[2].split()[4]
        assert "RX B/s" in await after("b")
        octets = stage.text()[2].split()[4]
        assert (bits[-1], octets[-1]) in (("G", "G"), ("T", "G"))
        assert "RX pkt/s" in await after("p")
        assert "RX pkt " in await after("c")
        assert "RX B " in await after("p")
        assert "RX bit/s" in await after("b") + await after("c")

    stage.run(play)


@pytest.mark.parametrize("keys", [[], ["p"], ["c"], ["p", "c"], ["b"], ["b", "c"]])
def test_sum_median_and_slowest_in_every_unit(keys: list[str]) -> None:
    stage = Stage()
    view = View(bytes="b" in keys, packets="p" in keys, total="c" in keys)

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter", *keys)
        await pilot.pause()
        assert isinstance(stage.screen, JobScreen)
        nodes = stage.feed.nodes(stage.screen.job_id)
        told = [view.values(each.rates, each.counted) for each in nodes]
        slowest = min((each for each in nodes if each.pace is not None), key=lambda each: each.pace or 0)
        seen = {line.split()[-3]: line.split()[-2:] for line in stage.text()[3:10]}
        columns = [[value for value in column if value is not None] for column in zip(*told)]
        assert seen["sum"] == [("" if view.total else "≥") + quantity(sum(column)) for column in columns]
        assert seen["median"] == [quantity(median(column)) for column in columns]
        assert seen["slowest"] == [quantity(way) for way in view.values(slowest.rates, slowest.counted)]
        assert f"rx {view.unit}" in stage.text()[3]

    stage.run(play)


def test_interfaces_with_addresses_of_the_row_under_the_cursor_and_what_has_no_room() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        async def under() -> str:
            await pilot.pause()
            return " ".join(" ".join(stage.text()[-8:-2]).split())

        job = stage.feed.job(48224)  # containers, and every node is usual
        assert job is not None
        await pilot.press("slash", *"48224", "enter")
        assert f"job 48224 network {job.network} age " in await under()
        await pilot.press("enter")
        first, last = "10.128.32.1/20 fd68:7063:6e65:2::1/64", "10.128.32.20/20 fd68:7063:6e65:2::14/64"
        text = await under()
        assert f"node {job.info.nodes[0]} hpc0 {first} solver 10.128.40.1/20 hpcvx - mlx5_0/1 -" in text
        assert f"node {job.info.nodes[-1]} hpc0 {last} solver 10.128.40.20/20" in text
        await pilot.press("f", "end")
        text = await under()
        assert first not in text
        assert f"node {job.info.nodes[-1]} hpc0 {last} solver" in text and "drop+err 0" in text

    stage.run(play)


def test_a_filter_that_fits_no_interface_leaves_nothing_of_the_last_one() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter", "f", "end", "enter")
        await pilot.pause()
        assert isinstance(stage.screen, NodeScreen)
        assert "interface hpc0" in "\n".join(stage.text())
        await pilot.press("slash", *"nothing", "enter")
        await pilot.pause()
        for word in ("interface hpc0", "namespace", "received", " now"):
            assert word not in "\n".join(stage.text())
        await pilot.press("escape")
        await pilot.pause()
        assert "interface hpc0" in "\n".join(stage.text())

    stage.run(play)


def test_the_axis_tells_when_its_oldest_point_was_whatever_the_interval_is_now() -> None:
    stage = Stage(rounds=21)

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        assert any(" -40s ──" in line for line in stage.text())
        await pilot.press("plus", "plus", "escape", "enter")
        await pilot.pause()
        assert any(" -40s ──" in line for line in stage.text())

    stage.run(play, LARGE)
