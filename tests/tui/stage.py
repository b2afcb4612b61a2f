# SPDX-License-Identifier: Apache-2.0
"""The application on a made-up cluster whose clock the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Callable

from textual.pilot import Pilot

from hpcnet.tui.app import HpcnetApp
from hpcnet.tui.demo import DemoSource
from hpcnet.tui.feed import Feed
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session
from hpcnet.tui.themes import THEMES
from hpcnet.tui.view import View
from hpcnet.tui.widgets.table.table import Table

SMALL, LARGE = (80, 24), (160, 50)


BEGIN = 1_767_225_600
"""2026-01-01 00:00:00 UTC."""


class Stage:
    """20 jobs, the largest of 40 nodes; nothing moves but by ``rounds``."""

    def __init__(self, rounds: int = 40, theme: str = "dark", ascii_only: bool = False, nodes: int = 40) -> None:
        self.now = float(BEGIN)
        self.source = DemoSource(nodes=nodes, clock=lambda: self.now)
        self.feed = Feed(self.source, 2.0, clock=lambda: self.now)
        self.feed.list_jobs()
        self.job_ids = [job.job_id for job in self.source.jobs()]
        self.mute: set[tuple[int, str]] = set()
        self.rounds(1)
        for job_id in self.job_ids:
            for node in self.feed.nodes(job_id)[:2]:
                for each in node.sample.interfaces if node.sample else ():
                    self.feed.interface_history(job_id, node.node, each.key)
        self.rounds(rounds - 1)
        session = Session(self.feed, View(ascii=ascii_only), user="alice", what="demo")
        self.app = HpcnetApp(session, THEMES[theme].name, paced=False)

    def rounds(self, number: int) -> None:
        """So many intervals go by, unseen by the application."""
        for _ in range(number):
            for sample in self.source.samples(self.job_ids, self.source.elapsed()):
                if (sample.job_id, sample.node) not in self.mute:
                    self.feed.take(sample)
            self.feed.tick()
            self.now += 2

    def tick(self) -> None:
        """An interval goes by, and the application is told."""
        for sample in self.source.samples(self.job_ids, self.source.elapsed()):
            if (sample.job_id, sample.node) not in self.mute:
                self.feed.take(sample)
        self.app.tick()
        self.now += 2

    def run(
        self,
        play: Callable[[Pilot[Any]], Awaitable[None]],
        size: tuple[int, int] = SMALL,
        notifications: bool = False,
    ) -> None:
        """Start the application and play with it."""

        async def whole() -> None:
            async with self.app.run_test(size=size, notifications=notifications) as pilot:
                await pilot.pause()
                await play(pilot)

        asyncio.run(whole())

    @property
    def screen(self) -> Watching:
        """The screen on top, one with a table."""
        screen = self.app.screen
        assert isinstance(screen, Watching)
        return screen

    @property
    def table(self) -> Table:
        """Its table."""
        return self.screen.query_one(Table)

    def text(self) -> list[str]:
        """The lines of the terminal."""
        return ["".join(segment.text for segment in line) for line in self.lines()]

    def line_of(self, word: str) -> int:
        """Number of the first line with this word."""
        return next(number for number, line in enumerate(self.text()) if f" {word} " in line)

    def lines(self) -> Any:
        """The lines of the terminal, as segments."""
        return self.app.screen._compositor.render_strips()
