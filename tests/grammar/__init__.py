# SPDX-License-Identifier: Apache-2.0
"""The table of --network= options that Python and Lua are both held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

TABLE = Path(__file__).with_name("network_options.toml")
HARNESS = Path(__file__).with_name("harness.lua")


@dataclass(frozen=True)
class Case:
    """One line of the table; neither ``canonical`` nor ``refused``: not our option."""

    option: str
    canonical: str | None
    refused: str | None
    site: dict[str, Any] = field(hash=False)

    @property
    def message(self) -> str | None:
        return f"--network=ib: {self.refused}" if self.refused is not None else None

    def offer(self) -> dict[str, Any]:
        """Its [offer] section."""
        elsewhere = ("default_mode", "uplink_mtu", "allow_shared", "pkey_pool")
        return {key: value for key, value in self.site.items() if key not in elsewhere}

    def direct(self) -> dict[str, Any]:
        """Its [direct] section."""
        return {key: self.site[key] for key in ("allow_shared", "pkey_pool")}


def cases() -> list[Case]:
    table = tomli.loads(TABLE.read_text(encoding="utf-8"))
    return [
        Case(case["option"], case.get("canonical"), case.get("refused"), table["site"] | case.get("site", {}))
        for case in table["case"]
    ]
