# SPDX-License-Identifier: Apache-2.0
"""What /proc tells without privilege of the namespaces of one's own processes, from outside of them.

Source: proc_pid_net(5), Linux net/core/net-procfs.c (dev_seq_printf_stats).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")

_JOB = re.compile(rb"(?:^|\0)SLURM_JOB_ID=([1-9][0-9]{0,9})(?=\0|$)")
# of the 16 columns; the others are parts of these, or of no network of ours
_COLUMNS = {
    "rx_bytes": 0,
    "rx_packets": 1,
    "rx_errors": 2,
    "rx_dropped": 3,
    "tx_bytes": 8,
    "tx_packets": 9,
    "tx_errors": 10,
    "tx_dropped": 11,
}


def processes_of_jobs() -> Iterator[tuple[int, int]]:
    """``(job id, process id)`` of the caller's processes that Slurm started, or that descend from such."""
    uid = os.geteuid()
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile, or not to be looked into
                if entry.stat().st_uid == uid:
                    found = _JOB.search((entry / "environ").read_bytes())
                    if found:
                        yield int(found[1]), int(entry.name)


def devices(process: int) -> dict[str, dict[str, int]]:
    """What each interface of a process's namespace has counted, by name; of a process that is gone, none."""
    try:
        lines = (PROC / str(process) / "net/dev").read_text(encoding="utf-8", errors="replace").splitlines()[2:]
    except OSError:
        return {}
    split = ((name.strip(), numbers.split()) for name, _, numbers in (line.rpartition(":") for line in lines))
    return {
        name: {counter: int(numbers[at]) for counter, at in _COLUMNS.items()}
        for name, numbers in split
        if len(numbers) == 16
    }
