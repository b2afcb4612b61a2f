# SPDX-License-Identifier: Apache-2.0
"""What is wrong now, on which node of which job; below it what happened while one watched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from hpcnet import nodelist
from hpcnet.counters.troubles import ERROR, INFO
from hpcnet.tui import figures
from hpcnet.tui.events import Event
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session
from hpcnet.tui.view import matches
from hpcnet.tui.widgets.facts import Facts, Part, pair, prose
from hpcnet.tui.widgets.table.columns import Column
from hpcnet.tui.widgets.table.table import Row, Table

_COLUMNS = [
    Column("time", "SINCE", 8),
    Column("grade", "", 7),
    Column("job", "JOB", 9),
    Column("node", "NODE", 12, grow=1, most=20),
    Column("text", "WHAT", 20, grow=3),
]


class EventsScreen(Watching):
    """What lasts on top, then the newest; and when it is first opened, what doctor and check say of this host."""

    NUMBERS = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "d",
            "doctor",
            "doctor",
            id="doctor",
            tooltip="Ask doctor and check again; root: also of nodes in trouble",
        ),
    ]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._events: dict[str, Event] = {}

    def on_mount(self) -> None:
        """Examine this host once in a viewing."""
        super().on_mount()
        if not self.session.examined:
            self._examine([])

    def action_doctor(self) -> None:
        """Of this host, and of those on which something is wrong."""
        wrong = [each.node for each in self.session.feed.troubles() if each.node]
        self._examine([node for each in wrong for node in nodelist.expand(each)])

    def _examine(self, nodes: list[str]) -> None:
        """In a thread: it takes seconds."""
        commands, session = self.session.commands, self.session
        if commands is None:
            return
        session.examined = True

        def work() -> None:
            session.feed.note(commands.examine(nodes))
            if not commands.closed:
                self.app.call_from_thread(self.reload)

        self.run_worker(work, thread=True, exclusive=True, exit_on_error=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Of a cluster that is made up there is nothing to ask."""
        if action == "doctor":
            return self.session.commands is not None
        return super().check_action(action, parameters)

    def content(self) -> ComposeResult:
        """The table, and all that the event under the cursor says."""
        yield Table(_COLUMNS, id="events", empty="nothing has happened yet, and nothing is wrong", opens=False)
        yield Facts(id="one")

    def load(self) -> None:
        """All of them, by keys that stay: the cursor stays on its event when newer ones come."""
        lasting = {f"{each.job} {each.time} {each.text}": each for each in self.session.seen.troubles()}
        over = {str(number): each for number, each in self.session.seen.events().items()}
        self._events = {**dict(reversed(lasting.items())), **dict(reversed(over.items()))}

    def _shown(self) -> dict[str, Event]:
        return {
            key: each
            for key, each in self._events.items()
            if matches(self.words, each.grade, each.job, each.node, each.text)
        }

    def draw(self) -> None:
        """The rows, and one of them in full."""
        shown = self._shown()
        table = self.query_one(Table)
        table.show(list(shown), lambda key, widths: _row(shown[key]))
        self.query_one("#one", Facts).show(list(self._in_full(shown.get(table.key or ""))))

    @on(Table.Moved)
    def _moved(self) -> None:
        self.paint()

    def _in_full(self, event: Event | None) -> Iterator[list[Part]]:
        if event is None:
            return
        end = self.now if event.lasts else event.until
        word = "for" if event.lasts else "over after"
        lasted = "" if end is None else f", {word} {figures.duration(end - event.time)}"
        line = pair("since" if event.lasts or event.until else "at", _clock(event.time) + lasted)
        for name, value in (("job", event.job), ("node", event.node)):
            line += pair(name, value) if value else []
        yield line
        yield prose(event.text, "value")
        if event.remedy:
            yield prose(f"-> {event.remedy}", "name")

    def where(self) -> list[Part]:
        """How many."""
        shown = self._shown().values()
        wrong = sum(each.lasts for each in shown)
        what = f" {wrong} wrong now" if wrong else " nothing wrong now"
        return [("hpcnet ", "title"), (what, "notice" if wrong else ""), (f"  {len(shown) - wrong} events", "")]

    def document(self) -> dict[str, Any]:
        """The events as they are seen."""
        return {"events": [asdict(event) for event in self._shown().values()]}


def _row(event: Event) -> Row:
    over = event.until is not None
    style = "muted" if over or event.grade == INFO else "bad" if event.grade == ERROR else "warning"
    remedy = f" -> {event.remedy}" if event.remedy and not over else ""
    return Row(
        (
            (_clock(event.time), "muted"),
            ("over" if over else event.grade, style),
            (event.job or "-", "strong"),
            (event.node or "-", "strong"),
            (event.text + remedy, "muted" if over else ""),
        )
    )


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
