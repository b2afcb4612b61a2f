# SPDX-License-Identifier: Apache-2.0
"""Whether tasks' own hosts file is what their names are looked up in first: nsswitch.conf(5)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hpcnet.doctor.model import Finding, Host, ok, warn

_PATH = "/etc/nsswitch.conf"
_HIDDEN = frozenset(("resolve", "myhostname"))  # the plugin takes the first from tasks; the second knows their own


def check_names(host: Host) -> Iterable[Finding]:
    """The node's own file, which tasks have too."""
    try:
        with open(_PATH, encoding="utf-8", errors="replace") as file:
            return judge_names(file.read())
    except FileNotFoundError:
        return judge_names("")


def judge_names(text: str) -> list[Finding]:
    """``text``: of nsswitch.conf; without a line for hosts, libc asks files first."""
    lines = [line.partition("#")[0].partition(":") for line in text.splitlines()]
    asked = [
        re.sub(r"\[.*?\]", " ", services).split() for database, _, services in lines if database.strip() == "hosts"
    ]
    services = asked[-1] if asked else ["files"]
    first = services[: services.index("files")] if "files" in services else services
    others = [service for service in first if service not in _HIDDEN]
    if others or "files" not in services:
        what = f"{_PATH} has names of hosts looked up in {', '.join(others) or 'no file'} before /etc/hosts"
        remedy = "begin its line hosts: with files, or tasks are told the nodes' own addresses"
        return [warn(what, remedy)]
    return [ok("tasks look names up in their own hosts file first")]
