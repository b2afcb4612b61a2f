# SPDX-License-Identifier: Apache-2.0
"""A terminal that a test types into."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest


class Terminal:
    """A tmux of its own with one window."""

    def __init__(self, socket: Path, directory: Path) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self._directory = directory

    def start(self, *command: str, size: tuple[int, int] = (120, 30), **environment: str) -> None:
        width, height = map(str, size)
        settings = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        session = ["new-session", "-d", "-x", width, "-y", height, "-c", str(self._directory), *settings]
        wrapped = ["sh", "-c", '"$@"; echo "exit code $?"; sleep 600', "sh", *command]
        self._run(*session, *wrapped)

    def _run(self, *words: str) -> str:
        strange = ("TMUX", "NO_COLOR", "COLUMNS", "LINES")  # xdist sets the last two
        environment = {key: value for key, value in os.environ.items() if key not in strange}
        environment.update(TERM="xterm-256color", LC_ALL="C.UTF-8")
        done = subprocess.run(
            [*self._tmux, *words], env=environment, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        for key in keys:
            self._run("send-keys", key)

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def text(self, colours: bool = False) -> str:
        return self._run("capture-pane", "-p", *(["-e"] if colours else []))

    def wait(self, *words: str, seconds: float = 30) -> str:
        """The screen once all of these words are on it."""
        return self.wait_for(lambda text: all(word in text for word in words), " and ".join(words), seconds)

    def wait_for(self, holds: Callable[[str], bool], what: str, seconds: float = 30) -> str:
        deadline = time.monotonic() + seconds
        while True:
            text = self.text()
            if holds(text):
                return text
            assert time.monotonic() < deadline, f"not seen in {seconds:g} s: {what}\n{text}"
            time.sleep(0.1)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=30)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path / "tmux", tmp_path)
    yield made
    made.close()
