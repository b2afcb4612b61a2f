# SPDX-License-Identifier: Apache-2.0
"""The VXLAN port of this host, held for the kernel from boot on.

Every user may bind UDP 4789, and a node whose port a program has can give no job a network. A VXLAN device that is
up has the port too, and the devices of jobs share it: so one stays, which carries nothing, with its socket in the
host's namespace and itself in one of its own that nobody is in. (drivers/net/vxlan/vxlan_core.c, vxlan_sock_add.)

The kernel has one IPv4 socket of VXLAN on a port, and devices share it only if their receive flags agree
(VXLAN_F_RCV_FLAGS: external, vnifilter, gbp, gpe, udp6zerocsumrx, remcsumrx). Who else needs the port in such a
form cannot have it beside jobs: [fabric] vxlan_port gives hpcnet another one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator

from hpcnet import names
from hpcnet.kernel import interior, links, netns, rtnl
from hpcnet.kernel.segment import IFLA_VXLAN_ID, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT

_VNI = 0
_PATH = f"{names.NETNS_DIR}/{names.PORT_NETNS}"


def hold(port: int) -> str:
    """Take the port, or keep it, and give back another one; returns why it cannot be had, or nothing."""
    try:
        _hold(port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return (
                f"UDP port {port} is a program's or another form of VXLAN device's already: on a compute node "
                "jobs get no network; hpcnet doctor there names it: end it, load again; or set [fabric] vxlan_port"
            )
        return f"UDP port {port} cannot be held: {error.strerror}"
    return ""


def _hold(port: int) -> None:
    if not netns.is_pinned(_PATH):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_PATH)  # it pins nothing
        netns.pin(_PATH)
    with rtnl.Rtnl() as host, _opened() as (namespace, inside):
        interior.setting("net/ipv6/conf/default/disable_ipv6", "1")
        device = links.find(inside, names.PORT_DEVICE)
        if device is not None and device.data.get(IFLA_VXLAN_PORT) != _packed(port):
            links.delete(inside, device.index)
            device = None
        if device is None:
            host.send(_new_device(namespace, port))
        inside.send(interior.up(interior.existing(inside, names.PORT_DEVICE).index))


@contextlib.contextmanager
def _opened() -> Iterator[tuple[int, rtnl.Rtnl]]:
    """The thread in the device's namespace: a descriptor of that, and a socket in it."""
    with netns.opened(_PATH) as namespace, netns.inside_fd(namespace), rtnl.Rtnl() as inside:
        yield namespace, inside


def held(port: int) -> bool:
    """Whether the device is there and up on this port, with its socket in the caller's namespace."""
    if not netns.is_pinned(_PATH):
        return False
    with netns.own() as home, _opened() as (_, inside):
        device = links.find(inside, names.PORT_DEVICE)
        if device is None or not device.flags & rtnl.IFF_UP or device.data.get(IFLA_VXLAN_PORT) != _packed(port):
            return False
        return links.namespace_id(inside, home) == device.link_namespace != -1


def release() -> None:
    """Give the port back; not held is fine. Jobs that are there keep it until they end."""
    if netns.is_pinned(_PATH):
        with _opened() as (_, inside):
            device = links.find(inside, names.PORT_DEVICE)
            if device is not None:
                links.delete(inside, device.index)
    netns.unpin(_PATH)


def _packed(port: int) -> bytes:
    return struct.pack("!H", port)


def _new_device(namespace: int, port: int) -> bytes:
    data = (
        rtnl.number(IFLA_VXLAN_ID, _VNI)
        + rtnl.attribute(IFLA_VXLAN_LEARNING, b"\0")
        + rtnl.attribute(IFLA_VXLAN_PORT, _packed(port))
    )
    return rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(),
        rtnl.text(rtnl.IFLA_IFNAME, names.PORT_DEVICE),
        rtnl.number(rtnl.IFLA_NET_NS_FD, namespace),
        interior.link_info("vxlan", data),
    )
