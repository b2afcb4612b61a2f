# SPDX-License-Identifier: Apache-2.0
"""Plays scenarios through job_submit.lua in the lua interpreters of this machine (tests/grammar/harness.lua)."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.grammar import HARNESS

SCRIPT = HARNESS.parents[2] / "spank_hooks" / "job_submit.lua"
VERSIONS = ("5.1", "5.3", "5.4")
ALICE, SLURM = 1000, 64030

Scenario = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a call of the script did."""

    code: int | None
    desc: dict[str, Any]
    """Fields of the job description afterwards; NULL ones are missing."""
    user: list[str]
    log: list[str]
    raised: str | None
    globals: list[str]
    site: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def message(self) -> str | None:
        assert len(self.user) <= 1
        return self.user[0] if self.user else None


def interpreter(version: str) -> str | None:
    return shutil.which(f"lua{version}")


def play(version: str, scenarios: list[Scenario], directory: Path) -> list[Result]:
    """The results of scenarios, one process for all of them."""
    lua = interpreter(version)
    assert lua
    file = directory / f"scenarios-{version}.lua"
    file.write_bytes(b"return " + _literal(scenarios))
    done = subprocess.run([lua, HARNESS, SCRIPT, file], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    results = json.loads(done.stdout.decode("latin-1"))
    return [_result(_text(result)) for result in results]


def _result(result: dict[str, Any]) -> Result:
    lists: dict[str, Any] = {key: list(result[key]) for key in ("user", "log", "globals")}
    return Result(**{"code": None, "raised": None, **result, **lists})


def _text(value: Any) -> Any:
    """The harness writes a byte as one character."""
    if isinstance(value, str):
        return value.encode("latin-1").decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_text(entry) for entry in value]
    if isinstance(value, dict):
        return {_text(key): _text(entry) for key, entry in value.items()}
    return value


def _literal(value: Any) -> bytes:
    """A Lua literal."""
    if isinstance(value, str):
        return b'"' + b"".join(b"\\%03d" % byte for byte in value.encode("utf-8", "surrogateescape")) + b'"'
    if isinstance(value, dict):
        return b"{" + b",".join(b"[" + _literal(k) + b"]=" + _literal(v) for k, v in value.items()) + b"}"
    if isinstance(value, list):
        return b"{" + b",".join(map(_literal, value)) + b"}"
    return str(value).lower().encode() if isinstance(value, (bool, int)) else _literal(str(value))
