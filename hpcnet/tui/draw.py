# SPDX-License-Identifier: Apache-2.0
"""Series as characters. Every drawing stands on zero and has a ceiling that the caller names, so that an idle link
and a full one never look alike; what is not known leaves a gap.

spark([0, 50, 100], ceiling=100, width=3)     -> "▁▅█"
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Optional

Series = Sequence[Optional[float]]
"""Oldest first, one value for each interval; None: not known."""

_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.:-=+*#"


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


def area(series: Series, ceiling: float, width: int, height: int, ascii_only: bool = False) -> list[str]:
    """``height`` lines of ``width`` characters: the newest values, one a column, as an area that stands on the
    lower edge.
    """
    steps = 2 if ascii_only else 8
    fills = " :#" if ascii_only else " " + _LEVELS
    shown = series[-width:]
    heights = [0] * (width - len(shown)) + [_steps(value, ceiling, height * steps) for value in shown]
    bases = range((height - 1) * steps, -1, -steps)
    return ["".join(fills[max(0, min(steps, each - base))] for each in heights) for base in bases]


def hanging(lines: Sequence[str]) -> list[list[tuple[str, bool]]]:
    """The lines of an ``area`` hung from the upper edge, in pieces of which some are to be drawn in reverse:
    there are no blocks for the upper eighths of a character, but there are for the rest of it.
    """
    return [_pieces(line) for line in reversed(lines)]


def _pieces(line: str) -> list[tuple[str, bool]]:
    turned = [(_LEVELS[6 - _LEVELS.index(each)], True) if each in _LEVELS[:7] else (each, False) for each in line]
    return [("".join(text for text, _ in run), way) for way, run in groupby(turned, key=lambda piece: piece[1])]


def _steps(value: float | None, ceiling: float, most: int) -> int:
    if value is None or value <= 0 or ceiling <= 0:
        return 0
    return max(1, min(most, round(value / ceiling * most)))
