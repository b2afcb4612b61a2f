# SPDX-License-Identifier: Apache-2.0
"""Numbers as text, three digits wide enough to compare down a column. What is not known is ``-``, never 0.

quantity(9_812_345_678)      -> "9.81G"
duration(4025)               -> "1h07m"
share(0.5312)                -> "53%"
"""

from __future__ import annotations

from typing import Optional

UNKNOWN = "-"

Number = Optional[float]
"""None: not known."""


def quantity(value: Number) -> str:
    """At most six characters, with a decimal prefix: ``0``, ``0.3``, ``999``, ``1.02k``, ``98.1M``."""
    if value is None:
        return UNKNOWN
    if value < 0:
        return "-" + quantity(-value)
    if value < 999.5:
        return f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"
    for prefix in "kMGTPE":
        value /= 1000
        if value < 999.5 or prefix == "E":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{prefix}"


def exact(value: Number) -> str:
    """Every digit, in groups of three: ``1,234,567``; a fraction is cut at one digit."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def share(part: Number) -> str:
    """Per cent of one; ``<1%`` is not nothing."""
    if part is None:
        return UNKNOWN
    return "<1%" if 0 < part < 0.01 else f"{part:.0%}"


def duration(seconds: Number) -> str:
    """The two largest units: ``42s``, ``5m03s``, ``1h07m``, ``3d04h``."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    for unit, size, below, lower in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // lower:02}{below}"
    return f"{whole}s"
