# SPDX-License-Identifier: Apache-2.0
"""Which container addresses are taken: whoever asks at once, nobody gets another's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import journal, names, slots

LAST = 8


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of job 12."""
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path / "hpcnet"))
    return _job()


def _job() -> Path:
    journal.prepare()
    directory = Path(names.job_dir(12))
    directory.mkdir()
    return directory


def test_the_first_free_one_of_those_asked_for_is_taken(job: Path) -> None:
    assert slots.take(12, [3, 1, 2], "a") == 3
    assert slots.take(12, [3, 1, 2], "b") == 1
    assert slots.take(12, [3, 1, 2], "c") == 2
    assert slots.take(12, [3, 1, 2], "d") is None
    assert slots.taken(12) == {1: "b", 2: "c", 3: "a"}


def test_nothing_asked_for_takes_nothing(job: Path) -> None:
    assert slots.take(12, [], "a") is None
    assert slots.taken(12) == {}


def test_releasing_twice_is_fine_and_frees_one_only(job: Path) -> None:
    slots.take(12, [1], "a")
    slots.take(12, [2], "b")
    for _ in range(2):
        slots.release(12, 1)
    assert slots.taken(12) == {2: "b"}
    assert slots.take(12, [1, 2], "c") == 1


def test_a_new_owner_is_written_down(job: Path) -> None:
    slots.take(12, [10], "docker")
    slots.assign(12, 10, "docker abc")
    slots.assign(12, 2, "docker def")
    assert slots.taken(12) == {2: "docker def", 10: "docker abc"}
    assert list(slots.taken(12)) == [2, 10]
    assert slots.take(12, [2, 10], "x") is None


def test_what_a_crash_left_half_written_is_no_slot(job: Path) -> None:
    slots.take(12, [1], "a")
    (job / "slots/1.new").write_text("b")
    assert slots.taken(12) == {1: "a"}


def test_a_job_that_is_not_here_has_none(job: Path) -> None:
    assert slots.taken(13) == {}
    slots.release(13, 1)
    with pytest.raises(FileNotFoundError):
        slots.take(13, [1], "a")
    with pytest.raises(FileNotFoundError):
        slots.assign(13, 1, "a")
    assert journal.jobs() == [12]


def test_all_go_with_the_jobs_directory(job: Path) -> None:
    slots.take(12, [1], "a")
    journal.erase(12)
    assert slots.taken(12) == {}


ACTIONS = st.one_of(
    st.tuples(st.just("take"), st.lists(st.integers(1, LAST), max_size=LAST)),
    st.tuples(st.just("release"), st.integers(1, LAST)),
    st.tuples(st.just("assign"), st.integers(1, LAST)),
)


@given(actions=st.lists(ACTIONS, max_size=30))
def test_two_never_share_a_slot(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, object]]
) -> None:
    """Against a dictionary that does the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "STATE_DIR", str(tmp_path_factory.mktemp("slots") / "hpcnet"))
        _job()
        model: dict[int, str] = {}
        for number, (action, what) in enumerate(actions):
            owner = f"owner {number}"
            if action == "take":
                assert isinstance(what, list)
                expected = next((slot for slot in what if slot not in model), None)
                assert slots.take(12, what, owner) == expected
                if expected is not None:
                    model[expected] = owner
            else:
                assert isinstance(what, int)
                if action == "release":
                    slots.release(12, what)
                    model.pop(what, None)
                elif what in model:
                    slots.assign(12, what, owner)
                    model[what] = owner
            assert slots.taken(12) == model


def _at_once(number: int, work: Callable[[int], None]) -> None:
    together = threading.Barrier(number)

    def run(own: int) -> None:
        together.wait()
        work(own)

    threads = [threading.Thread(target=run, args=(own,)) for own in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_that_take_at_once_get_a_slot_each(job: Path) -> None:
    got: list[tuple[int | None, int]] = []
    _at_once(16, lambda own: got.append((slots.take(12, range(1, 13), f"thread {own}"), own)))
    given = {slot: f"thread {own}" for slot, own in got if slot is not None}
    assert sorted(given) == list(range(1, 13))
    assert len([slot for slot, _ in got if slot is None]) == 4
    assert slots.taken(12) == given


def test_threads_that_take_and_release_never_hold_the_same_one(job: Path) -> None:
    held: set[int] = set()
    shared: list[int] = []

    def work(own: int) -> None:
        for _ in range(100):
            slot = slots.take(12, range(1, 4), f"thread {own}")
            if slot is not None:
                if slot in held:
                    shared.append(slot)
                held.add(slot)
                held.discard(slot)
                slots.release(12, slot)

    _at_once(6, work)
    assert shared == []
    assert slots.taken(12) == {}
