# SPDX-License-Identifier: Apache-2.0
"""``hpcnet stats`` on samples of a made-up source: what it tells when, and what it does for that."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import pytest

from hpcnet.cli.commands import main
from hpcnet.counters import transports
from hpcnet.counters.board import Board
from hpcnet.counters.model import Counters, Interface, JobInfo, NodeSample
from tests.tui.terminal import Terminal, terminal
from tests.unit.cli import said

__all__ = ["terminal"]  # a fixture

Says = Callable[[threading.Event], Iterator[NodeSample]]


class Scripted:
    """A Source and its Watch."""

    everybodys = True

    def __init__(self, nodes: Iterable[str], says: Says) -> None:
        self._job = JobInfo(7, user="ada", mode="vxlan", nodes=tuple(nodes))
        self._says, self._closed = says, threading.Event()

    def jobs(self) -> list[JobInfo]:
        return [self._job]

    def watch(self, job_ids: Iterable[int], interval: float) -> Scripted:
        return self

    def __iter__(self) -> Iterator[NodeSample]:
        return self._says(self._closed)

    def close(self) -> None:
        self._closed.set()


def sample(node: str, clock: float) -> NodeSample:
    counters = Counters(*[int(1000 * clock)] * 8)
    return NodeSample(7, node, clock, (Interface("hpc0", "tasks", counters),), clock=clock)


def test_what_it_does_grows_with_the_nodes_and_not_with_their_square(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, calls = [f"n{number}" for number in range(400)], Counter[str]()
    for name in ("silent", "next_silence", "rates"):
        real: Callable[..., Any] = getattr(Board, name)

        def counting(*arguments: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            calls[name] += 1
            return real(*arguments)

        monkeypatch.setattr(Board, name, counting)

    def says(closed: threading.Event) -> Iterator[NodeSample]:
        for clock in range(3):
            yield from (sample(node, clock) for node in nodes)

    monkeypatch.setattr(transports, "transport", lambda name, config: Scripted(nodes, says))
    table = said(capsys, 0, "stats", "--all", "--once").splitlines()
    assert len(table) == 401 and all("8.0 kbit/s" in row for row in table[1:])
    assert calls["silent"] + calls["next_silence"] < 20 and calls["rates"] == 400
    calls.clear()
    assert main(["stats", "--all", "--watch", "0.5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1200
    assert calls["silent"] + calls["next_silence"] < 20 and calls["rates"] == 1200


def test_silence_is_told_when_two_intervals_are_over_however_much_the_others_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interval, pause, last, steps = 0.5, 0.05, 0.0, 0
    told: list[tuple[float, int]] = []

    def says(closed: threading.Event) -> Iterator[NodeSample]:
        nonlocal last, steps
        yield sample("n1", 0.0)
        last = time.time()
        yield sample("n2", 0.0)
        while steps < 600 and not told:
            steps += 1
            yield sample("n1", steps)
            time.sleep(pause)

    real = Board.silent

    def noting(board: Board, job_id: int, now: float) -> dict[str, float]:
        found = real(board, job_id, now)
        if found and not told:
            told.append((time.time(), steps))
        return found

    monkeypatch.setattr(Board, "silent", noting)
    monkeypatch.setattr(transports, "transport", lambda name, config: Scripted(["n1", "n2"], says))
    assert main(["stats", "--all", "--watch", str(interval)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [silent] = [line for line in lines if "silent_since" in line]
    assert (silent["job"], silent["node"]) == (7, "n2")
    [(at, samples)] = told
    assert last - 0.01 <= silent["silent_since"] <= at - 2 * interval
    # in what the other one has said, which a machine that stands still does not say either
    assert samples < (2 * interval + 0.5) / pause


_LIVE = """
import sys
from hpcnet.cli.commands import main
from hpcnet.counters import transports
from hpcnet.tui.demo import DemoSource
source = DemoSource(jobs=2, nodes=100)
source.everybodys = True
transports.transport = lambda name, config: source
sys.exit(main(["stats", "--all"]))
"""


def test_a_changing_table_is_as_large_as_its_window(terminal: Terminal) -> None:
    nodes = "nodes fit in this window; hpcnet-tui shows all"
    terminal.start(sys.executable, "-c", _LIVE, size=(90, 12))
    first = terminal.wait("JOB", "bit/s", nodes).splitlines()
    assert len(first) == 12 and first[0].startswith("JOB") and first[-1].endswith(nodes)
    assert [row.split()[2:4] for row in first[1:3]] == [["hpc0", "tasks"], ["hpcvx", "segment"]]
    terminal.resize(140, 30)
    second = terminal.wait_for(lambda text: "bit/s" in text.splitlines()[27], "a larger table").splitlines()
    assert len(second) == 30 and second[0].endswith("NOTE") and second[-1].endswith(nodes)
