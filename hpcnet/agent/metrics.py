# SPDX-License-Identifier: Apache-2.0
"""Prometheus' way to the counters: ``GET /metrics`` with the site's token, answered by reading them then.

Without the token nobody gets an answer, also not on loopback: every user of the node can connect there, and may
see the counters of own jobs only.
"""

from __future__ import annotations

import hmac
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hpcnet import __version__, journal, record
from hpcnet.config import Agent
from hpcnet.counters import metrics, reading
from hpcnet.counters.model import JobInfo
from hpcnet.errors import HpcnetError, NodeError

_SHORTEST_TOKEN = 16


class MetricsServer(ThreadingHTTPServer):
    """Listens at the configured address. Raises NodeError when it cannot, or when there is no token."""

    daemon_threads = True

    def __init__(self, settings: Agent) -> None:
        self.token = _token(settings.token_file)
        self.reading = threading.Lock()  # one pass over the namespaces at a time, however many ask
        host, _, port = settings.metrics.rpartition(":")
        try:
            super().__init__((host, int(port)), _Handler)
        except OSError as error:
            raise NodeError(f"[agent] metrics {settings.metrics}: {error.strerror or error}") from None


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


def collect(node: str) -> str:
    """What Prometheus gets now."""
    samples = reading.read_node(node)
    return metrics.render(samples, [_info(sample.job_id) for sample in samples], __version__)


def _info(job_id: int) -> JobInfo:
    entry = journal.read(job_id)
    if entry is None:
        return JobInfo(job_id)
    try:
        lease = record.parse(entry.token).lease
    except HpcnetError:
        lease = None
    return JobInfo(job_id, user=entry.user, account=entry.account, mode=lease.mode if lease else "")


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = 10
    server_version = "hpcnet"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "the metrics are at /metrics\n")
            return
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not hmac.compare_digest(token.strip().encode(), self.server.token):
            self._answer(401, "the token of [agent] token_file is needed\n")
            return
        try:
            with self.server.reading:
                text = collect(os.uname().nodename.partition(".")[0])
        except OSError as error:
            self._answer(500, f"the counters cannot be read: {error.strerror or error}\n")
            return
        self._answer(200, text)

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", metrics.CONTENT_TYPE if status == 200 else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: a scrape every few seconds is no news."""
