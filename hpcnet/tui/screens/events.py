# SPDX-License-Identifier: Apache-2.0
"""What happened while one watched."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from textual.app import ComposeResult

from hpcnet.tui.events import ERROR, INFO, Event
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session
from hpcnet.tui.view import matches
from hpcnet.tui.widgets.facts import Part
from hpcnet.tui.widgets.table.columns import Column
from hpcnet.tui.widgets.table.table import Row, Table

_COLUMNS = [
    Column("time", "TIME", 8),
    Column("grade", "", 7),
    Column("job", "JOB", 9),
    Column("text", "WHAT", 20, grow=1),
]


class EventsScreen(Watching):
    """The newest event on top."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._events: list[Event] = []

    def content(self) -> ComposeResult:
        """The table."""
        yield Table(_COLUMNS, id="events", empty="nothing has happened yet", opens=False)

    def load(self) -> None:
        """All of them."""
        self._events = self.session.feed.events()

    def _shown(self) -> list[tuple[str, Event]]:
        # Numbered from the oldest: the cursor stays on its event when newer ones come.
        numbered = [(str(number), event) for number, event in enumerate(self._events)]
        return [
            (key, each) for key, each in reversed(numbered) if matches(self.words, each.grade, each.job, each.text)
        ]

    def draw(self) -> None:
        """The rows."""
        shown = dict(self._shown())

        def row(key: str, widths: dict[str, int]) -> Row:
            event = shown[key]
            style = "bad" if event.grade == ERROR else "muted" if event.grade == INFO else "warning"
            when = time.strftime("%H:%M:%S", time.localtime(event.time))
            return Row(((when, "muted"), (event.grade, style), (event.job or "-", "strong"), (event.text, "")))

        self.query_one(Table).show(list(shown), row)

    def where(self) -> list[Part]:
        """How many."""
        return [("hpcnet ", "title"), (f" {len(self._shown())} events", "")]

    def document(self) -> dict[str, Any]:
        """The events, newest first."""
        return {"events": [asdict(event) for _, event in self._shown()]}
