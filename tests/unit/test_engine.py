# SPDX-License-Identifier: Apache-2.0
"""Questions to dockerd, against a real Unix socket behind which somebody else answers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcnet.errors import NodeError
from hpcnet.runtimes.engine import Engine

Serve = Callable[[socket.socket, str], None]
"""What is done with a connection and the request that came on it."""


class Daemon:
    """Listens at ``path`` and does the same with each connection; ``requests`` holds what was asked, whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[str] = []
        self.serve: Serve = reply(200)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                request = _request(connection)
                if request == "":  # closing: nobody asks an empty question
                    return
                self.requests.append(request)
                with contextlib.suppress(OSError):  # the engine has given up meanwhile
                    self.serve(connection, request)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._listener.close()


def _request(connection: socket.socket) -> str:
    """A whole request; empty when there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        if not part:
            return ""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    [length] = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")]
    while len(body) < length:
        body += connection.recv(1 << 16)
    return (head + b"\r\n\r\n" + body).decode()


def reply(status: int, body: bytes = b"") -> Serve:
    """An answer as dockerd gives it to HTTP/1.0: it ends with the connection."""
    head = f"HTTP/1.0 {status} Some Words\r\nContent-Type: application/json\r\n\r\n".encode()
    return lambda connection, request: connection.sendall(head + body)


def raw(data: bytes) -> Serve:
    return lambda connection, request: connection.sendall(data)


@pytest.fixture
def daemon(sockets: Path) -> Iterator[Daemon]:
    made = Daemon(sockets / "docker.sock")
    yield made
    made.close()


def engine(daemon: Daemon, seconds: float = 60) -> Engine:
    return Engine(str(daemon.path), seconds)


@pytest.mark.parametrize(
    ("status", "good"), [(200, True), (201, True), (304, True), (404, False), (409, False), (500, False)]
)
def test_an_answer_has_its_status_and_the_daemons_own_words(daemon: Daemon, status: int, good: bool) -> None:
    daemon.serve = reply(status, b'{"message": "some reason"}')
    answer = engine(daemon).call("GET", "/networks/hpcnet-12")
    assert (answer.status, answer.good, answer.message) == (status, good, "some reason")
    assert answer.body == {"message": "some reason"}


def test_what_is_asked(daemon: Daemon) -> None:
    document = {"Name": "hpcnet-12", "Überall": None}
    engine(daemon).call("POST", "/networks/create", document)
    head, _, body = daemon.requests[0].partition("\r\n\r\n")
    assert head.split("\r\n")[0] == "POST /networks/create HTTP/1.0"
    assert f"Content-Length: {len(body)}" in head and json.loads(body) == document


def test_without_a_document_there_is_no_body(daemon: Daemon) -> None:
    engine(daemon).call("DELETE", "/networks/hpcnet-12")
    assert daemon.requests[0].endswith("Content-Length: 0\r\n\r\n")


def test_query_values_are_quoted(daemon: Daemon) -> None:
    text = "a b&c=d?#%/ü"
    engine(daemon).call("GET", "/networks", filters={"label": ["hpcnet.job"]}, all="1", text=text)
    _, target, _ = daemon.requests[0].split("\r\n")[0].split(" ")
    asked = parse_qs(urlsplit(target).query, strict_parsing=True)
    assert asked == {"filters": ['{"label": ["hpcnet.job"]}'], "all": ["1"], "text": [text]}


@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"OK", b"<html>", b'{"message": "cut', b"\xff\xfe\x00", b"[" * 100_000]
)
def test_a_body_that_is_no_json_is_none(daemon: Daemon, body: bytes) -> None:
    daemon.serve = reply(500, body)
    answer = engine(daemon).call("GET", "/networks")
    assert (answer.status, answer.body, answer.message) == (500, None, "500")


@pytest.mark.parametrize("body", [b"[]", b'"message"', b"1", b"null", b'{"other": 1}'])
def test_without_a_message_the_status_is_the_message(daemon: Daemon, body: bytes) -> None:
    daemon.serve = reply(409, body)
    assert engine(daemon).call("GET", "/networks").message == "409"


def test_a_message_is_one_line(daemon: Daemon) -> None:
    daemon.serve = reply(500, json.dumps({"message": "first\n\tsecond\r\n"}).encode())
    assert engine(daemon).call("GET", "/networks").message == "first second"


def test_a_large_answer_comes_whole(daemon: Daemon) -> None:
    networks = [{"Id": f"{number:064x}", "Name": f"hpcnet-{number}"} for number in range(20_000)]
    daemon.serve = reply(200, json.dumps(networks).encode())
    assert engine(daemon).call("GET", "/networks").body == networks


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"H",
        b"HTTP/1.",
        b"HTTP/1.0",
        b"HTTP/1.0 ",
        b"HTTP/1.0 abc Words\r\n\r\n{}",
        b"HTTP/1.0 2\r\n\r\n{}",
        b"HTTP/1.0 -20 Words\r\n\r\n{}",
        b"HTTP/2.0 200 OK\r\n\r\n{}",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"\r\n\r\n" * 100,
    ],
)
def test_what_is_no_http_is_one_line_that_says_so(daemon: Daemon, data: bytes) -> None:
    daemon.serve = raw(data)
    with pytest.raises(NodeError) as raised:
        engine(daemon).call("GET", "/networks")
    why = "the answer is no HTTP; see systemctl status docker"
    assert str(raised.value) == f"dockerd does not answer on {daemon.path}: {why}"


@given(data=st.binary(max_size=60) | st.binary(max_size=20).map(lambda rest: b"HTTP/1.0 " + rest))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # its requests alone pile up
def test_garbage_is_an_answer_or_an_error_of_one_line(daemon: Daemon, data: bytes) -> None:
    daemon.serve = raw(data)
    try:
        answer = engine(daemon).call("GET", "/networks")
        assert 100 <= answer.status <= 999
    except NodeError as error:
        assert len(str(error).splitlines()) == 1


def test_a_connection_closed_in_a_large_request_is_an_error(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = daemon.path.with_name("closing.sock")
        listener.bind(str(path))
        listener.listen()
        closing = threading.Thread(target=lambda: listener.accept()[0].close())
        closing.start()
        with pytest.raises(
            NodeError, match=rf"^dockerd does not answer on {path}: .*; see systemctl status docker$"
        ):
            Engine(str(path), 60).call("POST", "/networks/create", "x" * (1 << 22))
        closing.join()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.write_text(""), "Connection refused"),
        (lambda path: path.mkdir(), "Connection refused"),
    ],
    ids=["absent", "no socket", "directory"],
)
def test_nobody_listens(sockets: Path, make: Callable[[Path], object], why: str) -> None:
    path = sockets / "docker.sock"
    make(path)
    with pytest.raises(NodeError) as raised:
        Engine(str(path), 60).call("GET", "/networks")
    assert str(raised.value) == f"dockerd does not answer on {path}: {why}; see systemctl status docker"


def test_a_path_that_is_too_long_is_an_error() -> None:
    with pytest.raises(NodeError, match="too long"):
        Engine("/" + "x" * 200, 60).call("GET", "/networks")


def _hang(connection: socket.socket, request: str) -> None:
    connection.recv(1)  # ends when the engine hangs up


def test_a_daemon_that_hangs_is_given_up(daemon: Daemon) -> None:
    daemon.serve = _hang
    with pytest.raises(NodeError, match=rf"^dockerd did not answer on {daemon.path} within 0.2 s$"):
        engine(daemon, 0.2).call("GET", "/networks")


def test_the_deadline_is_of_all_calls_together(daemon: Daemon) -> None:
    """After it the daemon is not even asked, however fast it would be."""
    asked = engine(daemon, 0.5)
    begin = time.monotonic()
    calls = 0
    with pytest.raises(NodeError, match=r"within 0\.5 s"):
        while time.monotonic() < begin + 60:
            asked.call("GET", "/networks")
            calls += 1
    assert calls > 0
    engine(daemon, 60).call("GET", "/networks")  # answered in turn: what was sent before is counted now
    before = len(daemon.requests)
    for _ in range(3):
        with pytest.raises(NodeError, match=r"within 0\.5 s"):
            asked.call("GET", "/networks")
    assert len(daemon.requests) == before


def test_a_daemon_that_answers_drop_by_drop_is_given_up(daemon: Daemon) -> None:
    """Each byte comes in time, the answer never does."""

    def drip(connection: socket.socket, request: str) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.01)

    daemon.serve = drip
    with pytest.raises(NodeError, match=r"within 0\.3 s"):
        engine(daemon, 0.3).call("GET", "/networks")
