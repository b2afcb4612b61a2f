# SPDX-License-Identifier: Apache-2.0
"""Which container addresses of a job are taken on this node: a file each in the job's directory, named by slot.

A file holds who has the address, on one line. Making a new file is what takes it, so two never get the same one;
all end with the job's directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from hpcnet import names


def take(job_id: int, slots: Iterable[int], owner: str) -> int | None:
    """Take the first of ``slots`` that is free; None when none is.

    Raises FileNotFoundError when the job has no network on this node.
    """
    directory = _directory(job_id)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o755)
    for slot in slots:
        with contextlib.suppress(FileExistsError):
            file = os.open(f"{directory}/{slot}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(file, "w", encoding="utf-8") as made:
                made.write(f"{owner}\n")
            return slot
    return None


def assign(job_id: int, slot: int, owner: str) -> None:
    """Write down a new owner of a slot, taken or not."""
    path = f"{_directory(job_id)}/{slot}"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(f"{owner}\n")
    os.rename(f"{path}.new", path)


def release(job_id: int, slot: int) -> None:
    """Give a slot back; free already is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{_directory(job_id)}/{slot}")


def taken(job_id: int) -> dict[int, str]:
    """The slots in use and their owners."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(filter(str.isdecimal, os.listdir(_directory(job_id))), key=int):
            path = f"{_directory(job_id)}/{name}"
            with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
                found[int(name)] = file.read().strip()
    return found


def _directory(job_id: int) -> str:
    return f"{names.job_dir(job_id)}/slots"
