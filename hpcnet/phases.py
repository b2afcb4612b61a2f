# SPDX-License-Identifier: Apache-2.0
"""Where a hook's time goes (``hpcnet prolog --profile``): milliseconds by phase, of clock and processor.

    start()
    ...
    passed("devices")      # the phase that ends here
    summary()              # "python 9.8 (9.8), imports 20.1 (19.7), devices 4.0 (1.2), all 33.9 (30.7)"

Without ``start`` a call costs nothing. What a phase takes of the clock beyond the processor it waits for: the
kernel (removing devices), nft's answer, other work on the node.
"""

from __future__ import annotations

import time

_phases: list[tuple[str, float, float]] = []


def start() -> None:
    """Begin. What the process did before, which is to start Python, is known by its processor time only."""
    _phases[:] = [("", time.monotonic() - time.process_time(), 0.0)]
    passed("python")


def passed(phase: str) -> None:
    """``phase`` ends here."""
    if _phases:
        _phases.append((phase, time.monotonic(), _processor()))


def summary() -> str:
    """Each phase with its milliseconds, in parentheses the processor's; empty without :func:`start`."""
    parts = []
    for (_, began, used), (phase, ended, using) in zip(_phases, _phases[1:]):
        parts.append(f"{phase} {1000 * (ended - began):.1f} ({1000 * (using - used):.1f})")
    if parts:
        (_, began, _), (_, ended, used) = _phases[0], _phases[-1]
        parts.append(f"all {1000 * (ended - began):.1f} ({1000 * used:.1f})")
    return ", ".join(parts)


def _processor() -> float:
    """Seconds of this process and of the children that have ended; nft is one."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
