# SPDX-License-Identifier: Apache-2.0
"""What all screens share: the feed, and how the user wants to see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcnet.tui.feed import Feed, Still
from hpcnet.tui.view import View

if TYPE_CHECKING:
    from hpcnet.tui.commands import Commands
    from hpcnet.tui.recording import Replay


@dataclass
class Session:
    """One viewing."""

    feed: Feed
    view: View
    user: str
    """Whose jobs are "mine"."""
    what: str = ""
    """What is watched, when it is not the cluster: demo, or the name of a recording."""
    replay: Replay | None = None
    """The recording that is watched: its interval is what it was, and not the viewer's to choose."""
    commands: Commands | None = None
    """What may be done to the cluster and asked of this host; None: what is watched is none."""
    examined: bool = False
    """Whether this host was looked at by doctor and check."""
    still: Still | None = None
    """What all screens show while ``view.frozen``."""
    recording: str = ""
    """File that is written; empty: none."""

    @property
    def seen(self) -> Feed | Still:
        """What the screens show."""
        return self.still or self.feed

    def paced_anew(self) -> bool:
        """Whether the recording has come to another interval, which the feed has from now on."""
        if self.replay is None or self.replay.interval == self.feed.interval:
            return False
        self.feed.set_interval(self.replay.interval)
        return True

    def close(self) -> None:
        """Nobody waits for what commands say any more."""
        if self.commands is not None:
            self.commands.close()
