# SPDX-License-Identifier: Apache-2.0
"""The agent's socket, as dockerd uses it: a real client, and the real process for how it starts and ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcnet.agent.server import Server
from hpcnet.errors import NodeError

LARGEST = 1 << 20


class Client(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("hpcnet", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def ask(self, method: str, body: bytes | Iterable[bytes] | None = None) -> tuple[int, Any]:
        """Status and document; the connection is used again."""
        chunked = body is not None and not isinstance(body, bytes)
        headers = {"Transfer-Encoding": "chunked"} if chunked else {}
        self.request("POST", method, body, headers, encode_chunked=chunked)
        response = self.getresponse()
        assert response.getheader("Content-Type") == "application/vnd.docker.plugins.v1.1+json"
        return response.status, json.loads(response.read())


def once(path: Path, method: str) -> int:
    """Status of one request on a connection of its own."""
    with contextlib.closing(Client(path)) as client:
        return client.ask(method)[0]


def echo(method: str, request: dict[str, Any]) -> dict[str, Any]:
    if method == "/fail":
        return {"Err": "no"}
    if method == "/raise":
        raise ZeroDivisionError
    return {"method": method, "request": request}


@pytest.fixture
def path(sockets: Path) -> Path:
    return sockets / "plugins/hpcnet.sock"


@contextlib.contextmanager
def serving(path: Path) -> Iterator[None]:
    with Server(str(path), echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    with serving(path):
        made = Client(path)
        yield made
        made.close()


def test_a_request_of_a_known_length(client: Client) -> None:
    assert client.ask("/a.B", b'{"x": [1]}') == (200, {"method": "/a.B", "request": {"x": [1]}})


def test_a_request_in_chunks(client: Client) -> None:
    parts = (b'{"x": "', b"y" * 70_000, b'", "z"', b": 1}")
    expected = {"method": "/a.B", "request": {"x": "y" * 70_000, "z": 1}}
    assert client.ask("/a.B", parts) == (200, expected)


@pytest.mark.parametrize("body", [None, b"", b"null", b"{}", [b"{}"]])
def test_a_request_without_a_document(client: Client, body: bytes | list[bytes] | None) -> None:
    assert client.ask("/a.B", body) == (200, {"method": "/a.B", "request": {}})


def test_one_connection_serves_many_requests(client: Client) -> None:
    for number in range(20):
        body = b'{"n": %d}' % number
        assert client.ask("/a", [body] if number % 2 else body)[1]["request"] == {"n": number}


def test_a_refusal_is_an_error_for_both_of_dockers_readers(client: Client) -> None:
    assert client.ask("/fail") == (500, {"Err": "no"})
    assert client.ask("/a")[0] == 200


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b"[" * 100_000, b"x" * LARGEST], ids=["cut", "bytes", "deep", "text"]
)
def test_what_is_no_json_is_refused(client: Client, body: bytes) -> None:
    status, document = client.ask("/a", body)
    assert status == 500 and document["Err"].startswith("not a request: ")
    assert client.ask("/a")[0] == 200, "the next connection is not disturbed"


def test_the_largest_request(client: Client) -> None:
    body = b'{"x": "' + b"y" * (LARGEST - 9) + b'"}'
    assert len(body) == LARGEST
    assert client.ask("/a", body)[0] == 200
    assert client.ask("/a", [body[:1000], body[1000:]])[0] == 200


@pytest.mark.parametrize(
    "rest",
    [
        f"Content-Length: {LARGEST + 1}\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: many\r\n\r\n",
        f"Transfer-Encoding: chunked\r\n\r\n{LARGEST + 1:x}\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-5\r\n",
        "Transfer-Encoding: chunked\r\n\r\nmany\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" + f"{LARGEST:x}\r\n",
    ],
)
def test_a_request_of_no_length_or_too_large_is_refused_unread(client: Client, path: Path, rest: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(f"POST /a HTTP/1.1\r\nHost: hpcnet\r\n{rest}".encode())
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 500 ") and b'{"Err": "not a request: ' in answer
    assert client.ask("/a")[0] == 200


def test_who_hangs_up_early_leaves_one_line(client: Client, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        client.ask("/raise")
    client.close()
    assert client.ask("/a")[0] == 200
    assert capfd.readouterr().err == "hpcnet agent: a request was not answered: ZeroDivisionError()\n"


def test_many_at_once(client: Client, path: Path) -> None:
    answers = []

    def one(number: int) -> None:
        own = Client(path)
        answers.append(own.ask("/a", b'{"n": %d}' % number)[1]["request"]["n"])
        own.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(40))


def test_only_its_owner_may_use_the_socket(client: Client, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_umask_is_as_it_was(path: Path) -> None:
    before = os.umask(0o022)
    try:
        with serving(path):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_second_agent_is_refused_and_the_first_serves_on(client: Client, path: Path) -> None:
    with pytest.raises(NodeError, match=rf"^another hpcnet agent serves {path} already$"):
        Server(str(path), echo)
    assert client.ask("/a")[0] == 200


def test_a_socket_that_a_killed_agent_left_is_taken_over(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    with serving(path):
        assert once(path, "/a") == 200


def test_closing_takes_the_socket_away(path: Path) -> None:
    for _ in range(2):
        with serving(path):
            assert path.is_socket()
        assert not path.exists()


# The whole process; only the paths are its own.

AGENT = """
import sys
from hpcnet import names
names.DOCKER_PLUGIN, names.STATE_DIR = sys.argv[1:3]
from hpcnet.agent import command
from hpcnet.errors import HpcnetError
try:
    sys.exit(command.run(sys.argv[3]))
except HpcnetError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def agent(path: Path, config: str, **environment: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", AGENT, str(path), str(path.parent.parent / "state"), config]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


def wait_until_served(path: Path, process: subprocess.Popen[str]) -> None:
    late = time.monotonic() + 60
    while True:
        assert process.poll() is None, process.stderr and process.stderr.read()
        with contextlib.suppress(OSError):
            assert once(path, "/Plugin.Activate") == 200
            return
        assert time.monotonic() < late, "the agent does not serve"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_agent_and_its_socket_goes(path: Path, config: str, number: signal.Signals) -> None:
    with agent(path, config) as process:
        wait_until_served(path, process)
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
        assert process.stderr and process.stderr.read() == ""
    assert not path.exists()


def test_a_killed_agents_place_is_taken_and_a_living_ones_not(path: Path, config: str) -> None:
    with agent(path, config) as process:
        wait_until_served(path, process)
        process.kill()
    assert path.is_socket()
    with agent(path, config) as process:
        wait_until_served(path, process)
        with agent(path, config) as second:
            _, errors = second.communicate(timeout=60)
        assert (second.returncode, errors) == (1, f"NodeError: another hpcnet agent serves {path} already\n")
        assert once(path, "/Plugin.Activate") == 200
        process.terminate()
        assert process.wait(timeout=60) == 0


def test_systemd_is_told_when_the_agent_serves(path: Path, config: str, sockets: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.settimeout(60)
        notify.bind(str(sockets / "notify"))
        with agent(path, config, NOTIFY_SOCKET=str(sockets / "notify")) as process:
            assert notify.recv(100) == b"READY=1"
            assert once(path, "/Plugin.Activate") == 200
            process.terminate()
            assert process.wait(timeout=60) == 0
