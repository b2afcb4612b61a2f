# SPDX-License-Identifier: Apache-2.0
"""What the kernel warns of, read as it comes: each record once, none lost."""

from __future__ import annotations

import os
import re

_WARNING = 4  # of a record's level, which is 0 (emergency) to 7 (debug)

# Warnings of the kernel that tell of no fault of ours; each is a whole message.
_EXPECTED = (
    # softib is built outside the kernel and not signed
    "softib: loading out-of-tree module taints kernel.",
    "softib: module verification failed: signature and/or required key missing - tainting kernel",
    # ib_ipoib names these files by interface only, and every lab host has an ib0, every job an hpc0
    r"debugfs: File '\w+_(mcg|path)' in directory 'ipoib' already present!",
    # what it says of every interface in connected mode
    r"\w+: enabling connected mode will cause multicast packet drops",
    r"\w+: mtu > \d+ will cause multicast packet drops\.",
    # of tests in which the subnet manager is silent, or the port is not in the partition
    r"\w+: multicast join failed for \S+, status -(110|22)",
    r"\w+: P_Key 0x\w+ is not found",
    # the machine did not let the VM run for a while
    "clocksource: .*",
    "hrtimer: interrupt took .*",
    # a file of the machine came and went while the VM ran; a message of several lines
    r"FS-Cache: .*|\s*(9p,machine,\])?",
    # of the test that tries it
    ".* Master is either lo or non-ether device",
)


class KernelLog:
    """The kernel's log from its last clearing on (``dmesg --clear``)."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._file, 0, os.SEEK_DATA)

    def warnings(self) -> list[str]:
        """What it has warned of, or worse, since the last call, but for what is expected."""
        found: list[str] = []
        while True:
            try:
                found += unexpected(os.read(self._file, 8192).decode(errors="replace"))
            except BlockingIOError:
                return found
            except BrokenPipeError:
                found.append("the kernel's log ran over before it was read: more log_buf_len in tools/ipoib-vm")

    def close(self) -> None:
        """No more of it."""
        os.close(self._file)


def unexpected(record: str) -> list[str]:
    """Lines of a record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg), if they are warnings of a fault."""
    head, _, rest = record.partition(";")
    if int(head.split(",")[0]) & 7 > _WARNING:
        return []
    message = re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), rest.split("\n")[0])
    expected = re.compile("|".join(f"(?:{text})" for text in _EXPECTED))
    return [line for line in message.split("\n") if not expected.fullmatch(line)]
