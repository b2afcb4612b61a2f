# SPDX-License-Identifier: Apache-2.0
"""What ``hpcnet doctor`` says on a host of the lab, and things that are broken for a moment."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster

Finding = tuple[str, str, str]
"""Status, finding, remedy."""


TOML = "/etc/hpcnet/hpcnet.toml"


def doctor(
    cluster: Cluster, on: str, *options: str, user: str = "root", under: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The JSON report; its exit code must say what it says. ``under``: a command that runs it."""
    done = cluster.lab.run(on, [*under, "hpcnet", "doctor", "--json", *options], user=user, check=False)
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if report["failed"] else 0)
    assert report["failed"] == any(each["status"] == "fail" for each in report["findings"])
    assert all(each["remedy"] for each in report["findings"] if each["status"] != "ok"), report
    return report


def wrong(cluster: Cluster, on: str, *options: str, under: tuple[str, ...] = ()) -> dict[str, Finding]:
    """By check: what is not ok on a host, of several findings the first."""
    found: dict[str, Finding] = {}
    for each in doctor(cluster, on, *options, under=under)["findings"]:
        if each["status"] not in ("ok", "left out"):
            found.setdefault(each["check"], (each["status"], each["finding"], each["remedy"]))
    return found


def only(cluster: Cluster, on: str, check: str, status: str, *options: str, under: tuple[str, ...] = ()) -> str:
    """What the one check says that is not ok, and its remedy."""
    found = wrong(cluster, on, *options, under=under)
    assert list(found) == [check] and found[check][0] == status, found
    return f"{found[check][1]} -> {found[check][2]}"


@contextlib.contextmanager
def instead(file: Path, data: bytes) -> Iterator[None]:
    """Another content for a file, its mode as it was."""
    before = file.read_bytes()
    _overwrite(file, data)
    try:
        yield
    finally:
        _overwrite(file, before)


def _overwrite(file: Path, data: bytes) -> None:
    """In place, for the hosts' overlays, and not emptied first: that would break a plugin where it is loaded."""
    with file.open("r+b") as opened:
        opened.write(data)
        opened.truncate()


@contextlib.contextmanager
def undone(cluster: Cluster, on: str, command: str, undo: str) -> Iterator[None]:
    """A shell's command on a host, and another one that undoes it."""
    cluster.root(on, "sh", "-c", command)
    try:
        yield
    finally:
        cluster.root(on, "sh", "-c", undo)


def edited(cluster: Cluster, on: str, path: str, command: str) -> contextlib.AbstractContextManager[None]:
    """A shell's command that changes, or takes away, a file on a host, which is as before afterwards."""
    return undone(cluster, on, f"cp -p {path} /tmp/kept; {command}", f"cp -p /tmp/kept {path}; rm /tmp/kept")


def configured(cluster: Cluster, on: str, command: str) -> contextlib.AbstractContextManager[None]:
    """The same with hpcnet.toml, of one host alone."""
    return edited(cluster, on, TOML, f"{command} {TOML}")


@contextlib.contextmanager
def slurmctld_says(cluster: Cluster, on: str, script: str) -> Iterator[tuple[str, ...]]:
    """The start of a command line that runs something on a host with slurmctld's answers changed by sed."""
    scontrol = f"#!/bin/sh\n/usr/bin/scontrol \"$@\" | sed -E '{script}'\n"
    cluster.lab.run(on, ["sh", "-c", "mkdir /tmp/said; cat >/tmp/said/scontrol; chmod +x /tmp/said/scontrol"],
                    stdin=scontrol)  # fmt: skip
    try:
        yield ("env", "PATH=/tmp/said:/opt/hpcnet/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    finally:
        cluster.root(on, "rm", "-r", "/tmp/said")
