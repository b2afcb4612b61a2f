# SPDX-License-Identifier: Apache-2.0
"""``hpcnet doctor``: whether this host is as hpcnet needs it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpcnet import __version__, nodelist
from hpcnet.cli.nodes import ask, print_lines
from hpcnet.cli.table import print_json
from hpcnet.doctor.model import FAIL, LEFT_OUT, OK, WARN, warn
from hpcnet.doctor.run import digest, document, examine

WELL, FAILED = 0, 1

_SHOWN = {FAIL: "FAIL"}
_ROLES = {
    "node": "compute node",
    "controller": "controller",
    "login": "login host",
    "host": "host of the fabric, without Slurm",
}


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: nothing failed; 1: something did."""
    if arguments.nodes:
        return _over_nodes(arguments)
    report = examine(arguments.config, arguments.role or (), not arguments.local)
    if arguments.json:
        print_json(report.document())
    else:
        for line in lines(report.document()):
            print(line)
    return _code(report.document())


def _code(document: Mapping[str, Any]) -> int:
    return FAILED if document["failed"] else WELL


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The report of one host for a person; what was left out in one line."""
    roles = " and ".join(_ROLES[role] for role in document["roles"])
    yield f"{document['host']}: {roles}, hpcnet {document['hpcnet']}"
    made = [each for each in document["findings"] if each["status"] != LEFT_OUT]
    yield from _table(made)
    left_out: dict[str, list[str]] = {}
    for each in document["findings"]:
        if each["status"] == LEFT_OUT:
            left_out.setdefault(f"{each['finding']}; {each['remedy']}", []).append(each["check"])
    for why, checks in left_out.items():
        yield f"left out: {', '.join(checks)} ({why})"
    yield summary(document)


def _table(findings: Sequence[Mapping[str, str]]) -> Iterator[str]:
    width = max((len(each["check"]) for each in findings), default=0)
    for each in findings:
        yield f"{_SHOWN.get(each['status'], each['status']):4}  {each['check']:{width}}  {each['finding']}"
        if each["remedy"]:
            yield f"{'':4}  {'':{width}}  -> {each['remedy']}"


def summary(document: Mapping[str, Any]) -> str:
    """How many findings of each kind."""
    found = [each["status"] for each in document["findings"]]
    return f"{found.count(FAIL)} failed, {found.count(WARN)} to look at, {found.count(OK)} ok"


# Over nodes.


def _over_nodes(arguments: argparse.Namespace) -> int:
    listed = nodelist.expand(arguments.nodes)
    words = ["doctor", "--json", "--config", arguments.config]
    words += ["--local"] if arguments.local else []
    words += [word for role in arguments.role or () for word in ("--role", role)]
    code, answers = ask(listed, words, arguments.rsh, _code, summary)
    for answer in answers.values():
        if "error" not in answer:
            answer["findings"] += differences(answer, digest(arguments.config))
    if arguments.json:
        print_json({"nodes": answers})
    else:
        print_lines(listed, answers, _wrong)
    return code


def differences(answer: Mapping[str, Any], own: str) -> list[dict[str, str]]:
    """What must be the same on all hosts: ``own`` is the digest of this host's hpcnet.toml."""
    found = []
    if answer.get("hpcnet") != __version__:
        found.append(
            warn(f"hpcnet {answer.get('hpcnet')}, and here it is {__version__}", "install the same everywhere")
        )
    if answer.get("config_sha256") != own:
        found.append(
            warn("its hpcnet.toml is another one than this host's", "copy it: it is to be the same everywhere")
        )
    return [document("here", each) for each in found]


def _wrong(answer: Mapping[str, Any]) -> list[str]:
    """What is not ok, without what was left out; or how much is."""
    wrong = [each for each in answer["findings"] if each["status"] in (FAIL, WARN)]
    return list(_table(wrong)) or [summary(answer)]
