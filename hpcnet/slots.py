# SPDX-License-Identifier: Apache-2.0
"""Which container addresses of a job are taken on this node: a file each in the job's directory, named by slot.

A file holds who has the address, on one line; one beside it (``3.name``, root's to read) what that one is
called. Making a new file is what takes it, so two never get the same one; all end with the job's directory.
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


def describe(job_id: int, slot: int, owner: str, text: str) -> None:
    """Write a line beside a slot: its owner's address and name. Void as soon as the slot has another owner."""
    path = f"{_directory(job_id)}/{slot}.name"
    with open(f"{path}.new", "w", encoding="utf-8", opener=lambda name, how: os.open(name, how, 0o600)) as file:
        file.write(f"{owner}\n{text}\n")
    os.rename(f"{path}.new", path)


def called(job_id: int) -> dict[str, str]:
    """Names by address of the containers that have slots, where they are known."""
    found = {}
    for slot, owner in taken(job_id).items():
        path = f"{_directory(job_id)}/{slot}.name"
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            whose, _, text = file.read().strip().partition("\n")
            address, _, name = text.partition(" ")
            if whose == owner and name:
                found[address] = name
    return found


def release(job_id: int, slot: int) -> None:
    """Give a slot back; free already is fine."""
    for path in (f"{_directory(job_id)}/{slot}", f"{_directory(job_id)}/{slot}.name"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


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
