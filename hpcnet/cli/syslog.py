# SPDX-License-Identifier: Apache-2.0
"""To the node's syslog, within a time: syslog(3) waits for a daemon that hangs, and no signal gets it out of that.

    send([(WARNING, "prolog: job 12: refused: ...")], seconds=2)

Source: RFC 3164, and glibc's misc/syslog.c, whose datagrams these are.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable

ERR, WARNING, INFO = 3, 4, 6
"""Severities."""

_DAEMON = 3 << 3
_SOCKET = "/dev/log"


def send(lines: Iterable[tuple[int, str]], seconds: float) -> None:
    """Each line with its severity, all together in ``seconds`` at most. Raises OSError."""
    late = time.monotonic() + seconds
    connection, end = _connected()
    with connection:
        for severity, line in lines:
            connection.settimeout(max(0.001, late - time.monotonic()))
            now = time.strftime("%b %e %H:%M:%S")
            connection.sendall(f"<{_DAEMON | severity}>{now} hpcnet[{os.getpid()}]: {line}{end}".encode())


def _connected() -> tuple[socket.socket, str]:
    """And what ends a line: nothing of a datagram's, but some daemons have a stream."""
    for kind, end in ((socket.SOCK_DGRAM, ""), (socket.SOCK_STREAM, "\0")):
        connection = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
        try:
            connection.connect(_SOCKET)
            return connection, end
        except OSError as error:
            connection.close()
            if error.errno != errno.EPROTOTYPE:
                raise
    raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE), _SOCKET)
