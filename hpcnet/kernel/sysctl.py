# SPDX-License-Identifier: Apache-2.0
"""Settings under /proc/sys of the namespace that the thread is in, such as ``net/ipv4/ip_forward``."""

from __future__ import annotations


def read(key: str) -> str | None:
    """The value, or None when this kernel, or a device that has gone, does not have it."""
    try:
        with open(f"/proc/sys/{key}", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def write(key: str, value: str) -> None:
    """Set it. Raises OSError, FileNotFoundError when there is no such key."""
    with open(f"/proc/sys/{key}", "w", encoding="ascii") as file:
        file.write(value)
