# SPDX-License-Identifier: Apache-2.0
"""One full-size packet to each peer of a job's network: a hop that is too small is silent otherwise."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import IPv4Address

from hpcnet.kernel import netns

_IP_MTU_DISCOVER, _PMTUDISC_DO = 10, 2
_SO_RCVBUFFORCE = 33
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_AGAIN_SECONDS = 0.5  # a packet may be lost while the host asks for the peer's own address
_HEADERS = 28  # IPv4 20, ICMP 8


def silent(job_id: int, peers: Iterable[IPv4Address], size: int, seconds: float = 2.0) -> list[IPv4Address]:
    """Of the peers those that do not answer a packet of ``size`` bytes within ``seconds`` (for all together).

    They are asked again until then. Sent from inside the job's namespace with "do not fragment".
    """
    waiting = dict.fromkeys(peers)
    with netns.inside(job_id), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        icmp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        identity = os.getpid() & 0xFFFF
        deadline = time.monotonic() + seconds
        while waiting and time.monotonic() < deadline:
            _ask(icmp, identity, waiting, size, deadline)
            again = min(time.monotonic() + _AGAIN_SECONDS, deadline)
            while waiting and time.monotonic() < again:
                _collect(icmp, identity, waiting, again - time.monotonic())
    return list(waiting)


def _ask(icmp: socket.socket, identity: int, waiting: dict[IPv4Address, None], size: int, deadline: float) -> None:
    for sequence, peer in enumerate(list(waiting)):
        icmp.settimeout(max(deadline - time.monotonic(), 0.0001))  # a full transmit queue empties
        try:
            icmp.sendto(_echo(identity, sequence & 0xFFFF, size - _HEADERS), (str(peer), 0))
        except OSError:
            continue  # it stays among the silent
        _collect(icmp, identity, waiting, 0.0)


def _collect(icmp: socket.socket, identity: int, waiting: dict[IPv4Address, None], seconds: float) -> None:
    icmp.settimeout(max(seconds, 0.0001))
    try:
        packet, (sender, _) = icmp.recvfrom(65535)
    except (TimeoutError, socket.timeout, BlockingIOError):
        return
    header = (packet[0] & 15) * 4
    kind, number = packet[header], struct.unpack_from("!H", packet, header + 4)[0]
    if (kind, number) == (_ECHO_REPLY, identity):
        waiting.pop(IPv4Address(sender), None)


def _echo(identity: int, sequence: int, length: int) -> bytes:
    """An ICMP echo request (RFC 792)."""
    payload = bytes(length)
    head = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identity, sequence)
    return struct.pack("!BBHHH", _ECHO_REQUEST, 0, _checksum(head), identity, sequence) + payload


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes; zeros behind them change nothing."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
