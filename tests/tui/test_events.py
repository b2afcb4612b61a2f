# SPDX-License-Identifier: Apache-2.0
"""What the Events screen tells: where, since when, until when. In the lab: tests/cluster/test_tui.py."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot

from hpcnet.counters.model import JobInfo, NodeSample
from hpcnet.counters.troubles import ERROR, GROWING, SILENT, Trouble
from hpcnet.tui.events import Event, Observer
from hpcnet.tui.picture import JobView, Sum
from tests.tui.stage import BEGIN, LARGE, Stage

DOWN = Trouble(ERROR, "hpc0 is DOWN", "hpcnet check 7 there")
NODES = ("n1", "n2", "n3", "n4")


def view(*troubles: tuple[str, Trouble], job_id: int = 7, problem: str = "", **silent: float) -> JobView:
    info = JobInfo(job_id, user="alice", nodes=NODES)
    return JobView(info, Sum(), (), silent, nodes=len(NODES), problem=problem, troubles=troubles)


def look(observer: Observer, now: float, *views: JobView, problem: str = "") -> list[Event]:
    return list(observer.look(now, views, problem))


def seen(events: list[Event]) -> list[tuple[float, str, str, str, float | None]]:
    return [(each.time, each.job, each.node, each.text, each.until) for each in events]


def test_nodes_with_the_same_trouble_are_one_line_and_each_ends_when_it_is_well() -> None:
    observer = Observer()
    assert look(observer, 10.0, view()) == []
    assert look(observer, 12.0, view(*((node, DOWN) for node in ("n1", "n2", "n4")))) == [], "it lasts"
    assert seen(observer.lasting()) == [(12.0, "7", "n[1-2,4]", "hpc0 is DOWN", None)]
    [line] = observer.lasting()
    assert (line.grade, line.remedy, line.lasts) == ("error", "hpcnet check 7 there", True)
    over = look(observer, 14.0, view(("n1", DOWN), ("n3", DOWN)))
    assert seen(over) == [(12.0, "7", "n[2,4]", "hpc0 is DOWN", 14.0)]
    assert not over[0].lasts
    assert seen(observer.lasting()) == [
        (12.0, "7", "n1", "hpc0 is DOWN", None),
        (14.0, "7", "n3", "hpc0 is DOWN", None),
    ]


def test_silence_began_with_the_last_that_was_heard() -> None:
    observer = Observer()
    look(observer, 10.0, view())
    assert look(observer, 16.0, view(n2=11.0, n3=11.5)) == []
    assert seen(observer.lasting()) == [(11.0, "7", "n[2-3]", SILENT.text, None)]
    assert seen(look(observer, 18.0, view(n2=11.0))) == [(11.0, "7", "n3", SILENT.text, 18.0)]
    assert seen(observer.lasting()) == [(11.0, "7", "n2", SILENT.text, None)]


def test_jobs_come_and_go_and_what_is_wrong_with_one_ends_with_it() -> None:
    observer = Observer()
    assert look(observer, 10.0, view(("n1", GROWING))) == [], "jobs that were there before are no news"
    started = look(observer, 12.0, view(("n1", GROWING)), view(job_id=8, problem="no step can start"))
    assert seen(started) == [(12.0, "8", "", "alice started on 4 nodes", None)]
    assert seen(observer.lasting())[-1] == (12.0, "8", "", "no step can start", None)
    assert seen(look(observer, 20.0, view(job_id=8))) == [
        (10.0, "7", "n1", GROWING.text, 20.0),
        (12.0, "8", "", "no step can start", 20.0),
        (20.0, "7", "", "ended", None),
    ]
    assert observer.lasting() == []
    look(observer, 22.0, view(job_id=8, problem="the step was terminated"))
    assert seen(look(observer, 24.0)) == [(24.0, "8", "", "ended", None)], "it was, as the job has ended"


def test_slurm_that_does_not_answer_is_wrong_until_it_does() -> None:
    observer = Observer()
    look(observer, 10.0, view())
    look(observer, 12.0, view(), problem="no answer from slurmctld")
    [line] = observer.lasting()
    assert (line.grade, line.job, line.text) == ("error", "", "no answer from slurmctld")
    assert seen(look(observer, 14.0, view())) == [(12.0, "", "", "no answer from slurmctld", 14.0)]


def test_the_screen_has_what_is_wrong_now_on_top_and_the_cursor_stays_on_its_line() -> None:
    stage = Stage(rounds=2)
    [info] = [job for job in stage.source.jobs() if len(job.nodes) == 40]
    broken = info.nodes[3]
    real = stage.feed.take

    def with_hpc0_down(sample: NodeSample) -> None:
        if (sample.job_id, sample.node) == (info.job_id, broken):
            tasks, *rest = sample.interfaces
            sample = sample._replace(interfaces=(tasks._replace(state="DOWN"), *rest))
        real(sample)

    async def play(pilot: Pilot[Any]) -> None:
        async def rounds(number: int) -> list[str]:
            for _ in range(number):
                stage.tick()
            await pilot.pause()
            return stage.text()

        await pilot.press("v")
        await pilot.pause()
        await pilot.press("home")
        key = stage.table.key
        stage.feed.take = with_hpc0_down  # type: ignore[method-assign]
        text = await rounds(2)
        first = text[2].split()
        assert first[1:4] == ["error", str(info.job_id), broken] and "hpc0 is DOWN -> an admin: hpcnet" in text[2]
        assert first[0] == "00:00:06", "when both of two samples showed it"
        assert stage.table.key == key and stage.table._at == 1
        await pilot.press("home")
        await pilot.pause()
        assert any("since 00:00:06, for " in line and f"node {broken}" in line for line in stage.text())
        await pilot.press("escape")
        await pilot.pause()
        assert any(line.split()[:2] == ["!", str(info.job_id)] for line in stage.text()), "and on the Jobs screen"
        stage.feed.take = real  # type: ignore[method-assign]
        await pilot.press("v")
        text = await rounds(1)
        [line] = [line for line in text if "hpc0 is DOWN" in line and "over" in line]
        assert line.split()[:4] == ["00:00:06", "over", str(info.job_id), broken]
        assert f" {len(stage.feed.troubles())} wrong now " in text[0]
        lasting = [number for number, other in enumerate(text[:20]) if "drops and errors" in other]
        assert text.index(line) > max(lasting)

    stage.run(play, LARGE)
    assert [each.until for each in stage.feed.events().values() if each.text == "hpc0 is DOWN"] == [BEGIN + 8.0]
