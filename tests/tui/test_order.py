# SPDX-License-Identifier: Apache-2.0
"""The keys that order, fold and walk rows, and the one that changes the colours."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from hpcnet.tui.screens.job import JobScreen
from hpcnet.tui.themes import DARK, LIGHT
from tests.tui.stage import SMALL, Stage


def test_sort_takes_the_next_column_and_reverse_turns_the_rows() -> None:
    stage = Stage(rounds=3)

    async def play(pilot: Pilot[Any]) -> None:
        async def after(key: str) -> tuple[str, list[str]]:
            await pilot.press(key)
            await pilot.pause()
            assert stage.screen.order is not None
            return stage.screen.order.column, list(stage.table._keys)

        columns = [(await after("s"))[0] for _ in stage.screen.ORDERS]
        assert sorted(columns) == sorted(stage.screen.ORDERS), "each once"
        while (await after("s"))[0] != "job":
            pass
        first = list(stage.table._keys)
        assert first in (sorted(first, key=int), sorted(first, key=int, reverse=True))
        assert await after("r") == ("job", first[::-1])
        assert await after("r") == ("job", first)

    stage.run(play)


def test_fold_shows_every_node_and_folds_them_again() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(stage.screen, JobScreen)
        folded, nodes = list(stage.table._keys), stage.feed.nodes(stage.screen.job_id)
        assert len(folded) < len(nodes) and any("[" in line for line in stage.text())
        await pilot.press("f")
        await pilot.pause()
        assert set(stage.table._keys) == {f"node {each.node}" for each in nodes}
        await pilot.press("f")
        await pilot.pause()
        assert stage.table._keys == folded

    stage.run(play)


def test_the_cursor_walks_by_arrows_and_by_letters() -> None:
    stage = Stage(rounds=3)

    async def play(pilot: Pilot[Any]) -> None:
        keys = list(stage.table._keys)
        steps = [("home", 0), ("down", 1), ("j", 2), ("up", 1), ("k", 0), ("k", 0), ("G", -1), ("j", -1), ("g", 0)]
        for key, place in [*steps, ("end", -1), ("home", 0)]:
            await pilot.press(key)
            assert stage.table.key == keys[place], key
        await pilot.press("pagedown")
        assert keys.index(stage.table.key or "") > 1
        await pilot.press("pageup")
        assert stage.table.key == keys[0]

    stage.run(play)


@pytest.mark.parametrize("keys", [[], ["enter"], ["enter", "f", "enter"], ["v"], ["question_mark"]])
def test_theme_is_dark_or_light_on_every_screen(keys: list[str]) -> None:
    stage = Stage(rounds=3)

    async def play(pilot: Pilot[Any]) -> None:
        def backgrounds() -> set[str]:
            styles = [segment.style for line in stage.lines() for segment in line if segment.style]
            return {style.bgcolor.name.upper() for style in styles if style.bgcolor}

        await pilot.press(*keys)
        await pilot.pause()
        text = stage.text()
        for there, gone in ((DARK, LIGHT), (LIGHT, DARK), (DARK, LIGHT)):
            assert there.background in backgrounds() and gone.background not in backgrounds()
            assert stage.text() == text, "nothing but colours"
            await pilot.press("t")
            await pilot.pause()

    stage.run(play, SMALL)
