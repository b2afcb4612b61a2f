# SPDX-License-Identifier: Apache-2.0
"""Questions to dockerd, within a deadline: HTTP/1.0 over its Unix socket; an answer ends with the connection.

A Prolog uses it: the SDK costs 100 ms to import, ``http.client`` 15.

    engine = Engine("/run/docker.sock", seconds=10)
    engine.call("GET", "/networks/hpcnet-12")     # Answer(status=404, body={"message": ...})

Source: Docker Engine API, https://docs.docker.com/reference/api/engine/.
"""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any
from urllib.parse import quote

from hpcnet.errors import NodeError
from hpcnet.frozen import frozen

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})\b")


@frozen
class Answer:
    """The status of a response (200 to 599), and its body: JSON, or None."""

    status: int
    body: Any

    @property
    def good(self) -> bool:
        """Whether what was asked is done; 304: it was so already."""
        return self.status < 400

    @property
    def message(self) -> str:
        """The daemon's own words of a refusal, on one line."""
        found = self.body["message"] if isinstance(self.body, dict) and "message" in self.body else self.status
        return " ".join(str(found).split())


class Engine:
    """The Docker daemon of this node; all calls together take at most ``seconds``."""

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def call(self, method: str, target: str, document: object = None, **query: object) -> Answer:
        """One request; query values that are no strings go as JSON. Raises NodeError when nothing answers."""
        words = (f"{key}={quote(_text(value))}" for key, value in query.items())
        target = f"{target}?{'&'.join(words)}" if query else target
        body = b"" if document is None else json.dumps(document).encode()
        head = (
            f"{method} {target} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            return _parsed(self._exchange(head.encode() + body))
        except socket.timeout:
            raise NodeError(f"dockerd did not answer on {self._path} within {self._seconds:g} s") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise NodeError(
                f"dockerd does not answer on {self._path}: {why}; see systemctl status docker"
            ) from None

    def _exchange(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(self._left())
            connection.connect(self._path)
            connection.sendall(request)
            parts: list[bytes] = []
            while True:
                connection.settimeout(self._left())
                part = connection.recv(1 << 16)
                if not part:
                    return b"".join(parts)
                parts.append(part)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        return left


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parsed(response: bytes) -> Answer:
    """Raises ValueError when this is no HTTP response."""
    head, _, body = response.partition(b"\r\n\r\n")
    status = _STATUS.match(head)
    if status is None:
        raise ValueError("the answer is no HTTP")
    try:
        document = json.loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        document = None
    return Answer(int(status[1]), document)
