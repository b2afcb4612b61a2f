# SPDX-License-Identifier: Apache-2.0
"""A watch over programs that write frames: here shell scripts in the place of srun, real processes and pipes."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hpcnet.counters import streams, wire
from hpcnet.counters.frames import frames
from hpcnet.counters.model import NodeSample
from hpcnet.counters.streams import Streams, Target
from hpcnet.slurm.jobs import ControllerUnreachable

Lost = Mapping[str, frozenset[str]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RETRY_FIRST", 0.02)
    monkeypatch.setattr(streams, "BEAT", 0.05)


def says(*samples: NodeSample, then: str = "exec cat") -> tuple[str, ...]:
    """A program that writes these samples and then, by default, ends when nobody watches any more."""
    text = b"".join(frames(wire.encode(sample), sample.node, number) for number, sample in enumerate(samples))
    return ("sh", "-c", f"printf %s {shlex.quote(text.decode())}; {then}")


def target(job_id: int, *command: str, problem: str = "") -> Target:
    return Target(frozenset({job_id}), frozenset({"n1"}), command, problem)


def sample(job_id: int, at: float = 0.0, node: str = "n1") -> NodeSample:
    return NodeSample(job_id, node, at)


def running(marker: Path) -> bool:
    """Whether the process that wrote its number there lives."""
    try:
        return Path(f"/proc/{marker.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def first(watch: Streams, count: int) -> list[NodeSample]:
    found: list[NodeSample] = []
    iterator: Iterator[NodeSample] = iter(watch)
    for each in iterator:
        found.append(each)
        if len(found) == count:
            break
    watch.close()
    assert list(iterator) == []
    return found


def test_samples_of_several_jobs_arrive() -> None:
    commands = {job: target(job, *says(sample(job, 1.0), sample(job, 2.0))) for job in (1, 2)}
    found = first(Streams(lambda wanted, lost: {str(job): commands[job] for job in wanted}, [1, 2]), 4)
    assert sorted((each.job_id, each.time) for each in found) == [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)]


def test_a_program_may_speak_of_its_own_job_and_nodes_only() -> None:
    command = says(sample(2), sample(1, node="n9"), sample(1, 5.0))
    assert first(Streams(lambda wanted, lost: {"1": target(1, *command)}, [1]), 1) == [sample(1, 5.0)]


def test_who_speaks_for_one_node_may_have_another_name() -> None:
    """As over ssh, where the host's name is not Slurm's."""
    alone = Target(frozenset({1}), frozenset({"n1"}), says(sample(1, 5.0, node="host-1.example")), node="n1")
    assert first(Streams(lambda wanted, lost: {"1": alone}, [1]), 1) == [sample(1, 5.0)]


def test_one_that_ends_is_started_again_until_its_job_is_over() -> None:
    runs = iter([True, True, True, False])
    command = says(sample(1), then="echo 'srun: error: torn' >&2")
    watch = Streams(lambda wanted, lost: {"1": target(1, *command)} if next(runs) else {}, [1])
    found = list(watch)
    assert [each.problem for each in found] == ["", "torn"] * 3


def test_slurmctld_away_is_a_problem_and_no_end() -> None:
    away = iter([True, False])

    def ask(wanted: frozenset[int], lost: Lost) -> dict[str, Target]:
        if next(away):
            raise ControllerUnreachable("no answer")
        return {"1": target(1, *says(sample(1)))}

    assert [each.problem for each in first(Streams(ask, [1]), 2)] == ["no answer", ""]


def test_a_job_that_may_not_be_watched_is_said_so_and_the_watch_ends() -> None:
    found = list(Streams(lambda wanted, lost: {"1": target(1, problem="bob's")}, [1]))
    assert [(each.node, each.problem) for each in found] == [("", "bob's")]


def test_a_program_that_is_not_there_is_a_problem() -> None:
    [found] = first(Streams(lambda wanted, lost: {"1": target(1, "/no/srun")}, [1]), 1)
    assert found.problem == "/no/srun cannot be started: No such file or directory"


def test_close_from_another_thread_ends_the_iteration_and_the_program(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    command = says(sample(1), then=f"echo $$ > {marker}; exec cat")
    watch = Streams(lambda wanted, lost: {"1": target(1, *command)}, [1])
    found: list[NodeSample] = []
    thread = threading.Thread(target=lambda: found.extend(watch))
    thread.start()
    while not (found and marker.exists() and marker.read_text()):
        time.sleep(0.01)
    watch.close()
    watch.close()
    thread.join(30)
    assert not thread.is_alive()
    assert not running(marker)


def test_follow_leaves_what_is_watched_alone(tmp_path: Path) -> None:
    marker = {job: tmp_path / str(job) for job in (1, 2)}

    def ask(wanted: frozenset[int], lost: Lost) -> dict[str, Target]:
        then = "echo $$ >> {}; exec cat"
        return {str(job): target(job, *says(sample(job), then=then.format(marker[job]))) for job in wanted}

    watch = Streams(ask, [1])
    seen = []
    for each in watch:
        seen.append(each.job_id)
        if seen == [1]:
            watch.follow([1, 2])
        if seen == [1, 2]:
            while not all(path.exists() and path.read_text() for path in marker.values()):
                time.sleep(0.01)
            assert running(marker[1])
            watch.follow([])
    assert seen == [1, 2]
    assert len(marker[1].read_text().split()) == 1
    assert not running(marker[1]) and not running(marker[2])


def test_programs_hear_that_somebody_watches() -> None:
    command = says(sample(1), then=f"read a; read b; read c; {shlex.join(says(sample(1, 9.0)))}")
    assert first(Streams(lambda wanted, lost: {"1": target(1, *command)}, [1]), 2)[1].time == 9.0


def speaks(*nodes: str) -> str:
    """Shell: these nodes say something every 20 ms until nobody watches."""
    [_, _, one] = says(*(sample(1, node=node) for node in nodes), then="sleep 0.02")
    return f"while {one}; do :; done"


def test_a_node_that_is_lost_is_told_and_the_program_of_the_others_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOST", 0.3)
    marker, told = tmp_path / "runs", []
    both = frozenset({"n1", "n2"})
    first_words = says(sample(1), sample(1, node="n2"), then=f"echo x >> {marker}; {speaks('n1')}")
    again = says(sample(1, 7.0, node="n2"), then="exec cat")

    def ask(wanted: frozenset[int], lost: Lost) -> dict[str, Target]:
        told.append(dict(lost))
        targets = {"job 1": Target(frozenset({1}), both, first_words)}
        if lost:
            targets["job 1 again"] = Target(frozenset({1}), lost["job 1"], again)
        return targets

    watch = Streams(ask, [1])
    for each in watch:
        if each.time == 7.0:
            watch.close()
    assert told == [{}, {"job 1": frozenset({"n2"})}]
    assert marker.read_text() == "x\n"


def test_a_program_that_has_lost_all_its_nodes_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOST", 0.2)
    marker = tmp_path / "pids"
    command = says(sample(1), then=f"echo $$ >> {marker}; exec sleep 60")  # it notices nothing
    assert len(first(Streams(lambda wanted, lost: {"1": target(1, *command)}, [1]), 2)) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in marker.read_text().split()[:1])


def test_a_program_whose_command_is_another_now_is_started_anew() -> None:
    commands = iter([says(sample(1, 1.0)), says(sample(1, 2.0))])
    seen = []
    watch = Streams(lambda wanted, lost: {"1": Target(wanted, frozenset({"n1"}), next(commands))}, [1])
    for each in watch:
        seen.append(each.time)
        watch.follow([1, 2] if seen == [1.0] else [])
        if len(seen) == 2:
            watch.close()
    assert seen == [1.0, 2.0]


def test_slurm_is_not_asked_before_it_may_be() -> None:
    asked = []

    def ask(wanted: frozenset[int], lost: Lost) -> dict[str, Target]:
        asked.append(time.monotonic())
        return {"1": target(1, *says(sample(1), then="exit"))} if len(asked) < 3 else {}

    list(Streams(ask, [1], may_ask=lambda: asked[-1] + 0.3))
    assert len(asked) == 3 and all(late - early >= 0.3 for early, late in zip(asked, asked[1:]))


def test_a_program_that_does_not_end_by_itself_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_PATIENCE", 0.1)
    marker = tmp_path / "pid"
    then = f"trap '' TERM; echo $$ > {marker}; exec sleep 60"
    command = says(sample(1), then=then)
    watch = Streams(lambda wanted, lost: {"1": target(1, *command)}, [1])
    for _ in watch:
        while not (marker.exists() and marker.read_text()):
            time.sleep(0.01)
        watch.close()
    assert not running(marker)


def test_a_program_that_would_wait_for_ever_dies_with_a_viewer_that_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    command = ("sh", "-c", f"echo $$ > {marker}; exec sleep 60")  # as srun does, of which one node is off
    viewer = (
        "import sys\nfrom hpcnet.counters.streams import Streams, Target\n"
        "target = Target(frozenset({1}), frozenset({'n1'}), tuple(sys.argv[1:]))\n"
        "for sample in Streams(lambda wanted, lost: {'1': target}, [1]): pass\n"
    )
    process = subprocess.Popen([sys.executable, "-I", "-c", viewer, *command])
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    assert running(marker)
    process.kill()
    process.wait()
    while running(marker):
        time.sleep(0.01)
