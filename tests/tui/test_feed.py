# SPDX-License-Identifier: Apache-2.0
"""Between the source and the screens, with its own threads."""

from __future__ import annotations

import time

from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.tui import main
from hpcnet.tui.demo import DemoSource
from hpcnet.tui.feed import LISTING, Feed
from tests.tui.stage import Stage


class Counting(DemoSource):
    """Counts how often it is asked for the jobs."""

    asked = 0

    def jobs(self) -> list[JobInfo]:
        self.asked += 1
        return super().jobs()


def test_slurm_is_asked_every_ten_seconds_however_often_one_looks() -> None:
    begin, source = time.monotonic(), Counting(jobs=3, nodes=4)
    feed = Feed(source, 2.0)
    feed.start()
    try:
        for interval in (1.0, 5.0, 1.0):
            feed.set_interval(interval)
            while not feed.jobs():
                feed.tick()
                time.sleep(0.01)
            feed.tick()
    finally:
        feed.close()
    assert LISTING >= 10
    assert 1 <= source.asked <= 1 + (time.monotonic() - begin) // LISTING


def test_the_made_up_cluster_is_the_same_for_the_same_seed_alone() -> None:
    def samples(seed: int) -> list[NodeSample]:
        source = DemoSource(seed, jobs=6, nodes=9, clock=lambda: 1_767_225_600.0)
        ids = [job.job_id for job in source.jobs()]
        return [each for second in (0.0, 7.5) for each in source.samples(ids, second)]

    assert samples(1) == samples(1) != samples(2)


def test_how_it_begins() -> None:
    assert (main._parser().parse_args([]).interval, main.INTERVAL) == (None, 2.0)
    assert Stage(rounds=1).app.animation_level == "none"


def test_a_node_is_silent_two_intervals_after_its_last_word_and_not_with_the_tick_behind_that() -> None:
    stage = Stage(rounds=4, nodes=4)
    last = stage.now - 2
    job = stage.source.jobs()[0]
    stage.mute = {(job.job_id, job.nodes[1])}
    stage.now += 0.5  # the others' samples come half a second later
    stage.rounds(1)
    stage.now = last + 2.5
    assert stage.feed.next_silence() == 1.5
    assert not stage.feed.fell_silent()
    stage.now = last + 4
    assert stage.feed.fell_silent()
    stage.feed.tick()
    assert not stage.feed.fell_silent()
    [view] = [each for each in stage.feed.jobs() if each.info == job]
    assert list(view.silent) == [job.nodes[1]]
