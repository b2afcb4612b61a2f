# SPDX-License-Identifier: Apache-2.0
"""Single interfaces: look one up, list a namespace's, delete one; and the facts of the uplink."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address

from hpcnet.errors import NodeError
from hpcnet.frozen import frozen
from hpcnet.kernel import infiniband, rtnl

_ADDRESS_HEADER = 8
_RTM_GETADDR = 22
_OPERSTATE_UP, _OPERSTATE_UNKNOWN = 6, 0
_IFLA_OPERSTATE = 16


@frozen
class Link:
    """An interface as the kernel tells it; ``data`` holds the attributes of its kind, ``hardware`` is ARPHRD_*.

    ``link_namespace`` is the id (:func:`namespace_id`) of the one that its lower device is in; -1: in its own.
    """

    index: int
    name: str
    kind: str
    mtu: int
    flags: int
    group: int
    alias: str
    operstate: int
    address: bytes
    data: dict[int, bytes]
    hardware: int
    link_namespace: int = -1


def find(netlink: rtnl.Rtnl, name: str) -> Link | None:
    """The interface of this name, or None."""
    answer = netlink.get(rtnl.message(rtnl.RTM_GETLINK, 0, rtnl.link_header(), rtnl.text(rtnl.IFLA_IFNAME, name)))
    return parse(answer[1]) if answer else None


def every(netlink: rtnl.Rtnl) -> list[Link]:
    """All interfaces of the socket's namespace."""
    request = rtnl.message(rtnl.RTM_GETLINK, rtnl.DUMP, rtnl.link_header())
    return [parse(body) for kind, body in netlink.dump(request) if kind == rtnl.RTM_NEWLINK]


def delete(netlink: rtnl.Rtnl, index: int) -> None:
    """Delete an interface; gone already is fine. Returns when it is gone."""
    netlink.send(rtnl.message(rtnl.RTM_DELLINK, 0, rtnl.link_header(index)), ignore=(errno.ENODEV,))


def delete_group(netlink: rtnl.Rtnl, group: int) -> None:
    """Delete all interfaces of a netdev group in the socket's namespace at once; none is fine.

    The kernel waits for its readers (RCU) once, not for each interface.
    """
    request = rtnl.message(rtnl.RTM_DELLINK, 0, rtnl.link_header(), rtnl.number(rtnl.IFLA_GROUP, group))
    netlink.send(request, ignore=(errno.ENODEV,))


def parse(body: bytes) -> Link:
    """The interface of an RTM_NEWLINK message."""
    hardware, index, flags = struct.unpack_from("=HiI", body, 2)
    found = rtnl.attributes(body, 16)
    info = rtnl.attributes(found.get(rtnl.IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(found.get(rtnl.IFLA_IFNAME)),
        kind=_text(info.get(rtnl.IFLA_INFO_KIND)),
        mtu=_number(found.get(rtnl.IFLA_MTU)),
        flags=flags,
        group=_number(found.get(rtnl.IFLA_GROUP)),
        alias=_text(found.get(rtnl.IFLA_IFALIAS)),
        operstate=found.get(_IFLA_OPERSTATE, b"\0")[0],
        address=found.get(rtnl.IFLA_ADDRESS, b""),
        data=rtnl.attributes(info.get(rtnl.IFLA_INFO_DATA, b"")),
        hardware=hardware,
        link_namespace=_id(found.get(rtnl.IFLA_LINK_NETNSID)),
    )


def _text(payload: bytes | None) -> str:
    return (payload or b"").rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes | None) -> int:
    return int(struct.unpack("=I", payload)[0]) if payload else 0


def _id(payload: bytes | None) -> int:
    return int(struct.unpack("=i", payload)[0]) if payload else -1


def namespace_id(netlink: rtnl.Rtnl, namespace: int) -> int:
    """The id by which the socket's namespace knows the one of this file descriptor; -1: by none."""
    request = rtnl.message(rtnl.RTM_GETNSID, 0, bytes(4), rtnl.number(rtnl.NETNSA_FD, namespace))
    answer = netlink.get(request)
    return _id(rtnl.attributes(answer[1], 4).get(rtnl.NETNSA_NSID)) if answer else -1


def uplink(netlink: rtnl.Rtnl, name: str, node: str, address: IPv4Address) -> Link:
    """The fabric interface, checked: it exists, is up with a carrier, and has the address that peers expect.

    Raises NodeError naming what is wrong with it on this node.
    """
    link = find(netlink, name)
    if link is None:
        raise NodeError(f"uplink {name} does not exist on {node}; check its driver, or set [fabric] uplink")
    if not link.flags & rtnl.IFF_UP:
        raise NodeError(f"uplink {name} is down on {node}; bring it up (ip link set {name} up)")
    if link.operstate not in (_OPERSTATE_UP, _OPERSTATE_UNKNOWN):
        if link.hardware == infiniband.ARPHRD_INFINIBAND:
            raise NodeError(infiniband.no_carrier(name, node))
        raise NodeError(f"uplink {name} has no carrier on {node}; check its cable and the switch's port")
    if str(address) not in (text.partition("/")[0] for index, text in addresses(netlink) if index == link.index):
        raise NodeError(
            f"uplink {name} on {node} does not have the address {address} that [fabric] peers gives the node"
        )
    return link


def addresses(netlink: rtnl.Rtnl) -> list[tuple[int, str]]:
    """Interface index and address with prefix length, such as ``10.128.0.1/30``, of all in the namespace."""
    request = rtnl.message(_RTM_GETADDR, rtnl.DUMP, rtnl.address_header(socket.AF_UNSPEC, 0, 0))
    found = []
    for _, body in netlink.dump(request):
        family, prefix, index = struct.unpack_from("=BBxxI", body)
        attributes = rtnl.attributes(body, _ADDRESS_HEADER)
        packed = attributes.get(rtnl.IFA_LOCAL) or attributes.get(rtnl.IFA_ADDRESS)
        if packed and family in (socket.AF_INET, socket.AF_INET6):
            found.append((index, f"{socket.inet_ntop(family, packed)}/{prefix}"))
    return found
