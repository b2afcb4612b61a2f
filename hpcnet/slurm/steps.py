# SPDX-License-Identifier: Apache-2.0
"""Jobs that have a slurmstepd on this node: known without slurmctld, and without slurmd."""

from __future__ import annotations

import contextlib
import os
import re

# slurmstepd's own title: "slurmstepd: [17.batch]", "[17.0]", of a heterogeneous job "[17+1.0]"
_TITLE = re.compile(rb"slurmstepd: \[([0-9]{1,10})[.+]")


def jobs() -> frozenset[int]:
    """Ids of all jobs of which root runs a slurmstepd here."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile
                path = f"/proc/{name}"
                if os.stat(path).st_uid != 0:
                    continue  # reading a user's memory may hang (FUSE)
                with open(f"{path}/cmdline", "rb") as file:
                    title = _TITLE.match(file.read(64))
                if title:
                    found.add(int(title[1]))
    return frozenset(found)
