# SPDX-License-Identifier: Apache-2.0
"""Prometheus' way to the counters, and that of admins' viewers: ``GET /metrics`` and ``GET /samples`` with the
site's token, answered by reading them then.

Without the token nobody gets an answer, also not on loopback: every user of the node can connect there, and may
see the counters of own jobs only.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hpcnet import __version__, journal, record
from hpcnet.config import Agent
from hpcnet.counters import agents, metrics, reading, wire
from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.counters.neighbours import Tables
from hpcnet.errors import HpcnetError, NodeError
from hpcnet.journal import Entry

_SHORTEST_TOKEN = 16
_CONNECTIONS = 32  # at once: anybody on the node may open them, and Docker's driver is in the same process


class MetricsServer(ThreadingHTTPServer):
    """Listens at the configured address. Raises NodeError when it cannot, or when there is no token."""

    daemon_threads = True

    def __init__(self, settings: Agent) -> None:
        self.token = _token(settings.token_file)
        self.reading = threading.Lock()  # one pass over the namespaces at a time, however many ask
        self.tables = Tables()
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        host, _, port = settings.metrics.rpartition(":")
        try:
            super().__init__((host, int(port)), _Handler)
        except OSError as error:
            raise NodeError(f"[agent] metrics {settings.metrics}: {error.strerror or error}") from None

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if there is room for one more."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


def _token(path: str) -> bytes:
    try:
        if os.stat(path).st_mode & 0o007:
            raise NodeError(f"[agent] token_file {path} may be read by everybody: chmod o= {path}")
        token = Path(path).read_bytes().strip()
    except OSError as error:
        raise NodeError(f"[agent] token_file {path}: {error.strerror}") from None
    if len(token) < _SHORTEST_TOKEN:
        raise NodeError(f"[agent] token_file {path}: a token has at least {_SHORTEST_TOKEN} characters")
    return token


def render(samples: list[NodeSample]) -> str:
    """What Prometheus gets; nodes by the names that Slurm has for them, which need not be the hosts' own."""
    entries = {sample.job_id: journal.read(sample.job_id) for sample in samples}
    named = [each._replace(node=entry.node) if (entry := entries[each.job_id]) else each for each in samples]
    return metrics.render(named, [_info(*each) for each in entries.items()], __version__)


def listed(samples: list[NodeSample]) -> str:
    """What a viewer gets (hpcnet.counters.agents)."""
    return json.dumps([wire.encode(sample) for sample in samples], separators=(",", ":"))


_ANSWERS = {"/metrics": (metrics.CONTENT_TYPE, render), agents.PATH: ("application/json", listed)}


def _info(job_id: int, entry: Entry | None) -> JobInfo:
    if entry is None:
        return JobInfo(job_id)
    try:
        lease = record.parse(entry.token).lease
    except HpcnetError:
        lease = None
    return JobInfo(job_id, user=entry.user, account=entry.account, mode=lease.mode if lease else "")


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = 70  # seconds between two requests of one connection: the slowest viewer asks every 60
    protocol_version = "HTTP/1.1"
    server_version = "hpcnet"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path not in _ANSWERS:
            self._answer(404, f"there is {' and '.join(_ANSWERS)}\n")
            return
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not hmac.compare_digest(token.strip().encode(), self.server.token):
            self._answer(401, "the token of [agent] token_file is needed\n")
            return
        content_type, text_of = _ANSWERS[path]
        try:
            with self.server.reading:
                tables = self.server.tables if path == agents.PATH else None
                text = text_of(reading.read_node(os.uname().nodename.partition(".")[0], tables))
        except OSError as error:
            self._answer(500, f"the counters cannot be read: {error.strerror or error}\n")
            return
        self._answer(200, text, content_type)

    def _answer(self, status: int, text: str, content_type: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status != 200:
            self.send_header("Connection", "close")  # nobody without the token keeps a thread
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: a scrape every few seconds is no news."""
