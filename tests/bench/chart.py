# SPDX-License-Identifier: Apache-2.0
"""The table as a picture: bars in SVG, by hand."""

from __future__ import annotations

from html import escape
from typing import Any

_BAR, _GAP, _LEFT, _SCALE_WIDTH = 14, 4, 220, 420
_COLOURS = {"hpcnet": "#2b6cb0", "host": "#718096"}
_PEER = "#dd6b20"


def table(document: dict[str, Any]) -> str:
    """One group of bars for each fabric and state of its offloads: Gbit/s of both directions at once, together."""
    groups = [
        (f"fabric MTU {mtu}, offloads {state}", _bars(rows))
        for mtu, states in document["fabrics"].items()
        for state, rows in states.items()
    ]
    most = max((figure["median"] for _, bars in groups for _, figure in bars), default=1.0)
    lines, y = [], 10
    for title, bars in groups:
        y += 22
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}</text>')
        for name, figure in bars:
            y += _BAR + _GAP
            lines += _bar(y, name, figure, _SCALE_WIDTH / most)
        y += 12
    width, height = _LEFT + _SCALE_WIDTH + 180, y + 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
    note = (
        f'<text x="10" y="{height - 10}" fill="#4a5568">Gbit/s, both directions together; lines: quartiles</text>'
    )
    return "\n".join(
        [f'{head} font-size="12">', '<rect width="100%" height="100%" fill="white"/>', *lines, note, "</svg>\n"]
    )


def _bars(rows: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return [(name, row.get("both ways", row.get("one way"))["gbit"]) for name, row in rows.items()]


def _bar(y: int, name: str, figure: dict[str, float], scale: float) -> list[str]:
    colour = _COLOURS.get(name.partition(" ")[0].rstrip(","), _PEER)
    long, middle = figure["median"] * scale, y - _BAR / 2
    low, high = (_LEFT + figure[key] * scale for key in ("low", "high"))
    return [
        f'<text x="{_LEFT - 6}" y="{y - 2}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{_LEFT}" y="{y - _BAR}" width="{long:.1f}" height="{_BAR}" fill="{colour}"/>',
        f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="black"/>',
        f'<text x="{max(_LEFT + long, high) + 8:.1f}" y="{y - 2}">{figure["median"]:.1f}</text>',
    ]
