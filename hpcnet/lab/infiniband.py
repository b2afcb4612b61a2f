# SPDX-License-Identifier: Apache-2.0
"""The lab's fabric on InfiniBand: each host gets an adapter of the machine, by its IPoIB interface, as ib0.

The interface is the machine's and is only lent: when a host ends, the kernel gives it back, with the children that
were made of it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcnet.errors import LabError
from hpcnet.lab.layout import addresses

_ADAPTERS = Path("/sys/class/infiniband")
_NETS = Path("/sys/class/net")
_SECONDS = 60.0


def require(hosts: Sequence[str]) -> None:
    """Raises LabError when the machine has fewer adapters than hosts."""
    found = len(_adapters())
    if found < len(hosts):
        raise LabError(
            f"--fabric infiniband: {len(hosts)} hosts ({', '.join(hosts)}) need an adapter each, and "
            f"{_ADAPTERS} has {found}; take fewer --nodes, or see docs/ipoib-vm.md for adapters made of software"
        )


def plug(order: Sequence[str], hosts: Mapping[str, int], mtu: int) -> None:
    """Lend hosts (name -> process id of pid 1) their adapters: ``order`` names all that ever get one.

    Returns when each interface has joined its broadcast group.
    """
    adapters = dict(zip(order, _adapters()))
    for host, init in hosts.items():
        interface = _interface(adapters[host])
        _ip(["link", "set", interface, "down"])
        _ip(["link", "set", interface, "netns", str(init), "name", "ib0"])
        _ip(["link", "set", "ib0", "mtu", str(mtu)], init)
        _ip(["address", "add", f"{addresses(host)['ib0']}/16", "dev", "ib0"], init)
        _ip(["link", "set", "ib0", "up"], init)
    deadline = time.monotonic() + _SECONDS
    for host, init in hosts.items():
        while "LOWER_UP" not in _ip(["-oneline", "link", "show", "ib0"], init):
            if time.monotonic() > deadline:
                raise LabError(f"ib0 of host {host} has no carrier: is port 1 of {adapters[host].name} active?")
            time.sleep(0.05)


def _adapters() -> list[Path]:
    """The machine's adapters, mlx5_2 before mlx5_10."""
    found = _ADAPTERS.iterdir() if _ADAPTERS.exists() else ()
    return sorted(found, key=lambda path: [int(part) for part in re.findall("[0-9]+", path.name)])


def _interface(adapter: Path) -> str:
    """The adapter's IPoIB interface, once the machine has it (back); children that came back too are deleted."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        children: list[str] = []
        for entry in sorted(adapter.glob("device/net/*")):
            own, parent = (int((_NETS / entry.name / name).read_text()) for name in ("ifindex", "iflink"))
            if own == parent:
                for child in children:
                    _ip(["link", "delete", child])
                return entry.name
            children.append(entry.name)
        time.sleep(0.02)
    raise LabError(f"adapter {adapter.name} has no IPoIB interface; is ib_ipoib loaded, and nobody using it?")


def _ip(words: Sequence[str], init: int | None = None) -> str:
    """Output of ``ip``, on the machine or in the network namespace of a process."""
    enter = ["nsenter", "-t", str(init), "-n"] if init else []
    done = subprocess.run([*enter, "ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
