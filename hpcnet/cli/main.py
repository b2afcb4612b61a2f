# SPDX-License-Identifier: Apache-2.0
"""The hpcnet command. A hook and the lab are handed on before anything else is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hpcnet import phases

HOOKS = ("prolog", "epilog", "prolog-slurmctld", "epilog-slurmctld")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (``hpcnet --help`` lists them)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in HOOKS:
        if words[1:] == ["--profile"]:
            phases.start()
        from hpcnet.cli import hooks

        return hooks.main(words[0])
    if words and words[0] == "sample":
        from hpcnet.counters import sampler

        return sampler.main(words[1:])
    if words and words[0] == "lab":
        from hpcnet.lab import command

        return command.main(words[1:])
    from hpcnet.cli import commands

    return commands.main(words)
