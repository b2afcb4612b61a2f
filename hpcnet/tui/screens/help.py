# SPDX-License-Identifier: Apache-2.0
"""Keys, marks and what the numbers mean."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from hpcnet.tui.rows import PARTLY, STALE, TROUBLE
from hpcnet.tui.session import Session
from hpcnet.tui.widgets.facts import TopBar
from hpcnet.tui.widgets.keyline import KeyLine

_MEANING = """\
RX and TX are what the job's tasks and containers have received and sent, by the counters of their interfaces.
What carries it (the VXLAN device, the port of the fabric) counts the same bytes again and is shown apart.
"-" is not known: no second sample yet, a counter that cannot be read, a node that says nothing. It is never 0.
A sum with "{sign}" lacks nodes of which nothing is known.
LINK is the share of the link's rate that the busier direction takes; so high are the small bars, from zero up.
DROP+ERR are drops and errors both ways since the interface was made; in bold while they grow.
Nodes are folded by what they move: slow is under half of the median, fast over twice the median."""


class HelpScreen(Screen[None]):
    """Made out of the bindings themselves, so it is true also of keys of the user's own."""

    AUTO_FOCUS = "#help"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark", "app.pop_screen", "back", key_display="esc"),
    ]

    def __init__(self, session: Session, keys: list[tuple[str, str]]) -> None:
        super().__init__()
        self._session = session
        self._keys = keys

    def compose(self) -> ComposeResult:
        """Text, as long as it is."""
        yield TopBar()
        with VerticalScroll(id="help"):
            yield Static(id="text")
        yield KeyLine()

    def on_mount(self) -> None:
        """Write it."""
        self.query_one(TopBar).show([("hpcnet ", "title"), (" help", "")], [("", "")])
        plain = self._session.view.ascii
        text = Text()
        text.append("Keys\n", "bold")
        for key, what in self._keys:
            text.append(f"  {key:<12}", "bold")
            text.append(f"{what}\n")
        text.append("\nMarks\n", "bold")
        for mark, what in (
            (STALE, "nothing is heard of it any more; the row is dim"),
            (PARTLY, "nothing is heard of some of its nodes"),
            (TROUBLE, "its traffic stands still, or cannot be told; Events say why"),
        ):
            text.append(f"  {mark[plain]:<12}", "bold")
            text.append(f"{what}\n")
        text.append("\nNumbers\n", "bold")
        text.append(_MEANING.format(sign=">" if plain else "≥"))
        self.query_one("#text", Static).update(text)
