# SPDX-License-Identifier: Apache-2.0
"""The command nft: carry out a text as one transaction, read a set back."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from hpcnet.errors import NodeError

_NFT = ("/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft")


def apply(text: str, may_miss: bool = False) -> bool:
    """Carry out ``text``, all or nothing. True: a table, set or element is missing; only ``may_miss`` allows it.

    Raises NodeError.
    """
    if not text:
        return False
    result = _run("-f", "-", text=text)
    if result.returncode != 0:
        if may_miss and "No such file" in result.stderr:
            return True
        raise NodeError(f"nft refused hpcnet's packet filter: {_first_line(result.stderr)}")
    return False


def elements(table: str, name: str) -> list[tuple[Any, ...]]:
    """The elements of a set of concatenations in a table of family inet; empty when there is no such set."""
    result = _run("--json", "list", "set", "inet", table, name)
    if result.returncode != 0:
        if "No such file" in result.stderr:
            return []
        raise NodeError(f"nft cannot read table {table}: {_first_line(result.stderr)}")
    sets = [item.get("set", {}) for item in json.loads(result.stdout)["nftables"]]
    return [tuple(element["concat"]) for found in sets for element in found.get("elem", ())]


def _run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    program = next((path for path in _NFT if Path(path).exists()), None)
    if program is None:
        raise NodeError("nft is not installed; install the package nftables")
    try:
        return subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},  # its messages are read
        )
    except subprocess.TimeoutExpired:
        raise NodeError("nft did not answer within 20 seconds") from None


def _first_line(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip())[:200] or "no reason given"
