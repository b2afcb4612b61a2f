# SPDX-License-Identifier: Apache-2.0
"""Series as characters. Every drawing stands on zero and has a ceiling that the caller names, so that an idle link
and a full one never look alike; what is not known leaves a gap.

spark([0, 50, 100], ceiling=100, width=3)     -> "▁▅█"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

Series = Sequence[Optional[float]]
"""Oldest first, one value for each interval; None: not known."""

_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.:-=+*#"
_LEFT_DOTS = (0x40, 0x04, 0x02, 0x01)  # of a braille cell (Unicode chart U2800), from the bottom up
_RIGHT_DOTS = (0x80, 0x20, 0x10, 0x08)
_ROWS = 4  # dots of a braille cell on top of each other


def peak(*series: Series) -> float:
    """The largest known value of all, 0 without one."""
    return max((value for each in series for value in each if value is not None), default=0.0)


def spark(series: Series, ceiling: float, width: int, ascii_only: bool = False) -> str:
    """One line of the newest ``width`` values; the lowest level is zero alone, gaps are blank."""
    levels = _ASCII_LEVELS if ascii_only else _LEVELS
    return "".join(_level(value, ceiling, levels) for value in series[-width:]).rjust(width) if width > 0 else ""


def _level(value: float | None, ceiling: float, levels: str) -> str:
    if value is None:
        return " "
    if value <= 0 or ceiling <= 0:
        return levels[0]
    top = len(levels) - 1
    return levels[min(top, 1 + int(min(value / ceiling, 1.0) * (top - 0.5)))]


def area(series: Series, ceiling: float, width: int, height: int, down: bool = False) -> list[str]:
    """``height`` lines of ``width`` braille characters, two values each: the newest values as a filled area that
    grows from the bottom, or ``down`` from the top.
    """
    values = series[-2 * width :]
    heights = [0] * (2 * width - len(values)) + [_dots(value, ceiling, height * _ROWS) for value in values]
    lines = []
    for row in range(height):
        base = (row if down else height - 1 - row) * _ROWS
        cells = zip(heights[::2], heights[1::2])
        lines.append("".join(_braille(left - base, right - base, down) for left, right in cells))
    return lines


def _dots(value: float | None, ceiling: float, most: int) -> int:
    if value is None or value <= 0 or ceiling <= 0:
        return 0
    return max(1, min(most, round(value / ceiling * most)))


def _braille(left: int, right: int, down: bool) -> str:
    bits = 0
    for filled, dots in ((left, _LEFT_DOTS), (right, _RIGHT_DOTS)):
        order = dots[::-1] if down else dots
        for dot in order[: max(0, filled)]:
            bits |= dot
    return chr(0x2800 + bits) if bits else " "


def ascii_area(series: Series, ceiling: float, width: int, height: int, down: bool = False) -> list[str]:
    """As ``area``, one value a character, of ``#`` and, for the upper half of a step, ``:``."""
    values = series[-width:]
    heights = [0] * (width - len(values)) + [_dots(value, ceiling, height * 2) for value in values]
    lines = []
    for row in range(height):
        base = (row if down else height - 1 - row) * 2
        lines.append("".join(" :#"[max(0, min(2, each - base))] for each in heights))
    return lines
