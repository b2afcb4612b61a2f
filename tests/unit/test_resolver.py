# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from hpcnet import resolver
from hpcnet.errors import SiteError

STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n"
REAL = "# by systemd-resolved\nsearch example.org\nnameserver 10.0.0.53\n"


def resolv_conf(
    directory: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, *behind: str | None, site_file: str = ""
) -> str:
    """What tasks get on a node with these files; None: there is none."""
    paths = []
    for number, text in enumerate((own, *behind)):
        paths.append(directory / f"resolv.{number}")
        if text is not None:
            paths[-1].write_text(text, encoding="utf-8")
    monkeypatch.setattr(resolver, "OWN", str(paths[0]))
    monkeypatch.setattr(resolver, "BEHIND", tuple(map(str, paths[1:])))
    return resolver.text(site_file)


@pytest.mark.parametrize(
    "own", [REAL, "nameserver 127.0.0.1\nnameserver 10.0.0.1\n", "options x\n nameserver\t10.0.0.1 # a\n", None]
)
def test_the_nodes_own_is_kept_when_it_names_a_server_beyond_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    assert resolv_conf(tmp_path, monkeypatch, own, REAL) == ""


@pytest.mark.parametrize(
    "own",
    [
        STUB,
        "",
        "search x\n",
        "nameserver ::1\n",
        "nameserver 127.0.0.1\nnameserver fd00::53\n",
        "nameserver x\n#\n",
    ],
)
def test_the_servers_behind_the_nodes_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    assert resolv_conf(tmp_path, monkeypatch, own, REAL, "nameserver 10.9.9.9\n") == REAL
    assert resolv_conf(tmp_path, monkeypatch, own, STUB, "nameserver 10.9.9.9\n") == "nameserver 10.9.9.9\n"


def test_servers_that_tasks_do_not_reach_leave_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resolv.conf(5): the first three are asked. The way out is IPv4's."""
    behind = "search a\nnameserver fe80::1%eth0\nnameserver fd00::1\nnameserver fd00::2\nnameserver 10.0.0.53\n"
    assert resolv_conf(tmp_path, monkeypatch, STUB, behind) == "search a\nnameserver 10.0.0.53\n"


@pytest.mark.parametrize("behind", [None, "", STUB, "nameserver fd00::1\n"])
def test_the_nodes_own_is_kept_when_there_is_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: str | None
) -> None:
    assert resolv_conf(tmp_path, monkeypatch, STUB, behind) == ""


def test_a_file_of_the_sites_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.jobs"
    file.write_text("nameserver 10.1.1.1\noptions ndots:2\n", encoding="utf-8")
    given = resolv_conf(tmp_path, monkeypatch, REAL, REAL, site_file=str(file))
    assert given == "nameserver 10.1.1.1\noptions ndots:2\n"


def test_a_file_of_the_sites_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SiteError) as caught:
        resolver.text(f"{tmp_path}/absent")
    assert (
        str(caught.value) == f"[egress] resolv_conf = {tmp_path}/absent: cannot be read: No such file or directory"
    )
