# SPDX-License-Identifier: Apache-2.0
"""Which columns of a table a width has room for, and how wide each is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hpcnet.frozen import frozen

GAP = 2
"""Blanks between two columns."""


@frozen
class Column:
    """One column. Widths are in characters."""

    name: str
    """By which it is sorted."""
    title: str
    width: int
    right: bool = False
    """Aligned to the right, as numbers are."""
    grow: int = 0
    """Its share of the room that is left over; 0: none."""
    most: int = 1000
    """It grows no wider."""
    rank: int = 0
    """The higher, the sooner it is left out where there is no room; 0: never."""


def fit(columns: Sequence[Column], room: int) -> list[tuple[int, int]]:
    """``(index, width)`` of the columns that fit, in order; those of the highest rank are left out first."""
    shown = list(range(len(columns)))
    while _needed(columns, shown) > room:
        last = max(shown, key=lambda index: (columns[index].rank, index))
        if not columns[last].rank:
            break
        shown.remove(last)
    widths = {index: columns[index].width for index in shown}
    left = room - _needed(columns, shown)
    while left > 0:
        growing = [index for index in shown if columns[index].grow and widths[index] < columns[index].most]
        if not growing:
            break
        parts, whole = sum(columns[index].grow for index in growing), left
        for index in growing:
            share = max(1, whole * columns[index].grow // parts)
            more = min(share, columns[index].most - widths[index], left)
            widths[index] += more
            left -= more
    return [(index, widths[index]) for index in shown]


def _needed(columns: Sequence[Column], shown: Sequence[int]) -> int:
    return sum(columns[index].width + GAP for index in shown) - GAP if shown else 0
