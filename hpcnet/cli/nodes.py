# SPDX-License-Identifier: Apache-2.0
"""A command of hpcnet on many nodes at once: by ssh, or by anything that takes a node's name and a command."""

from __future__ import annotations

import json
import os
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

DONE, LEFT, UNKNOWN = 0, 1, 3
"""Exit codes of such a command: done; something is not as it should be; a node gave no answer."""

Answer = dict[str, Any]
"""A node's JSON report, or an ``error``: why there is none."""


def ask(
    nodes: Sequence[str], words: Sequence[str], rsh: str, key: str, summary: Callable[[Answer], str]
) -> tuple[int, dict[str, Answer]]:
    """Run ``hpcnet WORDS``, which must print a JSON report with a list ``key``; progress goes to stderr.

    Returns the worst exit code and the answers by node.
    """
    answers: dict[str, Answer] = {}
    codes = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        working = {pool.submit(_on_node, node, words, rsh, key): node for node in nodes}
        for count, future in enumerate(as_completed(working), 1):
            node = working[future]
            code, answers[node] = future.result()
            codes.add(code)
            said = answers[node].get("error") or summary(answers[node])
            print(f"{count}/{len(nodes)} {node}: {said}", file=sys.stderr)
    return max(codes, key=(DONE, LEFT, UNKNOWN).index, default=DONE), answers


def _on_node(node: str, words: Sequence[str], rsh: str, key: str) -> tuple[int, Answer]:
    program = os.path.abspath(sys.argv[0])
    command = [*shlex.split(rsh), node, *map(shlex.quote, [program, *words])]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NODE_SECONDS,
            check=False,
        )
        document = json.loads(done.stdout)
        if isinstance(document, dict) and isinstance(document.get(key), list):
            return done.returncode if done.returncode in (DONE, LEFT) else UNKNOWN, document
    except subprocess.TimeoutExpired:
        return UNKNOWN, {"error": f"no answer within {NODE_SECONDS} s"}
    except OSError as error:
        return UNKNOWN, {"error": f"{command[0]} cannot be started: {error.strerror}"}
    except ValueError:
        pass
    why = " ".join(done.stderr.split())[-200:] or f"exit code {done.returncode}, and no report"
    return UNKNOWN, {"error": why}


def print_lines(
    nodes: Sequence[str], answers: Mapping[str, Answer], lines: Callable[[Answer], Sequence[str]]
) -> None:
    """Each node's lines behind its name, in the order of ``nodes``."""
    for node in nodes:
        answer = answers[node]
        for line in [answer["error"]] if "error" in answer else lines(answer):
            print(f"{node}: {line}")
