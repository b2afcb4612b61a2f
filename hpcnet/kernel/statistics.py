# SPDX-License-Identifier: Apache-2.0
"""What the interfaces of a namespace have counted, with their addresses; by netlink, without privilege.

Source: Linux include/uapi/linux/if_link.h (struct rtnl_link_stats64), ethtool.h (struct ethtool_cmd).
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from hpcnet.frozen import frozen
from hpcnet.kernel import links, rtnl
from hpcnet.kernel.links import Link

_IFLA_STATS64 = 23
_STATS64 = struct.Struct("=8Q")
_NAMES = (
    "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped".split()
)  # as the kernel orders them

_SIOCETHTOOL, _ETHTOOL_GSET = 0x8946, 0x1
_ETHTOOL_COMMAND = 44  # bytes of struct ethtool_cmd
_SPEED_UNKNOWN = 0xFFFFFFFF


@frozen
class Device:
    """An interface, its counters by name (empty: the kernel tells none), its addresses with prefix length."""

    link: Link
    counters: dict[str, int]
    addresses: tuple[str, ...]
    speed: int | None
    """Bit/s, as the driver tells it."""


def devices(netlink: rtnl.Rtnl, group: int) -> list[Device]:
    """The interfaces of a netdev group in the socket's namespace, which the calling thread must be in."""
    request = rtnl.message(rtnl.RTM_GETLINK, rtnl.DUMP, rtnl.link_header())
    bodies = [body for kind, body in netlink.dump(request) if kind == rtnl.RTM_NEWLINK]
    addresses = links.addresses(netlink)
    found = []
    for body in bodies:
        link = links.parse(body)
        if link.group == group:
            own = tuple(text for index, text in addresses if index == link.index)
            found.append(Device(link, _counters(body), own, _speed(link.name)))
    return found


def _counters(body: bytes) -> dict[str, int]:
    packed = rtnl.attributes(body, 16).get(_IFLA_STATS64, b"")
    return dict(zip(_NAMES, _STATS64.unpack_from(packed))) if len(packed) >= _STATS64.size else {}


def _speed(device: str) -> int | None:
    """By ethtool's ioctl: /sys/class/net shows the devices of another namespace."""
    command = ctypes.create_string_buffer(struct.pack("=I", _ETHTOOL_GSET), _ETHTOOL_COMMAND)
    request = struct.pack("16sP16x", device.encode()[:15], ctypes.addressof(command))  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        try:
            fcntl.ioctl(handle, _SIOCETHTOOL, request)
        except OSError:
            return None
    low, high = struct.unpack_from("=H", command, 12)[0], struct.unpack_from("=H", command, 28)[0]
    megabits = int(low | high << 16)
    return None if megabits in (0, _SPEED_UNKNOWN) else megabits * 1_000_000
