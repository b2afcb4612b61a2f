# SPDX-License-Identifier: Apache-2.0
"""Every screen, in both themes and sizes, as text with its styles. The clock and the seed are fixed, so the same
characters come out with every Python. To write them anew: HPCNET_UPDATE_SNAPSHOTS=1 pytest tests/tui; then look.
"""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from hpcnet.tui.commands import Commands
from tests.tui.stage import LARGE, SMALL, Stage

SNAPSHOTS = Path(__file__).with_name("snapshots")
SCREENS = {
    "jobs": [],
    "job": ["enter"],
    "node": ["enter", "f", "home", "enter"],
    "silent": ["enter", "f", "enter"],
    "events": ["v"],
    "help": ["question_mark"],
    "cleanup": ["x"],
}
SIZES = {"80x24": SMALL, "160x50": LARGE}


def staged(screen: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Stage:
    """For cleanup as root sees it, who alone has it; nothing is done."""
    stage = Stage(**settings)
    if screen == "cleanup":
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        stage.app.session.commands = Commands("/etc/hpcnet/hpcnet.toml")
    return stage


def picture(stage: Stage) -> str:
    """The text; then for each line the letters of its styles; then what the letters mean."""
    letters: dict[str, str] = {}
    text, styles = [], []
    for line in stage.lines():
        text.append("".join(segment.text for segment in line).rstrip())
        looks = ""
        for segment in line:
            look = segment.style.without_color if segment.style else None
            colours = (segment.style.color, segment.style.bgcolor) if segment.style else ()
            name = " ".join([str(look).split(" meta")[0], *(each.name if each else "-" for each in colours)])
            looks += letters.setdefault(name, string.ascii_letters[len(letters)]) * len(segment.text)
        styles.append(looks.rstrip())
    legend = [f"{letter} {name}" for name, letter in letters.items()]
    return "\n".join([*text, "-- styles", *styles, "-- meaning", *legend, ""])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(screen: str, theme: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = staged(screen, monkeypatch, theme=theme)
    seen = []

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press(*SCREENS[screen])
        await pilot.pause()
        seen.append(picture(stage))

    stage.run(play, SIZES[size])
    file = SNAPSHOTS / f"{screen}-{theme}-{size}.txt"
    if os.environ.get("HPCNET_UPDATE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(seen[0], encoding="utf-8")
    assert seen[0] == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("screen", [*SCREENS, "palette", "toast"])
def test_ascii_is_nothing_else(screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {**SCREENS, "palette": ["ctrl+p", "f"], "toast": []}[screen]
    for size in (SMALL, LARGE):
        stage = staged(screen, monkeypatch, ascii_only=True)
        seen: list[str] = []

        async def play(pilot: Pilot[Any], stage: Stage = stage, seen: list[str] = seen) -> None:
            await pilot.press(*keys)
            if screen == "toast":
                stage.app.notify("written")
                await pilot.pause()
            if screen == "palette":
                await stage.app.workers.wait_for_complete()
            await pilot.pause()
            seen.extend(stage.text())

        stage.run(play, size, notifications=True)
        text = "\n".join(seen)
        assert {"palette": "freeze", "toast": "written"}.get(screen, "hpcnet") in text
        assert [each for each in text if ord(each) > 126] == []
