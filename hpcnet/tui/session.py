# SPDX-License-Identifier: Apache-2.0
"""What all screens share: the feed, and how the user wants to see it."""

from __future__ import annotations

from dataclasses import dataclass

from hpcnet.tui.feed import Feed
from hpcnet.tui.view import View


@dataclass
class Session:
    """One viewing."""

    feed: Feed
    view: View
    user: str
    """Whose jobs are "mine"."""
    what: str = ""
    """What is watched, when it is not the cluster: demo, or the name of a recording."""
    frozen_at: float = 0.0
    """Unix seconds; what the screens show while ``view.frozen``."""
    recording: str = ""
    """File that is written; empty: none."""
