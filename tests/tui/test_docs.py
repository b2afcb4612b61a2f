# SPDX-License-Identifier: Apache-2.0
"""docs/tui.md tells the keys that there are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tui.stage import Stage

PAGE = Path(__file__).parents[2] / "docs" / "tui.md"


def test_the_table_of_keys_is_that_of_the_program() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = [(key, what) for key, _, what in rows]
    assert told == Stage(rounds=1).app.all_keys()
