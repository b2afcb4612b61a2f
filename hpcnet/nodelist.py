# SPDX-License-Identifier: Apache-2.0
"""Slurm hostlists, as ``scontrol show hostnames`` and ``scontrol show hostlist`` read and write them.

expand("n[1-3,7]")                  -> ["n1", "n2", "n3", "n7"]
fold(["n1", "n2", "n3", "n7"])      -> "n[1-3,7]"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, product
from math import prod

from hpcnet.errors import UserError

LIMIT = 65536
"""Most names a hostlist may stand for: Slurm's own limit on the nodes of a cluster."""

_PARTS = re.compile(r"[^,\[\]]+|\[[^\[\]]*\]|,|.")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})")


def expand(text: str) -> list[str]:
    """The names of a hostlist, in its order. Raises UserError when it is not one."""
    hosts: list[str] = []
    pieces: list[list[str]] = []
    for part in [*_PARTS.findall(text), ","]:
        if part == ",":
            if not pieces:
                raise UserError(f"nodes {text[:80]!r}: an empty name; write for example n[1-4,7]")
            hosts.extend("".join(choice) for choice in product(*pieces))
            pieces = []
        elif part.startswith("[") and part.endswith("]"):
            pieces.append(list(islice(_ranges(part[1:-1], text), LIMIT + 1)))
        elif _NAME.fullmatch(part):
            pieces.append([part])
        else:
            raise UserError(f"nodes {text[:80]!r}: {part[:20]!r} is not allowed; write for example n[1-4,7]")
        if len(hosts) + (prod(map(len, pieces)) if pieces else 0) > LIMIT:
            raise UserError(f"nodes {text[:80]!r}: more than {LIMIT} names")
    return hosts


def _ranges(text: str, whole: str) -> Iterator[str]:
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise UserError(f"nodes {whole[:80]!r}: range {part[:20]!r}; write for example n[1-4,7]")
        first, last = match[1], match[2] or match[1]
        if not int(first) <= int(last) < int(first) + LIMIT:
            raise UserError(f"nodes {whole[:80]!r}: range {part[:20]!r} runs backwards or is too long")
        for number in range(int(first), int(last) + 1):
            yield str(number).zfill(len(first))


def fold(hosts: Iterable[str]) -> str:
    """The hostlist of names, in their order; neighbours with successive numbers are folded."""
    runs: list[tuple[str, str, str]] = []
    for host in hosts:
        match = _NUMBERED.fullmatch(host)
        prefix, number = (match[1], match[2]) if match else (host, "")
        if runs and number and runs[-1][0] == prefix and _follows(runs[-1][2], number):
            runs[-1] = (prefix, runs[-1][1], number)
        else:
            runs.append((prefix, number, number))
    # a name without a number never shares a bracket with one that has the same prefix and a number
    groups = groupby(runs, lambda run: (run[0], bool(run[1])))
    return ",".join(_bracket(prefix, list(group)) for (prefix, _), group in groups)


def _follows(last: str, number: str) -> bool:
    """Whether ``number`` is the one behind ``last``, written with the same padding."""
    return bool(last) and str(int(last) + 1).zfill(len(last)) == number


def _bracket(prefix: str, runs: list[tuple[str, str, str]]) -> str:
    if not runs[0][1]:
        return ",".join([prefix] * len(runs))
    if len(runs) == 1 and runs[0][1] == runs[0][2]:
        return prefix + runs[0][1]
    ranges = (first if first == last else f"{first}-{last}" for _, first, last in runs)
    return f"{prefix}[{','.join(ranges)}]"
