# SPDX-License-Identifier: Apache-2.0
"""A recording shows again what was shown, whatever the interval and however long ago; anything else is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from hpcnet.errors import UserError
from hpcnet.tui.app import HpcnetApp
from hpcnet.tui.demo import DemoSource
from hpcnet.tui.feed import Feed
from hpcnet.tui.picture import JobView
from hpcnet.tui.recording import Recorder, Replay
from hpcnet.tui.session import Session
from hpcnet.tui.view import View
from tests.tui.stage import BEGIN, LARGE, Stage


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Tape:
    """Records a made-up cluster, round by round, and keeps what was seen of it."""

    def __init__(self, interval: float) -> None:
        self.now = float(BEGIN)
        self.source = DemoSource(jobs=5, nodes=6, clock=lambda: self.now)
        self.feed = Feed(self.source, interval, clock=lambda: self.now)
        self.feed.list_jobs()
        self.feed.tick()
        self.recorder = Recorder(self.feed)
        self.seen: list[tuple[float, list[JobView]]] = []

    def rounds(self, number: int) -> None:
        for _ in range(number):
            self.feed.list_jobs()
            for sample in self.source.samples([job.job_id for job in self.source.jobs()], self.source.elapsed()):
                self.feed.take(sample)
            self.feed.tick()
            self.seen.append((self.now, self.feed.jobs()))
            self.now += self.feed.interval

    def replay(self) -> tuple[list[float], Feed, Replay]:
        """A clock of seconds that the test turns, and a feed of what was recorded."""
        assert self.recorder.close() == ""
        elapsed = [1000.0]
        replay = Replay(self.recorder.file, lambda: elapsed[0])
        return elapsed, Feed(replay, replay.interval, replay.clock), replay


def again(elapsed: list[float], feed: Feed, replay: Replay, at: float) -> list[JobView]:
    """What is shown at that time of the recording."""
    feed.list_jobs()
    elapsed[0] = 1000.0 + at - BEGIN
    feed.list_jobs()
    if replay.interval != feed.interval:
        feed.set_interval(replay.interval)
    for sample in replay.due():
        feed.take(sample)
    feed.tick()
    return feed.jobs()


@pytest.mark.parametrize("interval", [1.0, 10.0, 60.0])
def test_a_replay_shows_what_was_seen(interval: float) -> None:
    tape = Tape(interval)
    tape.rounds(4)
    gone = tape.source.jobs()[2].job_id
    del tape.source._jobs[gone]
    tape.rounds(4)
    elapsed, feed, replay = tape.replay()
    rated = 0
    for at, seen in tape.seen:
        shown = again(elapsed, feed, replay, at)
        for was, now in zip(seen, shown):
            assert (now.info, now.sum, now.silent, now.nodes) == (was.info, was.sum, was.silent, was.nodes)
            rated += now.sum.rates.rx_bytes is not None
        assert len(shown) == len(seen), "a job that had ended then is not there"
        assert feed.clock() == at, "so that what it tells of times is what it told then"
        assert replay.over == (at == tape.seen[-1][0])
    assert rated > 20, "nothing but unknown rates show nothing"
    assert {len(shown) for _, shown in tape.seen} == {4, 5}
    elapsed[0] += 3600
    feed.tick()
    assert feed.clock() == tape.seen[-1][0]
    assert [job.silent for job in feed.jobs()] == [job.silent for job in tape.seen[-1][1]], "it stands still"


def test_an_interval_that_was_changed_changes_again() -> None:
    tape = Tape(2.0)
    tape.rounds(3)
    tape.feed.set_interval(10.0)
    tape.rounds(3)
    elapsed, feed, replay = tape.replay()
    intervals = []
    for at, _ in tape.seen:
        again(elapsed, feed, replay, at)
        intervals.append(feed.interval)
        assert not any(job.silent for job in feed.jobs())
    assert intervals == [2, 2, 2, 10, 10, 10]


def test_on_the_screen_it_has_its_own_time_and_no_keys_for_the_interval() -> None:
    tape = Tape(10.0)
    tape.rounds(3)
    elapsed, feed, replay = tape.replay()
    again(elapsed, feed, replay, tape.seen[-1][0])
    stage = Stage(rounds=1)
    stage.app = HpcnetApp(Session(feed, View(), "alice", "it.ndjson", replay), paced=False)

    async def play(pilot: Pilot[Any]) -> None:
        text = stage.text()
        assert "it.ndjson is over  every 10 s" in text[0]
        age = tape.now - tape.feed.interval - (tape.source.jobs()[0].started or 0)
        [line] = [line for line in text if f" {tape.source.jobs()[0].label} " in line]
        assert line.split()[-1] == f"{int(age // 3600)}h{int(age % 3600 // 60):02}m"
        assert "pace" not in "\n".join(text)
        await pilot.press("plus")
        assert feed.interval == 10.0

    stage.run(play, LARGE)


def lines() -> list[dict[str, Any]]:
    """Of a good recording."""
    tape = Tape(2.0)
    tape.rounds(1)
    tape.recorder.close()
    return [json.loads(line) for line in Path(tape.recorder.file).read_text().splitlines()]


def written(documents: list[dict[str, Any]], end: str = "") -> str:
    Path("it.ndjson").write_text("".join(json.dumps(each) + "\n" for each in documents) + end)
    return "it.ndjson"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subnet": "10.0.0.0/99"}, "'10.0.0.0/99' does not appear to be an IPv4 or IPv6 network"),
        ({"subnet": "255.255.255.255/32"}, "255.255.255.255/32 has no room for its 6 nodes"),
        ({"subnet6": "nowhere"}, "'nowhere' does not appear"),
        ({"job_id": None}, "a job without its number"),
        ({"nodes": [7]}, "7 is no text"),
        ({"nodes": None}, "not iterable"),
        ({"user": ["x"]}, "['x'] is no text"),
        ({"mtu": -1}, "-1 is no count"),
    ],
)
def test_a_job_that_cannot_be_is_one_line(change: dict[str, Any], message: str) -> None:
    documents = lines()
    documents[1]["jobs"][0].update(change)
    with pytest.raises(UserError) as caught:
        Replay(written(documents))
    assert str(caught.value).startswith("it.ndjson is no recording of hpcnet-tui: line 2: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"recording": 2}, "line 1: it is of schema 2, not 1"),
        (0, {"interval": 0}, "line 1: an interval of 0 s"),
        (0, {"at": float("nan")}, "line 1: nan is no time"),
        (3, {"schema": 9}, "line 4: samples of schema 9, not 1"),
        (3, {"interfaces": [{}]}, "line 4: not a sample"),
    ],
)
def test_a_line_that_cannot_be_is_one_line(number: int, change: dict[str, Any], message: str) -> None:
    documents = lines()
    documents[number].update(change)
    with pytest.raises(UserError, match=message):
        Replay(written(documents))


def test_what_lacks_its_first_line_its_samples_or_is_none() -> None:
    documents = lines()
    for given, message in (
        (documents[1:], "line 1: the first line does not tell the interval"),
        (documents[:2], "nothing was recorded"),
        ([7], "line 1: TypeError"),
    ):
        with pytest.raises(UserError, match=message):
            Replay(written(given))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=os.strerror(2)):
        Replay("nowhere")


def test_control_characters_do_not_reach_the_terminal_and_half_a_line_is_of_one_that_was_killed() -> None:
    documents = lines()
    for each in documents[1:3]:
        each["jobs"][0].update(user="al\x1b[31mice", partition="a\nb", nodes=["n\x07"], new_key=1)
    replay = Replay(written(documents, end='{"at": 17'))
    info = replay.jobs()[0]
    assert (info.user, info.partition, info.nodes) == ("al?[31mice", "a?b", ("n?",))
