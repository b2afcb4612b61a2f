# SPDX-License-Identifier: Apache-2.0
"""How doctor judges where names are looked up."""

from __future__ import annotations

import pytest

from hpcnet.doctor.model import OK, WARN
from hpcnet.doctor.resolution import judge_names


@pytest.mark.parametrize(
    "hosts",
    [
        "passwd: sss files",
        "hosts:          files dns  # as Debian has it",
        "hosts: files mdns4_minimal [NOTFOUND=return] dns",
        "hosts: resolve [!UNAVAIL=return] files myhostname dns",
        "hosts: myhostname files",
    ],
)
def test_files_are_asked_first(hosts: str) -> None:
    assert [finding.status for finding in judge_names(f"# of the site\n{hosts}\n")] == [OK]


@pytest.mark.parametrize(
    "hosts, first",
    [
        ("hosts: dns files", "dns"),
        ("hosts: wins [NOTFOUND=continue] sss files", "wins, sss"),
        ("hosts: resolve", "no file"),
    ],
)
def test_something_else_is(hosts: str, first: str) -> None:
    (finding,) = judge_names(hosts)
    assert finding.status == WARN and f"looked up in {first} before /etc/hosts" in finding.text
