# SPDX-License-Identifier: Apache-2.0
"""Keys of the user's own, from ``~/.config/hpcnet/tui.toml``:

[keys]
freeze = "z"
quit = "q,ctrl+x"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from hpcnet.errors import UserError


def path() -> Path:
    """The file of the user's own keys, whether it is there or not."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "hpcnet" / "tui.toml"


def load(file: Path, known: Callable[[], Collection[str]]) -> dict[str, str]:
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
    ids = known()
    for name, key in keys.items():
        if name not in ids:
            raise UserError(f"{file}: [keys] {name} is not known; there are: {', '.join(sorted(ids))}")
        if not isinstance(key, str) or not key:
            raise UserError(f'{file}: [keys] {name} must be a key such as "z", or several such as "z,ctrl+z"')
    return keys
