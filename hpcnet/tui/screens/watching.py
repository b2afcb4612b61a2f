# SPDX-License-Identifier: Apache-2.0
"""What the screens with a table have in common: a line on top, a filter, an order, painting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from hpcnet.tui import figures
from hpcnet.tui.session import Session
from hpcnet.tui.view import Order
from hpcnet.tui.widgets.facts import Part, TopBar
from hpcnet.tui.widgets.keyline import KeyLine
from hpcnet.tui.widgets.table.table import Table

if TYPE_CHECKING:
    from textual.widgets import Input

SORT = Binding.Group("sort", compact=True)


class Watching(Screen[None]):
    """A screen that is painted anew each interval, out of what ``load`` has read."""

    AUTO_FOCUS = "Table"
    ORDERS: ClassVar[tuple[str, ...]] = ()
    """Columns that it can be sorted by."""
    NUMBERS: ClassVar[bool] = True
    """Whether it shows counters, in some unit."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash",
            "filter",
            "filter",
            id="filter",
            key_display="/",
            tooltip="Show only rows with these words",
            priority=True,  # done before the next key is looked at, which is a letter of a word and no command
        ),
        Binding("s", "sort", "sort", id="sort", group=SORT, tooltip="Sort by the next column"),
        Binding("r", "turn", "reverse", id="reverse", group=SORT, tooltip="Sort the other way round"),
        Binding(
            "escape", "back", "back", id="back", key_display="esc", tooltip="Leave this screen, or the filter"
        ),
    ]

    def __init__(self, session: Session, order: Order | None = None) -> None:
        super().__init__()
        self.session = session
        self.order = order
        self.words = ""
        """The filter."""
        self._line: Input | None = None
        self.now = 0.0
        """Of what is shown, Unix seconds."""

    # -- what a screen says of itself

    def load(self) -> None:
        """Read what it shows from the feed."""

    def draw(self) -> None:
        """Show what was read."""

    def where(self) -> list[Part]:
        """For the line on top: where one is."""
        return []

    def content(self) -> ComposeResult:
        """Its widgets between the line on top and the keys."""
        yield from ()

    def document(self) -> dict[str, Any]:
        """What is seen, as JSON."""
        return {}

    # -- what they share

    def compose(self) -> ComposeResult:
        """The frame, and the content."""
        yield TopBar()
        yield from self.content()
        yield KeyLine()

    def on_mount(self) -> None:
        """Show what there is already."""
        for table in self.query(Table):
            table.set_class(self.session.view.ascii, "-ascii")
        self._fit()
        self.reload()

    def on_screen_resume(self) -> None:
        """Back from another screen."""
        self.reload()

    def on_resize(self) -> None:
        """Another layout may fit."""
        self._fit()
        self.call_after_refresh(self.paint)

    def _fit(self) -> None:
        """A small terminal has less room for the plot, and none beside it."""
        self.set_class(self.app.size.height < 32, "-short")
        self.set_class(self.app.size.width < 120, "-narrow")

    def reload(self) -> None:
        """Read and show."""
        self.now = self.session.seen.clock()
        self.load()
        self.paint()

    def paint(self) -> None:
        """Show what was read last."""
        if self.is_mounted:
            with self.app.batch_update():
                self.paint_top()
                self.draw()

    def paint_top(self) -> None:
        """The line on top, which also a frozen screen has anew."""
        self.query_one(TopBar).show(self.where(), list(self._state()))

    def _state(self) -> Iterator[Part]:
        session, feed = self.session, self.session.feed
        if self.words:
            yield f"/{self.words}  ", "notice"
        if session.recording:
            yield "recording  ", "notice"
        if session.still is not None:
            yield f"frozen {figures.duration(feed.clock() - session.still.clock())}  ", "notice"
        if feed.problem:
            yield "no answer from Slurm  ", "notice"
        if session.what:
            over = " is over" if session.replay is not None and session.replay.over else ""
            yield f"{session.what}{over}  ", "title"
        yield f"every {feed.interval:g} s", "muted"

    def action_sort(self) -> None:
        """By the next column."""
        if self.order is not None:
            self.order = self.order.next(self.ORDERS)
            self.paint()

    def action_turn(self) -> None:
        """The other way round."""
        if self.order is not None:
            self.order = self.order.turned()
            self.paint()

    @on(Table.HeadClicked)
    def _head_clicked(self, event: Table.HeadClicked) -> None:
        if self.order is not None and event.column in self.ORDERS:
            same = event.column == self.order.column
            self.order = self.order.turned() if same else Order(event.column)
            self.paint()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that do nothing on a screen are not shown there."""
        if action in ("sort", "turn"):
            return len(self.ORDERS) > 1
        if action == "cleanup":
            return self.session.commands is not None and self.session.commands.may_clean
        if action == "filter":
            return self._line is None or not self._line.has_focus  # there "/" is a letter
        if action == "back":
            return bool(self.words) or len(self.app.screen_stack) > 1
        return True

    # -- the filter

    async def action_filter(self) -> None:
        """Type words. The line for it is made when it is first wanted: it would hold up the first screen."""
        if self._line is None:
            from textual.widgets import Input

            hint = "words; enter keeps them, esc clears them"
            self._line = Input(id="filter", placeholder=hint, compact=True)
            await self.mount(self._line, before=self.query_one(KeyLine))
        self._line.value = self.words
        self._line.add_class("-open")
        self.set_focus(self._line)  # at once, unlike line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Other words."""
        self.words = event.value.strip()
        self.refresh_bindings()
        self.paint()

    def on_input_submitted(self) -> None:
        """Keep them, and close the line; a second enter, typed before that was done, is the table's."""
        if self._line is not None and self._line.has_class("-open"):
            self._close_line(self._line)
        else:
            self.query_one(Table).action_choose()

    def _close_line(self, line: Input) -> None:
        line.remove_class("-open")
        self.set_focus(self.query_one(Table))

    def action_back(self) -> None:
        """Out of the filter, else out of the screen."""
        if self._line is not None and (self._line.has_class("-open") or self.words):
            self._line.value = self.words = ""
            self._close_line(self._line)
            self.paint()
        elif len(self.app.screen_stack) > 1:
            self.app.pop_screen()
