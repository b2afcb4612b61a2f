# SPDX-License-Identifier: Apache-2.0
"""Rates out of counters: unknown stays unknown, what goes down is a gap, nothing is ever counted twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet.counters.board import GRACE, Board
from hpcnet.counters.model import KINDS, Counters, Interface, NodeSample
from hpcnet.counters.rates import UNKNOWN, Rates, counted, moved, node_rates, rates, total

numbers = st.none() | st.integers(0, 2**64 - 1)
counters = st.builds(Counters, *[numbers] * 8)
growth = st.lists(st.integers(0, 2**40), min_size=8, max_size=8)


def sample(*interfaces: Interface, clock: float | None = 10.0, time: float = 100.0) -> NodeSample:
    return NodeSample(1, "n1", time, interfaces, clock=clock)


@given(counters, growth, st.floats(0.01, 1e6))
def test_what_grows_has_a_rate_and_what_is_unknown_has_none(
    older: Counters, more: list[int], seconds: float
) -> None:
    newer = Counters(*(None if before is None else before + step for before, step in zip(older, more)))
    for before, step, rate in zip(older, more, rates(older, newer, seconds)):
        assert rate == (None if before is None else pytest.approx(step / seconds))


@given(counters, counters, st.floats(0.01, 1e6))
def test_no_rate_is_negative_and_one_that_falls_is_a_gap_of_all(
    older: Counters, newer: Counters, seconds: float
) -> None:
    found = rates(older, newer, seconds)
    pairs = list(zip(older, newer))
    assert all(rate is None or rate >= 0 for rate in found)
    assert all(rate is None for rate, pair in zip(found, pairs) if None in pair)
    if any(was is not None and now is not None and now < was for was, now in pairs):
        assert found == UNKNOWN


@given(counters, st.floats(max_value=0, allow_nan=False))
def test_time_that_does_not_pass_gives_no_rates(same: Counters, seconds: float) -> None:
    assert rates(same, same, seconds) == UNKNOWN


@given(st.lists(st.builds(Rates, *[st.none() | st.floats(0, 1e12)] * 8), max_size=5))
def test_a_total_is_known_only_when_all_of_it_is(parts: list[Rates]) -> None:
    for column, whole in zip(zip(*parts), total(parts)):
        assert whole == (None if None in column else pytest.approx(sum(column)))
    if not parts:
        assert total(parts) == UNKNOWN


def test_rates_go_by_the_clock_that_nobody_sets() -> None:
    older = sample(Interface("hpc0", "tasks", Counters(rx_bytes=100)), clock=10.0, time=5000.0)
    newer = sample(Interface("hpc0", "tasks", Counters(rx_bytes=300)), clock=12.0, time=1.0)
    key = ("tasks", "", "hpc0")
    assert node_rates(older, newer)[key].rx_bytes == 100
    assert node_rates(older._replace(clock=None), newer._replace(time=5004.0))[key].rx_bytes == 50
    assert node_rates(newer, newer._replace(clock=3.0))[key] == UNKNOWN  # booted in between


def test_an_interface_that_is_new_has_no_rates_yet() -> None:
    old = Interface("hpc0", "container", Counters(rx_bytes=1), namespace="a")
    again = Interface("hpc0", "container", Counters(rx_bytes=9), namespace="b")
    found = node_rates(sample(old), sample(old, again, clock=11.0))
    assert found[old.key].rx_bytes == 0
    assert found[again.key] == UNKNOWN


def test_what_a_job_moved_is_its_endpoints_alone() -> None:
    every = [Interface(f"d{n}", kind, Counters(*[10**n] * 8)) for n, kind in enumerate(KINDS)]
    assert counted(sample(*every)).rx_bytes == 10**0 + 10**2
    doubled = [
        each._replace(counters=Counters(*[2 * (number or 0) for number in each.counters])) for each in every
    ]
    assert moved(sample(*every), sample(*doubled, clock=11.0)).tx_bytes == 10**0 + 10**2
    assert counted(sample()) == Counters()


def test_a_board_knows_who_is_silent_since_when() -> None:
    board = Board(interval=2.0)
    board.expect(1, ["n1", "n2"], 1000.0)
    assert not board.silent(1, 1000.0 + GRACE - 0.1)  # their samplers are being started
    board.take(NodeSample(1, "n1", 5.0), 1003.0)
    assert not board.silent(1, 1006.9)
    assert board.silent(1, 1007.0) == {"n1": 1003.0}
    assert board.silent(1, 1000.0 + GRACE) == {"n1": 1003.0, "n2": 1000.0}
    board.take(NodeSample(1, "n1", 6.0), 1010.0)
    assert board.silent(1, 1010.0) == {"n2": 1000.0}
    board.expect(1, ["n1"], 1010.0)
    assert board.nodes(1) == ["n1"] and not board.silent(1, 1011.0)


def test_another_pace_makes_nobody_silent_who_is_to_be_heard_at_it_first() -> None:
    board = Board(interval=2.0)
    board.expect(1, ["n1", "n2", "n3"], 1000.0)
    for node, heard in (("n1", 1001.0), ("n3", 1001.0), ("n2", 1005.5)):
        board.take(NodeSample(1, node, 5.0), heard)
    assert board.silent(1, 1006.0) == {"n1": 1001.0, "n3": 1001.0}
    board.interval = 1.0
    assert board.silent(1, 1007.6) == {"n1": 1001.0, "n3": 1001.0}, "and who is silent stays so"
    board.take(NodeSample(1, "n2", 6.0), 1008.0)  # the last of the old pace, or the first of the new one
    board.take(NodeSample(1, "n3", 6.0), 1008.0)
    assert board.silent(1, 1006.0 + GRACE - 0.1) == {"n1": 1001.0, "n3": 1008.0}
    assert board.silent(1, 1006.0 + GRACE) == {"n1": 1001.0, "n3": 1008.0, "n2": 1008.0}


def test_a_board_keeps_the_jobs_problem_until_a_node_is_heard() -> None:
    board = Board(interval=2.0)
    board.take(NodeSample(1, "", 5.0, problem="no step"), 1003.0)
    assert (board.problem(1), board.nodes(1)) == ("no step", [])
    board.take(NodeSample(1, "n1", 6.0), 1004.0)
    assert (board.problem(1), board.nodes(1)) == ("", ["n1"])
    board.forget(1)
    assert board.jobs() == []
