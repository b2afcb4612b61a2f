# SPDX-License-Identifier: Apache-2.0
"""Bars in SVG, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Figure = Mapping[str, float]
"""``median``, and the ends ``low`` and ``high`` of its line."""

_BAR, _GAP, _LEFT, _SCALE_WIDTH = 14, 4, 220, 420
_OURS, _HOST, _PEER = "#2b6cb0", "#718096", "#dd6b20"


def svg(groups: Sequence[tuple[str, Mapping[str, Figure]]], note: str, ours: Sequence[str] = ()) -> str:
    """A group of bars under each title, all on one scale; ``ours``: how the names of hpcnet's own begin."""
    most = max((figure["median"] for _, bars in groups for figure in bars.values()), default=0.0) or 1.0
    lines, y = [], 10
    for title, bars in groups:
        y += 22
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}</text>')
        for name, figure in bars.items():
            y += _BAR + _GAP
            colour = _HOST if name.startswith("host") else _OURS if name.startswith(tuple(ours)) else _PEER
            lines += _bar(y, name, figure, _SCALE_WIDTH / most, colour)
        y += 12
    width, height = _LEFT + _SCALE_WIDTH + 180, y + 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
    last = f'<text x="10" y="{height - 10}" fill="#4a5568">{escape(note)}</text>'
    return "\n".join(
        [f'{head} font-size="12">', '<rect width="100%" height="100%" fill="white"/>', *lines, last, "</svg>\n"]
    )


def _bar(y: int, name: str, figure: Figure, scale: float, colour: str) -> list[str]:
    long, middle = figure["median"] * scale, y - _BAR / 2
    low, high = (_LEFT + figure[key] * scale for key in ("low", "high"))
    return [
        f'<text x="{_LEFT - 6}" y="{y - 2}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{_LEFT}" y="{y - _BAR}" width="{long:.1f}" height="{_BAR}" fill="{colour}"/>',
        f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="black"/>',
        f'<text x="{max(_LEFT + long, high) + 8:.1f}" y="{y - 2}">{figure["median"]:.1f}</text>',
    ]
