# SPDX-License-Identifier: Apache-2.0
"""What the tests of the hpcnet command share: running it in this process and reading what it says."""

from __future__ import annotations

import pytest

from hpcnet.cli.commands import main

NUMBERED = '[fabric]\npeers = "number"\npeers_base = "10.2.0.0"\n[pool]\nstore = "/nonexistent/hpcnet.sqlite"\n'
"""A configuration that needs nothing of this machine."""


def said(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """What a command prints on stdout; it must end with this code, and complain only when it fails."""
    assert main(words) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


def complaint(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """What a command complains in one line on stderr, with nothing on stdout."""
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and len(err.splitlines()) == 1
    assert err.startswith("hpcnet: ") and "internal error" not in err
    return err
