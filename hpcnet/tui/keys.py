# SPDX-License-Identifier: Apache-2.0
"""Keys of the user's own, from ``~/.config/hpcnet/tui.toml``:

[keys]
freeze = "z"
quit = "q,ctrl+x"
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpcnet.errors import UserError

if TYPE_CHECKING:
    from textual.binding import BindingType


def path() -> Path:
    """The file of the user's own keys, whether it is there or not."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "hpcnet" / "tui.toml"


def owners() -> tuple[list[BindingType], ...]:
    """The bindings of all who have keys that a user may give another one."""
    from hpcnet.tui.app import HpcnetApp
    from hpcnet.tui.screens.events import EventsScreen
    from hpcnet.tui.screens.job import JobScreen
    from hpcnet.tui.screens.watching import Watching
    from hpcnet.tui.widgets.table.table import Table

    return tuple(each.BINDINGS for each in (Table, Watching, JobScreen, EventsScreen, HpcnetApp))


def ids() -> set[str]:
    """Of what a user may give another key."""
    from textual.binding import Binding

    return {each.id for bindings in owners() for each in Binding.make_bindings(bindings) if each.id}


def load(file: Path) -> dict[str, str]:
    """Keys by the id of what they do; of no file, none. Raises UserError."""
    if not file.exists():
        return {}
    import tomli

    try:
        document = tomli.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}") from None
    keys = document.pop("keys", {})
    if document or not isinstance(keys, dict):
        raise UserError(f'{file}: the only section is [keys], such as: freeze = "z"')
    known = ids()
    for name, key in keys.items():
        if name not in known:
            raise UserError(f"{file}: [keys] {name} is not known; there are: {', '.join(sorted(known))}")
        if not isinstance(key, str) or not key:
            raise UserError(f'{file}: [keys] {name} must be a key such as "z", or several such as "z,ctrl+z"')
    return keys
