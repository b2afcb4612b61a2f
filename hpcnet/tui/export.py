# SPDX-License-Identifier: Apache-2.0
"""What is seen, as a JSON file in the current directory."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import Any, TextIO

from hpcnet.errors import UserError
from hpcnet.tui.session import Session

SCHEMA = 1


def _for_its_owner(name: str, flags: int) -> int:
    """Counters are their owner's to see, in a file too."""
    return os.open(name, flags, 0o600)


def create(stem: str, suffix: str, now: float) -> TextIO:
    """A new file of the caller's alone, named by the time in UTC; one that is there already is never touched.

    Raises UserError.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    for extra in ("", *(f"-{number}" for number in range(2, 100))):
        name = f"{stem}-{stamp}{extra}{suffix}"
        try:
            return open(name, "x", encoding="utf-8", opener=_for_its_owner)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{name} cannot be written here: {error.strerror}") from None
    raise UserError(f"{stem}-{stamp}{suffix} and 98 more are there already")


def write(seen: dict[str, Any], session: Session, words: str, now: float) -> str:
    """Writes what a screen's ``document`` says and returns the name of the file. Raises UserError.

    Rates are bytes and packets per second whatever the screen's unit is.
    """
    document = {
        "schema": SCHEMA,
        "time": now,
        "interval": session.feed.interval,
        "filter": words,
        "view": asdict(session.view),
        **seen,
    }
    with create("hpcnet", ".json", now) as file:
        try:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
        except OSError as error:
            raise UserError(f"{file.name} cannot be written: {error.strerror}") from None
    return file.name
