# SPDX-License-Identifier: Apache-2.0
"""Run a command that dies with whoever started it, however that dies.

    python3 -IS tether.py PARENT alone|family COMMAND [ARGUMENT]...

A viewer that is killed closes its end of srun's pipes, and srun ends as soon as its tasks have; but for the task
of a node that is off it waits until Slurm gives the node up. ``family``: the command has children of its own, and
dies with them; the script stays beside it. A script of its own, with few imports: one is run for each program of a
watch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def command(argv: Sequence[str], family: bool = False) -> list[str]:
    """The command line that runs ``argv`` as this thread's: the kernel counts the thread's end as the parent's.
    With ``family`` it makes a process group, for which the caller need not.
    """
    kind = "family" if family else "alone"
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), kind, *argv]


def main(words: Sequence[str]) -> None:
    """Becomes the command; exits with 127 and a line on stderr when it is not there."""
    parent, kind, *argv = words
    family = kind == "family"
    if family:
        with contextlib.suppress(PermissionError):  # it leads a session, and so a group
            os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    number = signal.SIGTERM if family else signal.SIGKILL
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
    if os.getppid() != int(parent):  # it died before the kernel was told
        sys.exit(1)
    if family and (child := os.fork()):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]} cannot be started: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
