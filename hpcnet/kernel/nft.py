# SPDX-License-Identifier: Apache-2.0
"""The command nft: carry out a text as one transaction, read a set back."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time
from typing import Any

from hpcnet.errors import NodeError

_NFT = ("/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}  # its messages are read
_SECONDS = 20


def apply(text: str, may_miss: bool = False) -> bool:
    """Carry out ``text``, all or nothing. True: a table, set or element is missing; only ``may_miss`` allows it.

    Raises NodeError.
    """
    if not text:
        return False
    code, _, errors = _run("-f", "-", text=text)
    if code != 0:
        if may_miss and "No such file" in errors:
            return True
        raise NodeError(f"nft refused hpcnet's packet filter: {_first_line(errors)}")
    return False


def elements(table: str, name: str) -> list[tuple[Any, ...]]:
    """The elements of a set of concatenations in a table of family inet; empty when there is no such set."""
    code, listed, errors = _run("--json", "list", "set", "inet", table, name)
    if code != 0:
        if "No such file" in errors:
            return []
        raise NodeError(f"nft cannot read table {table}: {_first_line(errors)}")
    import json

    sets = [item.get("set", {}) for item in json.loads(listed)["nftables"]]
    return [tuple(element["concat"]) for found in sets for element in found.get("elem", ())]


def listed(table: str) -> list[str]:
    """The lines of a table of family inet as nft prints it, without its sets' elements; empty: there is none."""
    code, text, errors = _run("--terse", "--stateless", "list", "table", "inet", table)
    if code != 0:
        if "No such file" in errors:
            return []
        raise NodeError(f"nft cannot read table {table}: {_first_line(errors)}")
    return [line.strip() for line in text.splitlines() if line.strip()]


def ruleset() -> list[dict[str, Any]]:
    """All tables, chains and rules of the namespace, as ``nft --json list ruleset`` (libnftables-json(5))."""
    import json

    code, text, errors = _run("--json", "--terse", "list", "ruleset")
    if code != 0:
        raise NodeError(f"nft cannot list the host's rules: {_first_line(errors)}")
    found: list[dict[str, Any]] = json.loads(text)["nftables"]
    return found


def _run(*arguments: str, text: str = "") -> tuple[int, str, str]:
    """Exit code, output and errors. Not by subprocess, whose import costs a hook as much as nft itself."""
    program = next((path for path in _NFT if os.path.exists(path)), None)
    if program is None:
        raise NodeError("nft is not installed; install the package nftables")
    said, answer = os.pipe()
    files = {0: _file(text), 1: answer, 2: _file()}
    try:
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in files.items()]
        process = os.posix_spawn(program, [program, *arguments], _ENVIRONMENT, file_actions=actions)
        os.close(files.pop(1))
        stdout, status = _output(process, said)
        return os.waitstatus_to_exitcode(status), stdout, _text(files[2])
    finally:
        for file in (said, *files.values()):
            os.close(file)


def _output(process: int, said: int) -> tuple[str, int]:
    """All that the process writes, and its wait status; whatever interrupts this, it is not left running."""
    late, parts = time.monotonic() + _SECONDS, [b""]
    ready = select.poll()
    ready.register(said)
    try:
        while ready.poll(max(0.0, 1000 * (late - time.monotonic()))):
            parts.append(os.read(said, 1 << 16))
            if not parts[-1]:
                return b"".join(parts).decode(errors="replace"), os.waitpid(process, 0)[1]
        raise NodeError(f"nft did not answer within {_SECONDS} seconds")
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        raise


def _file(text: str = "") -> int:
    """A file without a name, read from its start."""
    file = os.memfd_create("nft")
    data = memoryview(text.encode())
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _text(file: int) -> str:
    return os.pread(file, 1 << 16, 0).decode(errors="replace")


def _first_line(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip())[:200] or "no reason given"
