# SPDX-License-Identifier: Apache-2.0
"""Whether the colours can be read, and told apart by people whose eyes have two kinds of cones of three.

The colours as such eyes see them: Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of
Color Vision Deficiency (2009), severity 1.0. Contrast: WCAG 2.1, 1.4.3. Difference: CIE 1976.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from textual.theme import Theme

from hpcnet.tui.themes import DARK, LIGHT

Colour = tuple[float, float, float]
"""Linear light, 0 to 1."""

EYES = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
THEMES = [DARK, LIGHT]


def linear(text: str) -> Colour:
    parts = (int(text[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def seen(colour: Colour, eye: str) -> Colour:
    red, green, blue = (
        min(1.0, max(0.0, sum(factor * part for factor, part in zip(row, colour)))) for row in EYES[eye]
    )
    return red, green, blue


def luminance(colour: Colour) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def lab(colour: Colour) -> Colour:
    """CIE L*a*b* (D65)."""
    red, green, blue = colour
    xyz = (
        (0.4124564 * red + 0.3575761 * green + 0.1804375 * blue) / 0.95047,
        0.2126729 * red + 0.7151522 * green + 0.0721750 * blue,
        (0.0193339 * red + 0.1191920 * green + 0.9503041 * blue) / 1.08883,
    )
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def difference(one: Colour, other: Colour) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(lab(one), lab(other))) ** 0.5)


def texts(theme: Theme) -> dict[str, str]:
    """What is written in which colour."""
    named = {name: getattr(theme, name) for name in ("primary", "warning", "error", "success", "foreground")}
    return {**named, "rx": theme.variables["rx"], "tx": theme.variables["tx"]}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: str(theme.name))
def test_text_can_be_read(theme: Theme, eye: str) -> None:
    grounds = [theme.background, theme.panel]
    found = {
        (name, ground): contrast(seen(linear(text), eye), seen(linear(ground), eye))
        for name, text in texts(theme).items()
        for ground in grounds
        if ground
    }
    found["cursor", ""] = contrast(
        *(seen(linear(theme.variables[name]), eye) for name in ("cursor", "cursor-text"))
    )
    assert {where: round(value, 1) for where, value in found.items() if value < 4.5} == {}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: str(theme.name))
def test_received_is_not_taken_for_sent_nor_good_for_bad(theme: Theme, eye: str) -> None:
    """Of warnings and errors the latter are bold."""
    told = texts(theme)
    for pair in (("rx", "tx"), ("success", "error"), ("foreground", "error")):
        one, other = (seen(linear(told[name]), eye) for name in pair)
        assert difference(one, other) > 20, pair


def test_the_measure_itself() -> None:
    """Red and green of one brightness: told apart by usual eyes, not by deutan ones; black and white by all."""
    red, green = linear("#B85C00"), linear("#7A7A00")
    assert difference(red, green) > 40 > 20 > difference(seen(red, "deutan"), seen(green, "deutan"))
    assert contrast(linear("#000000"), linear("#FFFFFF")) == pytest.approx(21)
    for eye in EYES:
        for one, other in combinations(("#000000", "#FFFFFF", "#808080"), 2):
            assert difference(seen(linear(one), eye), seen(linear(other), eye)) > 40
