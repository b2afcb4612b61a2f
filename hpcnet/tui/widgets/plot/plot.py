# SPDX-License-Identifier: Apache-2.0
"""Received above the axis, sent below it, both from zero to the link's rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from hpcnet.tui.draw import Series, area, hanging, peak
from hpcnet.tui.figures import duration, quantity

_AXIS = 6
_REVERSED = Style(reverse=True)

_Line = tuple[str, "list[tuple[str, bool]]", str]
"""Label, pieces of text with whether they are reversed, name of the style."""


class Plot(Widget):
    """The newest points at the right; as many as there is room for."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"plot--rx", "plot--tx", "plot--axis"}

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._ascii = ascii_only
        self._rx: Series = ()
        self._tx: Series = ()
        self._ceiling: float | None = None
        self._times: Sequence[float] = ()
        self._unit = ""
        self._seen: list[_Line] = []  # what the terminal has

    def show(self, rx: Series, tx: Series, ceiling: float | None, unit: str, times: Sequence[float]) -> None:
        """Draw this. ``ceiling`` is the link's rate; None: it is not known, the largest value stands for it.
        ``times`` of the points, in seconds: the interval between them may have been another one.
        """
        self._rx, self._tx, self._ceiling, self._unit, self._times = rx, tx, ceiling, unit, times
        if self._drawing() != self._seen:
            self.refresh()

    def _drawing(self) -> list[_Line]:
        width, half = self.size.width - _AXIS - 2, (self.size.height - 2) // 2
        if width < 1 or half < 1:
            return []
        ceiling = self._ceiling or peak(self._rx, self._tx)
        up = area(self._rx, ceiling, width, half, self._ascii)
        down = hanging(area(self._tx, ceiling, width, half, self._ascii))
        labels = [quantity(ceiling) if ceiling else "", *[""] * (half - 1)]
        full = "the link's rate" if self._ceiling else "the largest seen"
        heads = (
            f"rx above, tx below, {self._unit}; full height is {full}",
            f"rx above, tx below, {self._unit}",
            "",
        )
        head = next(each for each in heads if len(each) <= width)
        return [
            ("", [(head, False)], "axis"),
            *((label, [(line, False)], "rx") for label, line in zip(labels, up)),
            ("0", [(self._rule(width), False)], "axis"),
            *((label, pieces, "tx") for label, pieces in zip(reversed(labels), down)),
        ]

    def _rule(self, width: int) -> str:
        """The axis: how long ago the oldest point is, where it is, and now."""
        line, shown = "-" if self._ascii else "─", self._times[-width:]
        past = f"-{duration(shown[-1] - shown[0])} " if len(shown) > 1 else ""
        before = min(width - len(shown), max(0, width - len(past) - 4))
        rule = (line * (before - 1) + " " if before else "") + past
        return f"{rule}{line * max(0, width - len(rule) - 4)} now"[:width]

    def render_line(self, y: int) -> Strip:
        """One line of the widget."""
        if y == 0:
            self._seen = self._drawing()
        base = self.rich_style
        if y >= len(self._seen):
            return Strip.blank(self.size.width, base)
        label, pieces, name = self._seen[y]
        style = self.get_component_rich_style(f"plot--{name}")
        segments = [Segment(f"{label:>{_AXIS}} ", self.get_component_rich_style("plot--axis"))]
        segments += [Segment(text, style + _REVERSED if turned else style) for text, turned in pieces]
        return Strip(segments).adjust_cell_length(self.size.width, base)
