# SPDX-License-Identifier: Apache-2.0
"""What the Node screen says of an interface's neighbours."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from hpcnet.tui.screens.node import NodeScreen
from tests.tui.stage import LARGE, SMALL, Stage

# A VXLAN of twelve nodes, of which the fifth loses packets; ten nodes in direct mode.
STATIC, DYNAMIC = 48231, 48238


@pytest.mark.parametrize(
    ("job_id", "rank", "lines"),
    [
        (
            STATIC,
            4,
            [
                " neighbours 22 permanent, 1 failed  10.128.48.13 failed",
                " neighbours none",
                " neighbours -",
            ],
        ),
        (
            DYNAMIC,
            7,
            [
                " neighbours 4 reachable  10.128.64.9 reachable  10.128.64.10 reachable  10.128.64.1 reachable"
                "  10.128.64.2 reachable",
                " neighbours -",
            ],
        ),
    ],
)
def test_of_each_interface_what_is_known(job_id: int, rank: int, lines: list[str]) -> None:
    stage = Stage(rounds=3)
    job = stage.feed.job(job_id)
    assert job is not None

    async def play(pilot: Pilot[Any]) -> None:
        screen = NodeScreen(stage.app.session, job.info, job.info.nodes[rank])
        stage.app.push_screen(screen)
        await pilot.pause()
        for expected in lines:
            await pilot.pause()
            [line] = [line.rstrip() for line in stage.text() if line.startswith(" neighbours")]
            assert line == expected
            await pilot.press("down")
        seen = [each["neighbours"] for each in screen.document()["interfaces"]]
        assert seen[-1] is None, "of a port: not known, and not 0"
        assert {"address", "mac", "state"} == seen[0]["listed"][0].keys()

    stage.run(play, LARGE)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_plot_is_seen_up_to_now(size: tuple[int, int]) -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter", "f", "home", "enter")
        await pilot.pause()
        text = stage.text()
        axis = next(number for number, line in enumerate(text) if line.rstrip().endswith("─ now"))
        assert text[axis - 1].rstrip()[-1] in "▁▂▃▄▅▆▇█", "the newest point above it"

    stage.run(play, size)
