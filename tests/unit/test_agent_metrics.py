# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP server, against who may connect to it: every user of the node."""

from __future__ import annotations

import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcnet import journal
from hpcnet.agent import metrics
from hpcnet.agent.metrics import MetricsServer
from hpcnet.config import Agent
from hpcnet.counters import reading
from hpcnet.counters.model import Counters, Interface, NodeSample
from hpcnet.journal import Entry

TOKEN = "0123456789abcdef"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Where it listens; its counters are a word."""
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n", encoding="ascii")
    token.chmod(0o600)
    monkeypatch.setattr(reading, "read_node", lambda node, tables: [])
    monkeypatch.setitem(metrics._ANSWERS, "/metrics", ("text/plain", lambda samples: "counted\n"))
    with MetricsServer(Agent(metrics="127.0.0.1:0", token_file=str(token))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


def ask(address: tuple[str, int], authorization: str) -> tuple[int, str]:
    """Status and text of a GET."""
    url = f"http://{address[0]}:{address[1]}/metrics"
    request = urllib.request.Request(url, headers={"Authorization": authorization})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"bearer {TOKEN}",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer é",
    ],
)
def test_without_the_token_there_is_no_answer(address: tuple[str, int], authorization: str) -> None:
    status, text = ask(address, authorization)
    assert status == 401 and "counted" not in text
    assert ask(address, f"Bearer {TOKEN}") == (200, "counted\n")


def test_prometheus_has_the_node_names_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("c", 12, 1, "ada", "boot", "", "", "n7", "ib0", 0, 0, {}, account="physics")
    monkeypatch.setattr(journal, "read", lambda job_id: entry if job_id == 12 else None)
    interface = Interface("hpc0", "tasks", Counters(rx_bytes=1))
    text = metrics.render([NodeSample(job, "host-7", 1.0, (interface,)) for job in (12, 13)])
    assert set(re.findall('slurmjobid="([0-9]+)",node="([^"]+)"', text)) == {("12", "n7"), ("13", "host-7")}
    assert 'hpcnet_job_info{slurmjobid="12",user="ada",account="physics",mode=""} 1' in text


def test_connections_that_say_nothing_take_no_more_than_their_share(address: tuple[str, int]) -> None:
    before = threading.active_count()
    silent = [socket.create_connection(address) for _ in range(3 * metrics._CONNECTIONS)]
    try:
        hung_up = sum(connection.recv(1) == b"" for connection in silent[metrics._CONNECTIONS :])
        assert hung_up == 2 * metrics._CONNECTIONS
        assert threading.active_count() - before <= metrics._CONNECTIONS
    finally:
        for connection in silent:
            connection.close()
    for _ in range(200):  # the threads notice one by one
        try:
            assert ask(address, f"Bearer {TOKEN}") == (200, "counted\n")
            break
        except (urllib.error.URLError, ConnectionError):
            continue
    else:
        pytest.fail("no room again")
