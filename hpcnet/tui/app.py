# SPDX-License-Identifier: Apache-2.0
"""The application: the screens, the keys that hold on all of them, and the clock that paints.

What the first screen does not need is imported when it is: one waits for the first screen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.screen import Screen
from textual.scrollbar import ScrollBar, ScrollBarRender
from textual.timer import Timer

from hpcnet.errors import UserError
from hpcnet.tui.screens.jobs import JobsScreen
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session
from hpcnet.tui.themes import DARK, PLAIN, THEMES, BlankBar
from hpcnet.tui.view import INTERVALS

if TYPE_CHECKING:
    from hpcnet.tui.recording import Recorder

UNIT = Binding.Group("unit", compact=True)
PACE = Binding.Group("pace", compact=True)


class HpcnetApp(App[None]):
    """Every ``interval`` the feed sums up, and the screen on top is painted unless it is frozen."""

    TITLE = "hpcnet"
    CSS_PATH = "hpcnet.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "space", "freeze", "freeze", id="freeze", key_display="spc", tooltip="Stop painting; sampling goes on"
        ),
        Binding("b", "bytes", "bytes", id="bytes", group=UNIT, tooltip="Bits, or bytes"),
        Binding("p", "packets", "packets", id="packets", group=UNIT, tooltip="Packets, or bits and bytes"),
        Binding(
            "c", "total", "counters", id="counters", group=UNIT, tooltip="Rates per second, or what was counted"
        ),
        Binding(
            "plus,equals_sign",
            "pace(1)",
            "slower",
            id="slower",
            group=PACE,
            key_display="+",
            tooltip="Sample less often",
        ),
        Binding(
            "minus", "pace(-1)", "faster", id="faster", group=PACE, key_display="-", tooltip="Sample more often"
        ),
        Binding("a", "mine", "mine", id="mine", tooltip="My jobs, or all that I may see"),
        Binding("v", "events", "events", id="events", tooltip="What happened while this runs"),
        Binding("e", "export", "export", id="export", tooltip="Write what is seen to a JSON file"),
        Binding(
            "question_mark", "help", "help", id="help", key_display="?", tooltip="Keys and what the numbers mean"
        ),
        Binding("q", "quit", "quit", id="quit", tooltip="End"),
        Binding(
            "w", "record", "record", id="record", show=False, tooltip="Write all samples to a file, to be replayed"
        ),
        Binding("t", "theme", "theme", id="theme", show=False, tooltip="Dark or light"),
        Binding("ctrl+p", "command_palette", "commands", show=False, tooltip="Search for a command"),
    ]

    def __init__(
        self,
        session: Session,
        theme: str = DARK.name,
        keys: dict[str, str] | None = None,
        paced: bool = True,
    ) -> None:
        """``paced``: it starts the feed and calls ``tick`` by itself."""
        # Textual decides here, before it knows the theme, how it obeys NO_COLOR.
        super().__init__(ansi_color=True if theme == PLAIN.name else None)
        self._metronome: Timer | None = None
        self._paced = paced
        self.animation_level = "none"
        self.session = session
        self.set_class(session.view.ascii, "-ascii")
        ScrollBar.renderer = BlankBar if session.view.ascii else ScrollBarRender
        self._recorder: Recorder | None = None
        for each in THEMES.values():
            self.register_theme(each)
        self.theme = theme
        if keys:
            self.set_keymap(keys)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Of the stylesheet's own names, for Textual's themes."""
        return DARK.variables

    def get_default_screen(self) -> JobsScreen:
        """The first screen."""
        return JobsScreen(self.session)

    def on_mount(self) -> None:
        """The clock."""
        self._pace()
        if self._paced:
            # Not sooner: on a large cluster the first samples are many, and the screen must get past them.
            self.call_after_refresh(self.set_timer, 0.05, self._begin)

    def _begin(self) -> None:
        self.session.feed.start()
        # The first list of jobs and the first rates come soon: nobody waits for a whole interval to see them.
        for seconds in (0.2, 0.6):
            self.set_timer(seconds, self._peek)

    def _pace(self) -> None:
        if self._metronome is not None:
            self._metronome.stop()
        if self._paced:
            self._metronome = self.set_interval(self.session.feed.interval, self.tick)

    def _peek(self) -> None:
        """Before the first interval is over: what has come so far."""
        if self._paced and not self.session.feed.jobs():
            self.tick()

    @property
    def watching(self) -> Watching | None:
        """The screen on top, if it is one of those with a table; the command palette is none."""
        screens = [screen for screen in self._screen_stack if not isinstance(screen, CommandPalette)]
        return screens[-1] if screens and isinstance(screens[-1], Watching) else None

    def tick(self) -> None:
        """An interval is over."""
        if self.session.paced_anew():
            self._pace()
        self.session.feed.tick()
        if self.watching is not None:
            if self.session.view.frozen:
                self.watching.paint_top()
            else:
                self.watching.reload()
        if self._paced and (due := self.session.feed.next_silence()) is not None:
            # so that a node is stale two intervals after its last sample, and not with the tick behind that
            self.set_timer(due + 0.01, self._look)

    def _look(self) -> None:
        if self.session.feed.fell_silent():
            self.tick()

    def _show(self, **changes: bool) -> None:
        self.session.view = replace(self.session.view, **changes)
        if self.watching is not None:
            self.watching.paint()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that do nothing on a screen are not shown there."""
        screen = self.watching
        if action == "mine":
            return isinstance(screen, JobsScreen)
        if action in ("bytes", "packets", "total"):
            return screen is not None and screen.NUMBERS
        if action in ("events", "help"):
            return screen is not None and (action == "help" or screen.NUMBERS)
        if action in ("export", "freeze", "pace"):
            return screen is not None and not (action == "pace" and self.session.replay)
        return True

    def action_freeze(self) -> None:
        """Stop painting, or go on with what is now."""
        frozen = not self.session.view.frozen
        self.session.still = self.session.feed.still() if frozen else None
        self._show(frozen=frozen)
        if not frozen and self.watching is not None:
            self.watching.reload()

    def action_bytes(self) -> None:
        """Bits or bytes; leaves packets."""
        view = self.session.view
        self._show(bytes=view.bytes if view.packets else not view.bytes, packets=False)

    def action_packets(self) -> None:
        """Packets or not."""
        self._show(packets=not self.session.view.packets)

    def action_total(self) -> None:
        """Counted so far, or per second."""
        self._show(total=not self.session.view.total)

    def action_mine(self) -> None:
        """My jobs or all."""
        self._show(mine=not self.session.view.mine)

    def action_pace(self, step: int) -> None:
        """The next longer or shorter interval."""
        feed = self.session.feed
        longer, shorter = (
            [each for each in INTERVALS if each > feed.interval],
            [each for each in INTERVALS if each < feed.interval],
        )
        if not (longer if step > 0 else shorter):
            self.bell()
            return
        feed.set_interval(longer[0] if step > 0 else shorter[-1])
        self._pace()
        if self.watching is not None:
            self.watching.paint_top()

    def action_events(self) -> None:
        """What happened."""
        from hpcnet.tui.screens.events import EventsScreen

        self.push_screen(EventsScreen(self.session))

    def action_help(self) -> None:
        """Keys and meanings."""
        from hpcnet.tui.screens.help import HelpScreen

        self.push_screen(HelpScreen(self.session, self.all_keys()))

    def action_theme(self) -> None:
        """The other one of dark and light."""
        self.theme = THEMES["light" if self.current_theme.dark else "dark"].name

    def action_export(self) -> None:
        """Write what is seen."""
        from hpcnet.tui import export

        seen = self.watching
        if seen is not None:
            try:
                file = export.write(seen.document(), self.session, seen.words, seen.now)
            except UserError as error:
                self.notify(str(error), severity="error", markup=False)
            else:
                self.notify(f"written: {file}", markup=False)

    def action_record(self) -> None:
        """Begin to write all samples, or stop it."""
        if self._recorder is not None:
            self._stop_recording()
            return
        from hpcnet.tui.recording import Recorder

        try:
            self._recorder = Recorder(self.session.feed)
        except UserError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.session.recording = self._recorder.file
            self.notify(f"recording to {self._recorder.file}; w ends it", markup=False)
        self._show()

    def _stop_recording(self) -> None:
        if self._recorder is not None:
            problem = self._recorder.close()
            self.notify(problem or f"recorded: {self._recorder.file}", markup=False)
            self._recorder, self.session.recording = None, ""
            self._show()

    def on_unmount(self) -> None:
        """Nothing stays open, and no thread that somebody would wait for."""
        self.session.close()
        if self._recorder is not None:
            self._recorder.close()

    def all_keys(self) -> list[tuple[str, str]]:
        """Every key and what it does, as they are bound now."""
        from hpcnet.tui.keys import owners

        found: dict[str, tuple[str, str]] = {}
        for bindings in owners():
            for each in Binding.make_bindings(bindings):
                if each.tooltip and each.id not in found:
                    key = self._keymap.get(each.id or "", "") or each.key_display or each.key
                    found[each.id or each.key] = (
                        key.replace("spc", "space").replace("escape", "esc"),
                        each.tooltip,
                    )
        return list(found.values())

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What a key does on this screen, and the themes."""
        for _, binding, enabled, tooltip in screen.active_bindings.values():
            if enabled and tooltip and binding.action != "app.command_palette":
                yield SystemCommand(
                    binding.description, tooltip, lambda action=binding.action, node=_: node.run_action(action)
                )
