# SPDX-License-Identifier: Apache-2.0
"""Hooks on a host, each a fork of one process there: thousands of them in the time of hundreds.

forks = Forks(host)
forks.hook("prolog", environment)                                as Host.hook
forks.hook("prolog", environment, ("-o", "/run/log", ...))       under strace with these options
forks.run("cleanup", "--min-age", "0")                           as Host.hpcnet
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.kernel.hosts import Host

_PROGRAM = str(Path(__file__).with_name("forked.py"))


class Forks:
    """The process on one host; ``close`` ends it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._process = host.start(host.interpreter, "-I", _PROGRAM)

    def hook(
        self, hook: str, environment: dict[str, str], strace: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a hook as Slurm would."""
        return self._answer([hook], self.host.environment(environment), strace)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the hpcnet command."""
        return self._answer(words, self.host.environment({}))

    def _answer(
        self, words: Sequence[str], environment: dict[str, str], strace: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        order = {"words": list(words), "environment": environment, "strace": list(strace)}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"{self.host.name}: {self._process.communicate()[1]}"
        answer = json.loads(line)
        return subprocess.CompletedProcess(words, answer["code"], answer["out"], answer["err"])

    def close(self) -> None:
        """With the host as it is."""
        _, errors = self._process.communicate(timeout=60)
        assert not errors, errors
