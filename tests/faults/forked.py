# SPDX-License-Identifier: Apache-2.0
"""Runs on a host, and forks a process for each hook it is told to run: one whose interpreter has started already.

Each line of standard input is an order, each line of standard output what came of it, both JSON:

    {"words": ["prolog"], "environment": {"SLURM_JOB_ID": "17", ...}, "strace": ["-e", "trace=mkdir"]}
    {"code": 0, "out": "", "err": "hpcnet prolog: job 17: built; ..."}

From the hook's first call on it is the process that Slurm starts: files, environment, arguments. What it imports
has been imported, which costs more than all that it does. With ``strace``, that traces it from there, and has
ended when the answer comes.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from typing import NoReturn

from hpcnet.cli.main import main as hpcnet

_IMPORTED = (
    "concurrent.futures.thread",
    "encodings.ascii",
    "hpcnet.agent.command",
    "hpcnet.cli.cleanup",
    "hpcnet.cli.commands",
    "hpcnet.cli.hooks",
    "hpcnet.counters.account",
    "hpcnet.counters.wire",
    "hpcnet.lifecycle",
    "hpcnet.runtimes.docker",
)
"""What a hook or cleanup would import on its way."""


def main() -> None:
    """Until standard input ends."""
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)


def _run(words: list[str], environment: dict[str, str], strace: list[str]) -> dict[str, object]:
    out, err, begin = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.dup2(out[1], 1)
        os.dup2(err[1], 2)
        os.read(begin[0], 1)
        for file in (*out, *err, *begin):
            os.close(file)
        _be(words, environment)
    tracer = _traced(child, strace) if strace else None
    os.write(begin[1], b"!")
    for file in (out[1], err[1], *begin):
        os.close(file)
    said = [_all(file) for file in (out[0], err[0])]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if tracer:
        tracer.communicate()
    return {"code": code, "out": said[0], "err": said[1]}


def _be(words: list[str], environment: dict[str, str]) -> NoReturn:
    """The hook."""
    code = 70
    try:
        os.environ.clear()
        os.environ.update(environment)
        code = hpcnet(words)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _traced(process: int, options: list[str]) -> subprocess.Popen[str]:
    tracer = subprocess.Popen(
        ["/usr/bin/strace", "-p", str(process), *options],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert tracer.stderr is not None
    told = tracer.stderr.readline()  # the process is stopped, until it is watched
    assert "attached" in told, told
    return tracer


def _all(file: int) -> str:
    with os.fdopen(file, encoding="utf-8", errors="replace") as text:
        return text.read()


if __name__ == "__main__":
    main()
