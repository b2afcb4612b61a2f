# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md names a test for each promise: each is there under that name."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
_NAMED = re.compile(r"\]\((tests/[a-z_/]+\.py)\)|`(test_\w+)`")


def test_every_test_that_is_named_exists() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")
    file, named = "", []
    for line in text.splitlines():
        for path, name in _NAMED.findall(line) if line.startswith("|") else ():
            file = path or file  # "the same" is the one before
            if name:
                named.append((file, name))
    assert len(named) >= 20
    for file, name in named:
        assert re.search(rf"^def {name}\(", (CHECKOUT / file).read_text(encoding="utf-8"), re.MULTILINE), (
            file,
            name,
        )
