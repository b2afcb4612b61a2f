# SPDX-License-Identifier: Apache-2.0
"""Run a command that dies with whoever started it, however that dies.

    python3 -IS tether.py PARENT COMMAND [ARGUMENT]...

A viewer that is killed closes its end of srun's pipes, and srun ends as soon as its tasks have; but for the task
of a node that is off it waits until Slurm gives the node up. A script of its own, with few imports: one is run for
each program of a watch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def command(argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` as this thread's: the kernel counts the thread's end as the parent's."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *argv]


def main(words: Sequence[str]) -> None:
    """Becomes the command; exits with 127 and a line on stderr when it is not there."""
    parent, *argv = words
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != int(parent):  # it died before the kernel was told
        sys.exit(1)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]} cannot be started: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
