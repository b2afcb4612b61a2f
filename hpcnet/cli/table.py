# SPDX-License-Identifier: Apache-2.0
"""Human output: plain columns on stdout; and JSON, one document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The lines of ``table``."""
    for line in table(heads, rows):
        print(line)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Columns as wide as their widest cell, the last one as it is."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]


def print_json(document: Any) -> None:
    """One document; addresses and networks as text."""
    print(json.dumps(document, indent=2, default=str))
