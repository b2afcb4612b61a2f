# SPDX-License-Identifier: Apache-2.0
"""A table of any number of rows, each with a key. The cursor is on a row, not on a line: it stays with its row
when rows are sorted, come and go. Only lines that are seen are drawn, and only what changed in them is sent.

Textual's DataTable keeps its cursor by line, and builds all of its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Callable, ClassVar, Optional

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hpcnet.frozen import frozen
from hpcnet.tui.widgets.facts import Part, pair
from hpcnet.tui.widgets.table.columns import GAP, Column, fit

_COLOURED = ("rx", "tx", "bad", "warning", "good")
STYLES = ("muted", *_COLOURED, "strong")


@frozen
class Row:
    """One row as it is drawn."""

    cells: tuple[tuple[str, str], ...]
    """Text and style, for each column; a style is one of STYLES or empty."""
    stale: bool = False
    """Drawn dim."""


DrawRow = Callable[[str, "dict[str, int]"], Row]
"""Draws the row of a key, given the widths of the columns that are shown, by name."""

_Line = tuple[Optional[Row], object]
"""All that a line of the widget depends on; the row is None for the heads and for a blank line."""


class Table(ScrollView, can_focus=True):
    """Rows that one can walk over; the first line is the heads of the columns."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--heads",
        "table--sorted",
        "table--cursor",
        "table--stale",
        *(f"table--{style}" for style in STYLES),
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home,g", "move(-1000000)", "first", show=False),
        Binding("end,G", "move(1000000)", "last", show=False),
        Binding("enter", "choose", "open", True, "enter", id="open", tooltip="Open what the cursor is on"),
    ]

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, table: Table, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

    class Chosen(Message):
        """Enter, or a click on the row that the cursor is on."""

        def __init__(self, table: Table, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

    class HeadClicked(Message):
        """A click on a head."""

        def __init__(self, table: Table, column: str) -> None:
            super().__init__()
            self.table = table
            self.column = column

    def __init__(
        self, columns: Sequence[Column], *, empty: str = "", opens: bool = True, id: str | None = None
    ) -> None:
        """``opens``: enter does something."""
        super().__init__(id=id)
        self.columns = list(columns)
        self.empty = empty
        """Shown when there is no row."""
        self._opens = opens
        self.key: str | None = None
        """Of the row that the cursor is on; None: there is no row."""
        self._keys: list[str] = []
        self._at = 0  # the index of the cursor's row; where the cursor stays when that is gone
        self._row: DrawRow = lambda key, widths: Row(())
        self._order = ("", False)
        self._drawn: dict[int, _Line] = {}  # by line of the widget: what the terminal has

    def show(self, keys: Sequence[str], row: DrawRow, order: tuple[str, bool] = ("", False)) -> None:
        """These rows from now on; ``order`` is the column that they are sorted by, and whether downwards."""
        self._keys, self._row, self._order = list(keys), row, order
        self._anchor()
        size = Size(0, len(self._keys) + 1)
        if size != self.virtual_size:
            self.virtual_size = size
            self._redraw()
        self._refresh_changed()

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Other columns."""
        if list(columns) != self.columns:
            self.columns = list(columns)
            self._redraw()

    def _redraw(self) -> None:
        self._drawn.clear()
        self.refresh()

    def _anchor(self) -> None:
        """Put the cursor back on its row; if that is gone, on the one that took its place."""
        if not self._keys:
            self.key, self._at = None, 0
            return
        before = self._at
        if self.key in self._keys:
            self._at = self._keys.index(self.key)
        else:
            self._at = min(self._at, len(self._keys) - 1)
            self.key = self._keys[self._at]
            self.post_message(self.Moved(self, self.key))
        # Who has scrolled the cursor out of sight stays where he is.
        top = int(self.scroll_offset.y)
        if self._at != before and top <= before < top + self._page:
            self.call_after_refresh(self._reveal)

    @property
    def _page(self) -> int:
        return max(1, self.size.height - 1)

    def _reveal(self) -> None:
        top = int(self.scroll_offset.y)
        if self._at < top:
            self.scroll_to(y=self._at, animate=False)
        elif self._at >= top + self._page:
            self.scroll_to(y=self._at - self._page + 1, animate=False)

    # -- drawing

    def _fit(self) -> list[tuple[int, int]]:
        return fit(self.columns, self.size.width - 2)

    def left_out(self, row: Row, told: Collection[str] = ()) -> list[Part]:
        """Of a row, what stands in the columns that have no room; but not what is ``told`` already."""
        shown = {index for index, _ in self._fit()}
        shown.update(index for index, column in enumerate(self.columns) if column.name in told)
        rest = [
            (column.title.lower(), row.cells[at][0]) for at, column in enumerate(self.columns) if at not in shown
        ]
        return [part for name, value in rest if value for part in pair(name, value)]

    def _line(self, y: int, fitted: list[tuple[int, int]], widths: dict[str, int]) -> _Line:
        if y == 0:
            return None, (self._order, tuple(fitted))
        index = y - 1 + int(self.scroll_offset.y)
        if index >= len(self._keys):
            return None, self.empty if not self._keys and y == 2 else ""
        row = self._row(self._keys[index], widths)
        return row, (index == self._at, self.has_focus, tuple(fitted))

    def _refresh_changed(self) -> None:
        fitted = self._fit()
        widths = {self.columns[index].name: width for index, width in fitted}
        for y, before in list(self._drawn.items()):
            now = self._line(y, fitted, widths)
            if now != before:
                self.refresh(self._difference(y, before, now, fitted))

    def _difference(self, y: int, before: _Line, now: _Line, fitted: list[tuple[int, int]]) -> Region:
        """The part of a line that is to be sent: from its first column that changed to its last."""
        (old, _), (new, _) = before, now
        whole = Region(0, y, self.size.width, 1)
        if old is None or new is None or before[1] != now[1] or old.stale != new.stale:
            return whole
        x, first, end = 1, -1, 0
        for index, width in fitted:
            if old.cells[index] != new.cells[index]:
                first, end = (x if first < 0 else first), x + width
            x += width + GAP
        return Region(first, y, end - first, 1) if first >= 0 else whole

    def render_line(self, y: int) -> Strip:
        """One line of the widget."""
        fitted = self._fit()
        widths = {self.columns[index].name: width for index, width in fitted}
        row, rest = self._drawn[y] = self._line(y, fitted, widths)
        if y == 0:
            return self._heads(fitted)
        base = self.rich_style
        if row is None:
            return Strip([Segment(set_cell_size(f" {rest}", self.size.width), base)])
        index = y - 1 + int(self.scroll_offset.y)
        over = "cursor" if index == self._at else "stale" if row.stale else ""
        if over:
            base = self.get_component_rich_style(f"table--{over}")
        segments = [Segment(" ", base)]
        for index, width in fitted:
            text, style = row.cells[index]
            look = base if not style or row.stale else self.get_component_rich_style(f"table--{style}")
            if over and look is not base:
                look = base + Style(color=look.color) if style in _COLOURED else base
            text = _cut(text, width, self.columns[index].right)
            segments += [Segment(text, look), Segment(" " * GAP, base)]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def _heads(self, fitted: list[tuple[int, int]]) -> Strip:
        style = self.get_component_rich_style("table--heads")
        chosen = self.get_component_rich_style("table--sorted")
        name, down = self._order
        mark = ("^v" if self.has_class("-ascii") else "▲▼")[down]
        segments = [Segment(" ", style)]
        for index, width in fitted:
            column = self.columns[index]
            is_sorted = column.name == name
            title = column.title
            if is_sorted:
                title = mark + title if column.right else title + mark
            look = chosen if is_sorted else style
            segments += [Segment(_cut(title, width, column.right), look), Segment(" " * GAP, style)]
        return Strip(segments).adjust_cell_length(self.size.width, style)

    def notify_style_update(self) -> None:
        """Another theme."""
        super().notify_style_update()
        self._redraw()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """All lines are others."""
        super().watch_scroll_y(old_value, new_value)
        self._redraw()

    def on_resize(self) -> None:
        """Other columns may fit."""
        self._redraw()
        self.call_after_refresh(self._reveal)

    def on_focus(self) -> None:
        """The cursor looks another way."""
        self._refresh_changed()

    def on_blur(self) -> None:
        """The cursor looks another way."""
        self._refresh_changed()

    # -- moving

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enter is a key only where it does something."""
        return self._opens or action != "choose"

    def action_move(self, rows: int) -> None:
        """Put the cursor so many rows further."""
        if self._keys:
            self.go(self._keys[max(0, min(len(self._keys) - 1, self._at + rows))])

    def action_page(self, pages: int) -> None:
        """Put the cursor so many pages further."""
        self.action_move(pages * self._page)

    def go(self, key: str) -> None:
        """Put the cursor on this row, if it is there."""
        if key not in self._keys or key == self.key:
            return
        self.key, self._at = key, self._keys.index(key)
        self._reveal()
        self._refresh_changed()
        self.post_message(self.Moved(self, key))

    def action_choose(self) -> None:
        """Open the row that the cursor is on."""
        if self.key is not None:
            self.post_message(self.Chosen(self, self.key))

    def on_click(self, event: events.Click) -> None:
        """A head sorts; a row takes the cursor, and is opened when it has it."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            x = 1
            for index, width in self._fit():
                if x <= offset.x < x + width + GAP:
                    self.post_message(self.HeadClicked(self, self.columns[index].name))
                x += width + GAP
            return
        index = offset.y - 1 + int(self.scroll_offset.y)
        if index < len(self._keys):
            if self._keys[index] == self.key:
                self.action_choose()
            else:
                self.go(self._keys[index])


def _cut(text: str, width: int, right: bool) -> str:
    """Exactly so wide; what is cut off leaves a mark."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "~"
    blanks = " " * (width - length)
    return blanks + text if right else text + blanks
