# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures in docs/:  python -m tests.tui.screenshots"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from tests.tui.stage import Stage

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = {"tui-jobs": [], "tui-job": ["enter"], "tui-events": ["v"]}


def main() -> None:
    """One file for each."""
    for name, keys in PICTURES.items():
        stage = Stage(rounds=150)

        async def play(pilot: Pilot[Any], stage: Stage = stage, name: str = name, keys: list[str] = keys) -> None:
            await pilot.press(*keys)
            await pilot.pause()
            (DOCS / f"{name}.svg").write_text(
                stage.app.export_screenshot(title="hpcnet-tui --demo"), encoding="utf-8"
            )

        stage.run(play, (120, 30))


if __name__ == "__main__":
    main()
