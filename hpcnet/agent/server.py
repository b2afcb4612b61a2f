# SPDX-License-Identifier: Apache-2.0
"""HTTP over a Unix socket, as dockerd speaks to its plugins: POST, JSON in, JSON out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from hpcnet.errors import NodeError

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
"""From a request's path and document to the response's document."""

_TYPE = "application/vnd.docker.plugins.v1.1+json"
_LARGEST = 1 << 20  # bytes of a request


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens at ``path``, which only root may use. Raises NodeError when another agent listens there."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str, answer: Answer) -> None:
        self.answer = answer
        self._path = path
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
            raise NodeError(f"another hpcnet agent serves {path} already")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        umask = os.umask(0o177)
        try:
            super().__init__(path, _Handler)
        finally:
            os.umask(umask)

    def get_request(self) -> tuple[socket.socket, str]:
        """The peer of a Unix socket has no address, and the handler wants one."""
        return super().get_request()[0], "dockerd"

    def server_close(self) -> None:
        """Stop listening; the next agent finds no stale socket."""
        super().server_close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def handle_error(self, request: object, client_address: object) -> None:
        """One line: dockerd hung up before it had its answer, or a fault of ours, which it then asks again."""
        print(f"hpcnet agent: a request was not answered: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        try:
            request = json.loads(self._body() or b"{}")
            document = self.server.answer(self.path, request if isinstance(request, dict) else {})
        except (ValueError, RecursionError) as error:
            self.close_connection = True  # what is left of it would be taken for the next request
            document = {"Err": f"not a request: {error}"}
        # dockerd reads Err from a response of 200 only for IPAM, from one of 500 for both
        body = json.dumps(document).encode()
        self.send_response(500 if "Err" in document else 200)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        """Raises ValueError for a body of no length, or of too great a one."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._part(int(self.headers.get("Content-Length") or 0))
        body = b""
        while True:
            part = self._part(int(self.rfile.readline(32), 16), len(body))
            self.rfile.readline(2)
            if not part:
                return body
            body += part

    def _part(self, length: int, before: int = 0) -> bytes:
        if not 0 <= length <= _LARGEST - before:
            raise ValueError(f"it has 0 to {_LARGEST} bytes")
        return self.rfile.read(length)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: what fails is told to dockerd, which logs it."""
