# SPDX-License-Identifier: Apache-2.0
"""A lean rtnetlink: messages are packed here, sent many at a time, and answered before the call returns.

The hook path builds with this alone: importing pyroute2 costs more than all the work of a Prolog.
``check`` reads the kernel back through pyroute2, so that an error of this encoder cannot hide.

    with Rtnl() as netlink:
        netlink.send(message(RTM_NEWLINK, CREATE | EXCLUSIVE, link_header(), attribute(IFLA_IFNAME, b"x\\0")))

Source: Linux include/uapi/linux/{netlink,rtnetlink,if_link,neighbour,if_addr}.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType

ROUTE, NETFILTER = 0, 12

NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP_INTERRUPTED, DUMP = 0x1, 0x4, 0x10, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_GETNSID = 90

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 18, 20, 27, 28, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2

NDA_DST, NDA_LLADDR = 1, 2
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF = 0x2

NETNSA_NSID, NETNSA_FD = 1, 3

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC = 1, 4, 5, 7
RTNH_F_ONLINK = 0x4
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1

IFF_UP, IFF_LOWER_UP = 0x1, 0x10000

_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_SO_RCVBUFFORCE = 33
_CHUNK = 100  # messages a send: small enough for the socket's buffer, large enough to be cheap
_RECEIVE_BUFFER = 1 << 20  # bytes: a refusal of each message of a chunk, whatever the host's default is
_ANSWER_SECONDS = 60  # the kernel has one lock for all interfaces, which others may hold for long
_TRIES = 20  # of a dump: on a busy host a change comes in between now and then

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")


Answer = tuple[int, int, int, bytes]
"""Sequence number, type, flags and body of a message from the kernel."""


class RtnlError(OSError):
    """The kernel refused a message; ``strerror`` carries its own explanation where it gave one."""


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits in the machine's byte order."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """A string attribute with its closing zero."""
    return attribute(kind, value.encode() + b"\0")


def link_header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """struct ifinfomsg."""
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def neighbour_header(family: int, index: int, state: int, flags: int = 0) -> bytes:
    """struct ndmsg."""
    return _NEIGHBOUR.pack(family, index, state, flags, 0)


def address_header(family: int, prefix: int, index: int, scope: int = 0) -> bytes:
    """struct ifaddrmsg."""
    return _ADDRESS.pack(family, prefix, IFA_F_PERMANENT, scope, index)


def route_header(prefix: int, scope: int = 0, flags: int = 0) -> bytes:
    """struct rtmsg of an IPv4 route in the main table; ``prefix``: bits of its destination."""
    kind = (_RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST)
    return _ROUTE.pack(socket.AF_INET, prefix, 0, 0, *kind, flags)


def message(kind: int, flags: int, *parts: bytes) -> bytes:
    """A request; :class:`Rtnl` gives it its sequence number."""
    length = _HEADER.size + sum(map(len, parts))
    return b"".join((_HEADER.pack(length, kind, REQUEST | flags, 0, 0), *parts))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes of a message behind its fixed header of ``offset`` bytes."""
    found = {}
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class Rtnl:
    """A netlink socket of the namespace that the calling thread is in when it is made."""

    def __init__(self, protocol: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.settimeout(_ANSWER_SECONDS)
        self._sequence = 0

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice is fine."""
        self._socket.close()

    def send(self, *messages: bytes, ignore: Iterable[int] = ()) -> None:
        """Carry out messages in order. Raises RtnlError on the first refusal whose errno is not ignored.

        The last message of each chunk asks for an acknowledgement; the others are answered on error only.
        """
        ignored = frozenset(ignore)
        for start in range(0, len(messages), _CHUNK):
            self._send_chunk(messages[start : start + _CHUNK], ignored)

    def _send_chunk(self, messages: tuple[bytes, ...], ignored: frozenset[int]) -> None:
        buffer = bytearray(b"".join(messages))
        offset = 0
        for count, packed in enumerate(messages, 1):
            flags = struct.unpack_from("=H", buffer, offset + 6)[0] | (ACK if count == len(messages) else 0)
            self._sequence += 1
            struct.pack_into("=HI", buffer, offset + 6, flags, self._sequence)
            offset += len(packed)
        self._socket.send(buffer)
        first, last, refusal = self._sequence - len(messages) + 1, self._sequence, None
        for sequence, kind, _, body in self._answers():
            if kind == NLMSG_ERROR and first <= sequence <= last:
                code = -struct.unpack_from("=i", body)[0]
                if code and code not in ignored and refusal is None:
                    refusal = RtnlError(code, _explanation(code, body))
                if sequence == last:
                    break
        if refusal is not None:
            raise refusal

    def get(self, packed: bytes) -> tuple[int, bytes] | None:
        """The one answer to a GET as (type, body), or None when the kernel knows no such thing."""
        try:
            for _, kind, _, body in self._ask(packed):
                return kind, body
            return None
        except RtnlError as error:
            if error.errno in (errno.ENODEV, errno.ENOENT):
                return None
            raise

    def dump(self, packed: bytes) -> list[tuple[int, bytes]]:
        """All answers to a DUMP as (type, body), whole: one that a change interrupted is asked again.

        Raises RtnlError, EAGAIN when every try was interrupted.
        """
        for _ in range(_TRIES):
            answers = list(self._ask(packed))
            if not any(flags & DUMP_INTERRUPTED for _, _, flags, _ in answers):
                return [(kind, body) for _, kind, _, body in answers if kind != NLMSG_DONE]
        raise RtnlError(errno.EAGAIN, f"the kernel's tables changed during each of {_TRIES} readings")

    def _ask(self, packed: bytes) -> Iterator[Answer]:
        """The answers to a GET or DUMP, the closing NLMSG_DONE of a dump too: it may carry flags."""
        self._sequence += 1
        buffer = bytearray(packed)
        struct.pack_into("=I", buffer, 8, self._sequence)
        self._socket.send(buffer)
        multipart = bool(struct.unpack_from("=H", buffer, 6)[0] & DUMP)
        for sequence, kind, flags, body in self._answers():
            if sequence != self._sequence:
                continue
            if kind == NLMSG_ERROR or (kind == NLMSG_DONE and any(body[:4])):
                code = -struct.unpack_from("=i", body)[0]
                raise RtnlError(code, _explanation(code, body))
            yield sequence, kind, flags, body
            if kind == NLMSG_DONE or not multipart:
                return

    def _answers(self) -> Iterator[Answer]:
        while True:
            data = self._socket.recv(1 << 18)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                yield sequence, kind, flags, data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3


def _explanation(code: int, body: bytes) -> str:
    """The kernel's own words (NLMSGERR_ATTR_MSG) beside the errno's."""
    words = attributes(body, 20).get(1, b"").rstrip(b"\0").decode(errors="replace")
    return f"{os.strerror(code)} ({words})" if words else os.strerror(code)
