# SPDX-License-Identifier: Apache-2.0
"""A command of hpcnet on many nodes at once: by ssh, or by anything that takes a node's name and a command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Callable

RSH = "ssh -o BatchMode=yes -o ConnectTimeout=10"
AT_ONCE = 32
"""Nodes that are worked on at the same time."""

NODE_SECONDS = 300
"""How long one node may take."""

_PATIENCE = 5  # seconds that a remote shell has for its end

DONE, LEFT, UNKNOWN = 0, 1, 3
"""Exit codes of such a command: done; something is not as it should be; a node gave no answer."""

Answer = dict[str, Any]
"""A node's JSON report, or an ``error``: why there is none."""


def ask(
    nodes: Sequence[str],
    words: Sequence[str],
    rsh: str,
    code_of: Callable[[Answer], int],
    summary: Callable[[Answer], str],
) -> tuple[int, dict[str, Answer]]:
    """Run ``hpcnet WORDS``, which must print its JSON report; progress goes to stderr.

    Returns the worst exit code and the answers by node. What a report comes to ``code_of`` says, not the exit code
    on the node: some remote shells keep that for themselves (``clush`` without ``-S``).
    """
    answers: dict[str, Answer] = {}
    codes = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        working = {pool.submit(_on_node, node, words, rsh, code_of, summary): node for node in nodes}
        for count, future in enumerate(as_completed(working), 1):
            node = working[future]
            code, answers[node], said = future.result()
            codes.add(code)
            print(f"{count}/{len(nodes)} {node}: {said}", file=sys.stderr)
    return max(codes, key=(DONE, LEFT, UNKNOWN).index, default=DONE), answers


def _on_node(
    node: str,
    words: Sequence[str],
    rsh: str,
    code_of: Callable[[Answer], int],
    summary: Callable[[Answer], str],
) -> tuple[int, Answer, str]:
    """Exit code, answer, and what of it is progress."""
    program = os.path.abspath(sys.argv[0])
    command = [*shlex.split(rsh), node, *map(shlex.quote, [program, *words])]
    try:
        status, out, complaint = _ran(command)
        report = _report(out)
        if report is not None:
            return code_of(report), report, summary(report)
        why = " ".join(complaint.split())[-200:] or f"exit code {status}, and no report"
    except subprocess.TimeoutExpired:
        why = f"no answer within {NODE_SECONDS} s"
    except OSError as error:
        why = f"{command[0]} cannot be started: {error.strerror}"
    except (KeyError, TypeError):
        why = "its report is not one of this version's; install the same hpcnet everywhere"
    return UNKNOWN, {"error": why}, why


def _ran(command: Sequence[str]) -> tuple[int, str, str]:
    """Exit status, output, complaints. Raises OSError, TimeoutExpired."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        try:
            out, complaint = process.communicate(timeout=NODE_SECONDS)
        except subprocess.TimeoutExpired:
            # What it has started may hold the pipes for ever: they are not read to their end. srun takes its step
            # along when it is asked to end, and not when it is killed.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            process.kill()
            raise
    return process.returncode, out.decode(errors="replace"), complaint.decode(errors="replace")


def _report(out: str) -> Answer | None:
    """The first object that begins a line: a shell's start-up files may greet before it."""
    for begin in re.finditer(r"^\{", out, re.MULTILINE):
        with contextlib.suppress(ValueError):
            document, _ = json.JSONDecoder().raw_decode(out, begin.start())
            return dict(document)
    return None


def print_lines(
    nodes: Sequence[str], answers: Mapping[str, Answer], lines: Callable[[Answer], Sequence[str]]
) -> None:
    """Each node's lines behind its name, in the order of ``nodes``."""
    for node in nodes:
        answer = answers[node]
        for line in [answer["error"]] if "error" in answer else lines(answer):
            print(f"{node}: {line}")
