# SPDX-License-Identifier: Apache-2.0
"""The connections that the kernel tracks: those of an address are forgotten when it goes to another job.

A rule that lets answers in asks for the connection, and the kernel knows one by addresses and ports alone.
Source: Linux include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address

from hpcnet.errors import NodeError
from hpcnet.kernel import rtnl

_GET, _DELETE = 0x101, 0x102
_TUPLE_ORIG, _ZONE, _FILTER = 1, 18, 25
_IP, _IP_SRC = 1, 1
_ORIG_FLAGS, _BY_SOURCE = 1, 1  # of _FILTER
_NESTED = 0x8000
_HEADER = struct.pack("!BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg


def forget(address: IPv4Address) -> None:
    """Forget each connection that this address began. The kernel looks at all that it has. Raises NodeError."""
    source = rtnl.attribute(_IP | _NESTED, rtnl.attribute(_IP_SRC, address.packed))
    request = rtnl.message(
        _GET,
        rtnl.DUMP,
        _HEADER,
        rtnl.attribute(_TUPLE_ORIG | _NESTED, source),
        rtnl.attribute(_FILTER | _NESTED, rtnl.number(_ORIG_FLAGS, _BY_SOURCE)),  # passed over before Linux 5.8
    )
    try:
        with rtnl.Rtnl(rtnl.NETFILTER) as netlink:
            found = [rtnl.attributes(body, len(_HEADER)) for _, body in netlink.dump(request)]
            netlink.send(
                *(_delete(one) for one in found if _source(one) == address.packed), ignore=(errno.ENOENT,)
            )
    except OSError as error:
        raise NodeError(
            f"the kernel does not forget connections of {address}, which another job may get: {error.strerror}; "
            "it needs the module nf_conntrack_netlink"
        ) from error


def _source(connection: dict[int, bytes]) -> bytes:
    addresses = rtnl.attributes(rtnl.attributes(connection[_TUPLE_ORIG])[_IP])
    return addresses[_IP_SRC]


def _delete(connection: dict[int, bytes]) -> bytes:
    parts = [rtnl.attribute(_TUPLE_ORIG | _NESTED, connection[_TUPLE_ORIG])]
    if _ZONE in connection:
        parts.append(rtnl.attribute(_ZONE, connection[_ZONE]))
    return rtnl.message(_DELETE, 0, _HEADER, *parts)
