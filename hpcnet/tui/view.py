# SPDX-License-Identifier: Apache-2.0
"""How the user wants numbers and rows: the state that the keys change. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable, TypeVar

from hpcnet.counters.model import Counters
from hpcnet.counters.rates import Rates
from hpcnet.frozen import frozen
from hpcnet.tui.picture import Point

INTERVALS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between samples that one can choose."""

_Item = TypeVar("_Item")


@frozen
class View:
    """What holds for all screens."""

    bytes: bool = False
    """Bytes, not bits."""
    packets: bool = False
    """Packets, whatever ``bytes`` says."""
    total: bool = False
    """What was counted so far, not what it is per second."""
    mine: bool = False
    """The viewer's own jobs only."""
    frozen: bool = False
    ascii: bool = False

    @property
    def unit(self) -> str:
        """Such as bit/s."""
        name = "pkt" if self.packets else "B" if self.bytes else "bit"
        return name if self.total else f"{name}/s"

    @property
    def rate_unit(self) -> str:
        """The unit of a plot, which is of rates always."""
        return "pkt/s" if self.packets else "B/s" if self.bytes else "bit/s"

    def _scaled(self, value: float | None) -> float | None:
        return value if value is None or self.packets or self.bytes else value * 8

    def values(self, rates: Rates, counted: Counters) -> tuple[float | None, float | None]:
        """Received and sent, in ``unit``."""
        of = counted if self.total else rates
        if self.packets:
            return of.rx_packets, of.tx_packets
        return self._scaled(of.rx_bytes), self._scaled(of.tx_bytes)

    def series(self, history: Iterable[Point]) -> tuple[list[float | None], list[float | None]]:
        """Received and sent over time, in ``rate_unit``."""
        first = 2 if self.packets else 0
        points = list(history)
        return [self._scaled(each[first]) for each in points], [self._scaled(each[first + 1]) for each in points]

    def ceiling(self, speed: int | None) -> float | None:
        """The link's rate in ``rate_unit``; packets have none."""
        if speed is None or self.packets:
            return None
        return speed / 8 if self.bytes else float(speed)


@frozen
class Order:
    """By what rows are sorted."""

    column: str
    down: bool = True

    def next(self, columns: Iterable[str]) -> Order:
        """By the column behind this one."""
        names = list(columns)
        at = names.index(self.column) + 1 if self.column in names else 0
        return Order(names[at % len(names)], self.down)

    def turned(self) -> Order:
        """The other way round."""
        return Order(self.column, not self.down)

    def sort(self, items: Iterable[_Item], keys: Mapping[str, Callable[[_Item], Any]]) -> list[_Item]:
        """In this order; what is not known comes last, whichever way; equals stay as they were."""
        of = keys[self.column]
        known: list[_Item] = []
        unknown: list[_Item] = []
        for item in items:
            (unknown if of(item) is None else known).append(item)
        return sorted(known, key=of, reverse=self.down) + unknown


def matches(text: str, *fields: str) -> bool:
    """Whether each word of ``text`` is in one of the fields, upper or lower case."""
    haystack = [field.lower() for field in fields]
    return all(any(word in field for field in haystack) for word in text.lower().split())
