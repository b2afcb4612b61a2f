# SPDX-License-Identifier: Apache-2.0
"""The keys that do something on this screen, in as many lines as they need: Textual's footer cuts them off. Those
that are not needed to get along (``show=False``, with a tooltip) stand behind them where there is room.
"""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget


class KeyLine(Widget):
    """Keys of a group stand together; each can be clicked."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key", "keys--what"}

    def on_mount(self) -> None:
        """Follow what the keys do."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, screen: Screen[object]) -> None:
        self.refresh(layout=True)

    def _words(self, active: list[Binding], spare: bool) -> list[list[Binding]]:
        """Those of one group together, each action once."""
        shown = [each for each in active if each.show]
        if spare:
            told = {each.action for each in shown}
            shown = [each for each in active if each.tooltip and not each.show and each.action not in told]
        once = list({binding.action: binding for binding in reversed(shown)}.values())[::-1]
        words: dict[object, list[Binding]] = {}
        for binding in once:
            words.setdefault(binding.group or binding.action, []).append(binding)
        return list(words.values())

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many lines as it takes."""
        return len(self._lines_of(width))

    def _lines_of(self, width: int) -> list[list[list[Binding]]]:
        lines: list[list[list[Binding]]] = [[]]
        used = 0
        short = self.app.size.height < 32
        active = [each.binding for each in self.screen.active_bindings.values() if each.enabled]
        for spare in (False, True):
            for word in self._words(active, spare):
                length = len(self._keys(word)) + 1 + len(_what(word))
                if used and used + 2 + length > width:
                    if spare and short:
                        break
                    lines.append([])
                    used = 0
                lines[-1].append(word)
                used += length + (2 if used else 0)
        return lines

    def _keys(self, word: list[Binding]) -> str:
        return " ".join(self.app.get_key_display(binding) for binding in word)

    def render(self) -> Text:
        """The lines."""
        key_style = self.get_component_rich_style("keys--key")
        what_style = self.get_component_rich_style("keys--what")
        text = Text(no_wrap=True)
        for number, line in enumerate(self._lines_of(self.size.width)):
            text.append("\n" if number else "")
            for place, word in enumerate(line):
                text.append("  " if place else "")
                for index, binding in enumerate(word):
                    click = Style.from_meta({"@click": f"app.simulate_key({binding.key!r})"})
                    text.append(" " if index else "")
                    text.append(self.app.get_key_display(binding), key_style + click)
                text.append(f" {_what(word)}", what_style)
        return text


def _what(word: list[Binding]) -> str:
    group = word[0].group
    return group.description if group else word[0].description
