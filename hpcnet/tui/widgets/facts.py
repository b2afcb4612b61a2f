# SPDX-License-Identifier: Apache-2.0
"""Lines of text in several styles: the line on top of each screen, and names with their values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

from rich.text import Text
from textual.geometry import Size
from textual.widget import Widget

Part = tuple[str, str]
"""A text, and the name of its style."""


_APART: Part = ("   ", "")
_BREAK: Part = ("", "")


def pair(name: str, value: str) -> list[Part]:
    """A name and its value, which are not parted at the end of a line."""
    return [(f"{name} ", "name"), (value, "value"), _APART]


def prose(text: str, style: str) -> list[Part]:
    """A sentence, which is broken between words."""
    words = [[(f"{word} ", style), _BREAK] for word in text.split()]
    return [part for word in words for part in word]


class _Styled(Widget):
    prefix: ClassVar[str]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._shown: list[list[Part]] = []

    def _show(self, lines: Sequence[Sequence[Part]]) -> None:
        new = [list(line) for line in lines]
        if new != self._shown:
            self._shown = new
            self.refresh(layout=self.styles.is_auto_height)

    def _text(self, line: Sequence[Part]) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        for part, style in line:
            text.append(part, self.get_component_rich_style(f"{self.prefix}--{style}") if style else "")
        return text


class TopBar(_Styled):
    """Where one is at the left, how it is seen at the right."""

    prefix = "top"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"top--title", "top--notice", "top--muted"}

    def show(self, left: Sequence[Part], right: Sequence[Part]) -> None:
        """Show this; where there is no room for both, the right one is kept."""
        self._show([left, right])

    def render(self) -> Text:
        """Both in one line."""
        left, right = (self._text(line) for line in (self._shown or [[], []]))
        room = self.size.width - right.cell_len
        left.truncate(max(0, room - 1), overflow="ellipsis", pad=False)
        left.pad_right(max(0, room - left.cell_len))
        return Text.assemble(left, right, end="", no_wrap=True)


class Facts(_Styled):
    """Names and values."""

    prefix = "facts"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "facts--name",
        "facts--value",
        "facts--rx",
        "facts--tx",
        "facts--warning",
    }

    def show(self, lines: Sequence[Sequence[Part]]) -> None:
        """Show these lines."""
        self._show(lines)

    def _wrapped(self, width: int) -> list[list[Part]]:
        """Lines no longer than the width, broken between pairs, and between words of prose."""
        lines: list[list[Part]] = []
        for line in self._shown:
            lines.append([])
            used = 0
            for apart, run in groupby(line, key=lambda part: part in (_APART, _BREAK)):
                parts = list(run)
                length = sum(len(text) for text, _ in parts)
                if not apart and used and used + length > width:
                    lines.append([])
                    used = 0
                lines[-1] += parts
                used += length
        return lines

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many lines as it takes."""
        return len(self._wrapped(width))

    def render(self) -> Text:
        """All lines."""
        lines = Text("\n").join(self._text(line) for line in self._wrapped(self.size.width))
        lines.no_wrap, lines.overflow = True, "ellipsis"
        return lines
