# SPDX-License-Identifier: Apache-2.0
"""An adapter made of software, and its controls. See tests/ipoib_vm/softib."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernel.hosts import wait_for

PARAMETERS = Path("/sys/module/softib/parameters")


def sh(script: str) -> str:
    """Output of a shell script, which must succeed."""
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


class Adapter:
    """softibN, whose interface is ibN in the VM's own namespace until somebody takes it."""

    def __init__(self, number: int) -> None:
        self.interface = f"ib{number}"
        self.sysfs = Path(f"/sys/class/infiniband/softib{number}")

    def control(self, name: str, value: str) -> None:
        """Change port, pkeys or sm."""
        (self.sysfs / "control" / name).write_text(value)

    @contextmanager
    def with_control(self, name: str, value: str) -> Iterator[None]:
        """Change one for a while."""
        before = (self.sysfs / "control" / name).read_text()
        self.control(name, value)
        try:
            yield
        finally:
            self.control(name, before)

    def counter(self, name: str) -> int:
        """One of the port's counters."""
        return int((self.sysfs / "ports/1/counters" / name).read_text())

    def refused(self, why: str) -> int:
        """Packets that the port did not take: bad_pkey, bad_qkey, out_of_buffer."""
        return int((self.sysfs / "ports/1/hw_counters" / why).read_text())


def carrier(interface: str, namespace: str = "") -> bool:
    """Whether an interface has joined its broadcast group; the kernel takes a second to say that it has none."""
    inside = f"-n {namespace} " if namespace else ""
    return " state UP " in sh(f"ip {inside}-o link show {interface}")


def wait_for_carrier(interface: str, namespace: str = "", there: bool = True) -> None:
    """Wait until an interface has a carrier, or none."""
    wait_for(lambda: carrier(interface, namespace) is there, f"{interface}: carrier is not {there}", 60)


@contextmanager
def parameter(name: str, value: str) -> Iterator[None]:
    """Change one of softib's for a while: group_mtu, partitions."""
    before = (PARAMETERS / name).read_text()
    (PARAMETERS / name).write_text(value)
    try:
        yield
    finally:
        (PARAMETERS / name).write_text(before)


def duplicates() -> int:
    """How many duplicate IPv6 addresses the kernel has found until now, in any namespace."""
    return sh("dmesg").count("IPv6 duplicate address")
