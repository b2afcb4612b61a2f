# SPDX-License-Identifier: Apache-2.0
"""What the InfiniBand port under an IPoIB interface is and can, read from sysfs.

Source: Linux Documentation/ABI/stable/sysfs-class-infiniband, drivers/infiniband/ulp/ipoib.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hpcnet.errors import NodeError, SiteError
from hpcnet.frozen import frozen
from hpcnet.model import IPOIB_MODES

if TYPE_CHECKING:
    from pathlib import Path

ARPHRD_INFINIBAND = 32

SYSFS = "/sys"

_FULL_MEMBER = 0x8000


def sysfs() -> Path:
    """Where adapters and interfaces are looked for."""
    from pathlib import Path  # a node without InfiniBand does not pay for it

    return Path(SYSFS)


@frozen
class Port:
    """One port of one adapter."""

    name: str
    """Adapter and number, such as mlx5_0/1."""
    state: str
    """ACTIVE, INIT, DOWN ..."""
    pkeys: frozenset[int]
    """Its partition table, as the subnet manager filled it."""
    rate: str = ""
    """Such as "100 Gb/sec (4X EDR)"."""


def ipoib_facts(uplink: str) -> tuple[str, str]:
    """Mode (datagram or connected) and pkey of an IPoIB interface."""
    directory = sysfs() / "class/net" / uplink
    mode = _text(directory / "mode")  # absent where the driver has datagram only
    return (mode if mode in IPOIB_MODES else "datagram"), _text(directory / "pkey").lower()


def require(uplink: str, node: str, pkey: str) -> None:
    """Raises NodeError or SiteError when the uplink's port cannot carry an IPoIB child of this pkey."""
    directory = sysfs() / "class/net" / uplink
    parent = _parent(directory)
    if parent:
        raise NodeError(
            f"uplink {uplink} on {node} is an IPoIB child itself and can have none; "
            f"set [fabric] uplink to its parent{parent}"
        )
    port = port_of(uplink)
    if port is None:
        raise NodeError(
            f"no InfiniBand port of uplink {uplink} is found on {node}, neither under {directory}/device "
            f"nor by its GUID under {SYSFS}/class/infiniband"
        )
    if port.state != "ACTIVE":
        raise NodeError(_not_active(port, uplink, node))
    number = int(pkey, 16)
    if number not in port.pkeys:
        member = "a limited member of" if number & ~_FULL_MEMBER in port.pkeys else "not in"
        raise SiteError(
            f"port {port.name} of uplink {uplink} on {node} is {member} partition {pkey}; make it a full member "
            "in the subnet manager's partitions, or take the pkey out of hpcnet.toml"
        )


def no_carrier(uplink: str, node: str) -> str:
    """What is wrong, in one line, with an IPoIB interface that is up and has no carrier."""
    port = port_of(uplink)
    if port is None:
        return f"uplink {uplink} has no carrier on {node}; check its cable, port and subnet manager"
    if port.state != "ACTIVE":
        return _not_active(port, uplink, node)
    return (
        f"uplink {uplink} has no carrier on {node} though port {port.name} is ACTIVE: it could not join its "
        "partition's broadcast group; see whether the subnet manager makes it (opensm: ipoib)"
    )


def _not_active(port: Port, uplink: str, node: str) -> str:
    return (
        f"port {port.name} of uplink {uplink} on {node} is {port.state or 'in no known state'}, not ACTIVE; "
        "check its cable and the subnet manager"
    )


def _parent(interface: Path) -> str:
    """ " ib0", the interface that this one is a child of; "" for none. Not by the file ``parent``: a child that
    was made by netlink has none.
    """
    index = _text(interface / "iflink")
    if index == _text(interface / "ifindex"):
        return ""
    for other in sorted(interface.parent.iterdir()):
        if _text(other / "ifindex") == index:
            return f" {other.name}"
    return f", interface {index}"


def adapters_of(interface: str) -> str:
    """Adapters that an interface of this host is of, such as "mlx5_0"; "" for most of Ethernet and for bonds."""
    try:
        return " ".join(sorted(os.listdir(f"{SYSFS}/class/net/{interface}/device/infiniband")))
    except OSError:
        return ""


def port_of(uplink: str) -> Port | None:
    """The port under an IPoIB interface, or None when sysfs does not tell it."""
    directory = _port_directory(sysfs() / "class/net" / uplink)
    if directory is None:
        return None
    table = (_text(entry) for entry in (directory / "pkeys").iterdir())
    state = _text(directory / "state").rpartition(":")[2].strip()  # "4: ACTIVE"
    name = f"{directory.parents[1].name}/{directory.name}"
    return Port(name, state, frozenset(int(key, 16) for key in table if key), _text(directory / "rate"))


def _port_directory(interface: Path) -> Path | None:
    """By the interface's device; where the adapter has none that sysfs shows, by the port's GUID."""
    number = int(_text(interface / "dev_port") or "0") + 1
    for adapter in sorted(interface.glob("device/infiniband/*")):
        if (adapter / f"ports/{number}").is_dir():
            return adapter / f"ports/{number}"
    guid = _text(interface / "address").replace(":", "")[-16:]
    for gid in sorted(sysfs().glob("class/infiniband/*/ports/*/gids/0")):
        if guid and _text(gid).replace(":", "")[-16:] == guid:
            return gid.parents[1]
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
