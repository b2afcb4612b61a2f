# SPDX-License-Identifier: Apache-2.0
"""Who answers when jobs are asked for: pyslurm (here a module of its face) or squeue. The contract of both is in
tests/cluster/test_joblist.py.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from hpcnet.slurm import joblist
from hpcnet.slurm.jobs import ControllerUnreachable, SlurmJob

# The attributes of a pyslurm.Job of 22.5.3, of an array's task that runs.
TASK = {
    "id": 2,
    "array_id": 1,
    "array_task_id": 7,
    "state": "RUNNING",
    "user_id": 20001,
    "user_name": "alice",
    "account": None,
    "partition": "batch",
    "allocated_nodes": "n[1-2]",
    "comment": "hpcnet:asked",
    "start_time": 1795445210,
    "end_time": 1826981210,
}
SQUEUE = [SlurmJob(9, "", frozenset({"PENDING"}), 1, "bob", "", "", "", "", "", 0, 0)]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblist, "_given_up", False)
    monkeypatch.setattr("hpcnet.slurm.jobs.jobs", lambda timeout=0.0, only=(): SQUEUE)


def pyslurm(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyslurm", SimpleNamespace(Jobs=SimpleNamespace(load=load)))


def test_pyslurm_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pyslurm(monkeypatch, lambda: {2: SimpleNamespace(**TASK)})
    [found] = joblist.jobs()
    assert (found.id, found.array, found.states, found.account, found.extra) == (
        2,
        "1_7",
        frozenset({"RUNNING"}),
        "",
        "",
    )
    single = SimpleNamespace(**{**TASK, "array_task_id": None, "state": "COMPLETED+COMPLETING", "extra": "x"})
    pyslurm(monkeypatch, lambda: {2: single})
    [found] = joblist.jobs()
    assert (found.array, found.states, found.extra) == ("", frozenset({"COMPLETED", "COMPLETING"}), "x")


def test_some_jobs_are_squeues_business(monkeypatch: pytest.MonkeyPatch) -> None:
    pyslurm(monkeypatch, lambda: {2: SimpleNamespace(**TASK)})
    assert joblist.jobs([9]) == SQUEUE


@pytest.mark.parametrize("fault", [RuntimeError("slurm_load_jobs error: Unable to contact"), KeyError("x")])
def test_its_first_failure_is_its_last(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    asked = []

    def load() -> None:
        asked.append(1)
        raise fault

    pyslurm(monkeypatch, load)
    assert [joblist.jobs() for _ in range(3)] == [SQUEUE] * 3
    assert len(asked) == 1


def test_an_answer_holds_for_a_while_for_what_it_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def answer(only: frozenset[int]) -> list[SlurmJob]:
        asked.append(sorted(only))
        if 8 in only:
            raise ControllerUnreachable("no answer")
        return SQUEUE

    monkeypatch.setattr(joblist, "jobs", answer)
    ask = joblist.Remembered()
    ask([5]), ask([5]), ask([9]), ask([5, 9])
    assert asked == [[5]], "9 came with it, as an array's task does"
    ask([6]), ask(), ask([5]), ask()
    assert asked == [[5], [6], []]
    monkeypatch.setattr(joblist, "LISTING", 0.0)
    ask([5])
    with pytest.raises(ControllerUnreachable):
        ask([8])
    monkeypatch.setattr(joblist, "LISTING", 60.0)
    ask([5])
    assert asked == [[5], [6], [], [5], [8], [5]], "no answer is none to keep"


def test_without_pyslurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyslurm", None)
    assert joblist.jobs() == SQUEUE


def test_another_versions_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyslurm", SimpleNamespace(job=None))
    assert joblist.jobs() == SQUEUE
