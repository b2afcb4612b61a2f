# SPDX-License-Identifier: Apache-2.0
"""docs/tui.md tells the keys that there are, and its pictures are those of the program."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from hpcnet.tui import keys
from tests.tui import screenshots
from tests.tui.stage import Stage

PAGE = Path(__file__).parents[2] / "docs" / "tui.md"


def test_the_table_of_keys_is_that_of_the_program() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = [(key, what) for key, _, what in rows]
    assert told == Stage(rounds=1).app.all_keys()
    assert {name for _, name, _ in rows} - {"-"} == keys.ids()


def text_of(svg: str) -> str:
    """Its characters alone: how they are drawn is rich's, of any version."""
    return unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", svg, flags=re.DOTALL))


@pytest.mark.parametrize("name", screenshots.PICTURES)
def test_the_pictures_show_what_is_seen(name: str) -> None:
    """To make them anew: python -m tests.tui.screenshots; then look."""
    picture = (screenshots.DOCS / f"{name}.svg").read_text(encoding="utf-8")
    assert text_of(picture) == text_of(screenshots.take(screenshots.PICTURES[name]))
