# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures in docs/:  python -m tests.tui.screenshots"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from tests.tui.stage import Stage

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = {"tui-jobs": [], "tui-job": ["enter"], "tui-node": ["enter", "f", "home", "enter"], "tui-events": ["v"]}


def take(keys: list[str]) -> str:
    """What is seen after these keys, as SVG."""
    stage = Stage(rounds=150)
    seen: list[str] = []

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press(*keys)
        await pilot.pause()
        seen.append(stage.app.export_screenshot(title="hpcnet-tui --demo"))

    stage.run(play, (120, 30))
    return seen[0]


def main() -> None:
    """One file for each."""
    for name, keys in PICTURES.items():
        (DOCS / f"{name}.svg").write_text(take(keys), encoding="utf-8")


if __name__ == "__main__":
    main()
