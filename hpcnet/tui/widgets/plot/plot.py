# SPDX-License-Identifier: Apache-2.0
"""Received above the axis, sent below it, both from zero to the link's rate."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from hpcnet.tui.draw import Series, area, ascii_area, peak
from hpcnet.tui.figures import duration, quantity

_AXIS = 6


class Plot(Widget):
    """The newest points at the right; as many as there is room for."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"plot--rx", "plot--tx", "plot--axis"}

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._ascii = ascii_only
        self._rx: Series = ()
        self._tx: Series = ()
        self._ceiling: float | None = None
        self._interval = 1.0
        self._unit = ""
        self._seen: list[tuple[str, str, str]] = []  # lines on the terminal: axis, drawing, style

    def show(self, rx: Series, tx: Series, ceiling: float | None, unit: str, interval: float) -> None:
        """Draw this. ``ceiling`` is the link's rate; None: it is not known, the largest value stands for it."""
        self._rx, self._tx, self._ceiling, self._unit, self._interval = rx, tx, ceiling, unit, interval
        if self._drawing() != self._seen:
            self.refresh()

    def _drawing(self) -> list[tuple[str, str, str]]:
        width, half = self.size.width - _AXIS - 2, (self.size.height - 2) // 2
        if width < 1 or half < 1:
            return []
        ceiling = self._ceiling or peak(self._rx, self._tx)
        fill = ascii_area if self._ascii else area
        per_cell = 1 if self._ascii else 2
        top = fill(self._rx, ceiling, width, half)
        bottom = fill(self._tx, ceiling, width, half, down=True)
        known = quantity(ceiling) if ceiling else ""
        labels = [known, *[""] * (half - 1)]
        what = "the link's rate" if self._ceiling else "the largest seen"
        head = f"rx above, tx below, {self._unit}; full height is {what}"
        past = f"-{duration(width * per_cell * self._interval)}"
        rule = "-" if self._ascii else "─"
        return [
            ("", head[:width], "plot--axis"),
            *((label, line, "plot--rx") for label, line in zip(labels, top)),
            ("0", _rule(rule, past, width), "plot--axis"),
            *((label, line, "plot--tx") for label, line in zip(reversed(labels), bottom)),
        ]

    def render_line(self, y: int) -> Strip:
        """One line of the widget."""
        if y == 0:
            self._seen = self._drawing()
        base = self.rich_style
        if y >= len(self._seen):
            return Strip.blank(self.size.width, base)
        label, line, style = self._seen[y]
        axis = self.get_component_rich_style("plot--axis")
        segments = [Segment(f"{label:>{_AXIS}} ", axis), Segment(line, self.get_component_rich_style(style))]
        return Strip(segments).adjust_cell_length(self.size.width, base)


def _rule(rule: str, past: str, width: int) -> str:
    """The axis: how long ago it begins, and now."""
    return f"{past} {rule * max(0, width - len(past) - 5)} now"[:width]
