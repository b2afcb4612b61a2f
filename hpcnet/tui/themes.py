# SPDX-License-Identifier: Apache-2.0
"""Colours that people with any colour vision can tell apart (after Okabe and Ito, 2008: sky blue and orange,
vermilion, bluish green, yellow). No meaning is in a colour alone: words and marks say the same.
"""

from __future__ import annotations

from typing import ClassVar

from textual.scrollbar import ScrollBarRender
from textual.theme import BUILTIN_THEMES, Theme


class BlankBar(ScrollBarRender):
    """By its colour alone: the usual one ends in eighths of a block."""

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8


DARK = Theme(
    name="hpcnet-dark",
    dark=True,
    primary="#56B4E9",
    secondary="#3A6E91",
    accent="#E69F00",
    warning="#F0E442",
    error="#FF7A4D",
    success="#2FC49A",
    foreground="#D8DEE4",
    background="#10151A",
    surface="#10151A",
    panel="#1B232B",
    variables={"rx": "#56B4E9", "tx": "#E6A93C", "cursor": "#2A4A66", "cursor-text": "#FFFFFF"},
)

LIGHT = Theme(
    name="hpcnet-light",
    dark=False,
    primary="#00609C",
    secondary="#7FA8C4",
    accent="#A85800",
    warning="#7A5F00",
    error="#B32D00",
    success="#00694D",
    foreground="#1C2329",
    background="#FAFAF8",
    surface="#FAFAF8",
    panel="#E9ECEE",
    variables={"rx": "#00609C", "tx": "#944B00", "cursor": "#CFE3F2", "cursor-text": "#000000"},
)

PLAIN = Theme(
    name="hpcnet-plain",
    dark=True,
    ansi=True,
    primary="ansi_default",
    secondary="ansi_default",
    accent="ansi_default",
    warning="ansi_default",
    error="ansi_default",
    success="ansi_default",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        **BUILTIN_THEMES["ansi-dark"].variables,
        **dict.fromkeys(["rx", "tx", "cursor", "cursor-text"], "ansi_default"),
    },
)
"""Of a terminal without colours, and of NO_COLOR: bold, dim and reverse only."""

THEMES = {"dark": DARK, "light": LIGHT, "plain": PLAIN}
"""By the names of ``hpcnet-tui --theme``."""
