# SPDX-License-Identifier: Apache-2.0
"""What hpcnet's own commands do and say, run as one would type them; each may take its time.

What only looks ends with the viewer, however that ends, and all that it started with it. A cleanup that was
confirmed is finished: half of one helps nobody, and on the nodes it goes on anyway.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hpcnet import nodelist
from hpcnet.counters import tether
from hpcnet.counters.model import JobInfo
from hpcnet.counters.troubles import ERROR, INFO, WARNING
from hpcnet.tui.events import Said

_SECONDS = 320
"""Longer than hpcnet cleanup gives a node."""

_STEP = 0.1  # seconds between two looks whether a command has ended

_GRADES = {"fail": ERROR, "warn": WARNING}

_MOST_NODES = 32
"""So many are asked at once when one wants to know of nodes in trouble."""


class Commands:
    """For one configuration file."""

    def __init__(self, config: str) -> None:
        self._config = config
        self._closed = threading.Event()
        self.unfinished: list[subprocess.Popen[bytes]] = []
        """Cleanups that nobody waits for any more."""

    def close(self) -> None:
        """Nobody waits for an answer any more; from any thread, and again is fine."""
        self._closed.set()

    @property
    def closed(self) -> bool:
        """Whether that is so."""
        return self._closed.is_set()

    @property
    def may_clean(self) -> bool:
        """Whether cleanup would not refuse this user."""
        return os.geteuid() == 0

    def cleanup(self, job: JobInfo) -> tuple[str, ...]:
        """The words that remove what is left of a job, on all of its nodes."""
        return ("cleanup", "--job", str(job.job_id), "--nodes", nodelist.fold(job.nodes), "--config", self._config)

    def run_cleanup(self, job: JobInfo) -> Iterator[Said]:
        """Does it; what was removed, or why not."""
        code, out, complaint = self._run(self.cleanup(job), looks=False)
        # of what it says on stderr, its counting of nodes is no news
        lines = [*out.splitlines(), *([complaint] if code not in (0, 1) and not out else [])]
        for line in lines or [f"exit code {code}"]:
            grade = INFO if code == 0 else WARNING if code == 1 else ERROR
            yield Said(grade, job.label, f"cleanup: {line}")

    def examine(self, nodes: Iterable[str] = ()) -> Iterator[Said]:
        """What doctor says of this host and, for root, check of the jobs on it, and doctor of these nodes, by ssh;
        of what is well a word.
        """
        code, out, complaint = self._run(("doctor", "--json", "--config", self._config))
        yield from _diagnosis(_host(), _document(out, dict), complaint or f"exit code {code}")
        if self.may_clean:
            yield from self._check()
            yield from self._over(sorted(set(nodes))[:_MOST_NODES])

    def _check(self) -> Iterator[Said]:
        host = _host()
        code, out, complaint = self._run(("check", "--json", "--config", self._config))
        if code not in (0, 1):
            yield Said(ERROR, "", f"check: {complaint}", host)
        for report in _document(out, list):
            job = str(report["job_id"])
            if report["problem"]:
                yield Said(ERROR, job, f"check: {report['problem']}", host)
            for kind in ("missing", "foreign", "silent"):
                for text in report[kind]:
                    yield Said(WARNING, job, f"check: {kind}: {text}", host)

    def _over(self, nodes: Sequence[str]) -> Iterator[Said]:
        if not nodes:
            return
        words = ("doctor", "--nodes", nodelist.fold(nodes), "--json", "--config", self._config)
        code, out, complaint = self._run(words)
        answers = _document(out, dict).get("nodes", {})
        for node in nodes:
            answer = answers.get(node, {})
            yield from _diagnosis(node, answer, answer.get("error") or complaint or f"exit code {code}")

    def _run(self, words: Sequence[str], looks: bool = True) -> tuple[int, str, str]:
        """Exit code, output, and the last line of what it complained of. ``looks``: it changes nothing."""
        command = [program(), *words]
        # files that have no name: a cleanup that nobody listens to any more must not end by a broken pipe
        with os.fdopen(os.memfd_create("out"), "rb") as out, os.fdopen(os.memfd_create("err"), "rb") as err:
            try:
                process = subprocess.Popen(
                    tether.command(command, family=True) if looks else command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as error:
                return 3, "", f"hpcnet cannot be started: {error.strerror}"
            until = time.monotonic() + _SECONDS
            while process.poll() is None and time.monotonic() < until:
                if self._closed.wait(_STEP):
                    break
            if process.poll() is None:
                if looks:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                else:
                    self.unfinished.append(process)
                return 3, "", f"no answer within {_SECONDS} s"
            said, complaint = (_text(each) for each in (out, err))
        return process.returncode, said, (complaint.strip().splitlines() or [""])[-1]


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _diagnosis(host: str, report: Mapping[str, Any], complaint: str) -> Iterator[Said]:
    """What doctor found on a host; ``complaint``: why there may be no report."""
    findings = report.get("findings", ())
    wrong = [each for each in findings if each.get("status") in _GRADES]
    for each in wrong:
        text = f"doctor: {each.get('check')}: {each.get('finding')}"
        yield Said(_GRADES[each["status"]], "", text, host, each.get("remedy") or "")
    if not findings:
        yield Said(ERROR, "", f"doctor: {complaint}", host)
    elif not wrong:
        yield Said(INFO, "", f"doctor: all of {len(findings)} checks are well", host)


def _host() -> str:
    return os.uname().nodename.partition(".")[0]


def program() -> str:
    """The hpcnet command that belongs to this one."""
    beside = Path(sys.executable).with_name("hpcnet")
    return str(beside) if beside.exists() else shutil.which("hpcnet") or "hpcnet"


def _document(text: str, kind: type[Any]) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return kind()
    return found if isinstance(found, kind) else kind()
