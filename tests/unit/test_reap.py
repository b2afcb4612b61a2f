# SPDX-License-Identifier: Apache-2.0
"""The decision: whatever is not known for certain stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet.reap import DEAD, FOREIGN, LIVE, UNKNOWN, YOUNG, Known, Terms, decide
from hpcnet.remains import Remains, unclaimed
from hpcnet.slurm.jobs import Holder

NOW = 1_700_000_000.0
BOOT = "this-boot"
LEFT = Remains(17, "lab", 100, BOOT, "n1", ("hpcnet-17",), in_kernel=True, changed=NOW - 3600, vnis=frozenset({7}))
TERMS = Terms(BOOT, NOW)
NOTHING_RUNS = Known(holders={}, cluster="lab")

texts = st.sampled_from(["", "lab", "other", BOOT, "n1", "n2"])
remains = st.builds(
    Remains,
    job_id=st.sampled_from([17, 18]),
    cluster=texts,
    serial=st.sampled_from([0, 100]),
    boot_id=texts,
    node=texts,
    what=st.just(("something",)),
    foreign=st.sampled_from([(), ("veth7",)]),
    owned=st.booleans(),
    in_kernel=st.booleans(),
    changed=st.none() | st.floats(NOW - 1000, NOW + 1000),
)
nodes = st.frozensets(st.sampled_from(["n1", "n2"]))
holders = st.builds(Holder, st.frozensets(st.sampled_from(["RUNNING", "COMPLETING"]), min_size=1), nodes)
known = st.builds(
    Known,
    steps=st.frozensets(st.sampled_from([17, 18])),
    holders=st.none() | st.dictionaries(st.sampled_from([17, 18]), holders),
    cluster=texts,
    silence=st.sampled_from(["", "squeue: no answer"]),
)
terms = st.builds(Terms, st.just(BOOT), st.just(NOW), st.sampled_from([0.0, 60.0]), boot=st.booleans())


@given(remains, known, terms)
def test_what_is_not_known_is_never_removed(left: Remains, known: Known, terms: Terms) -> None:
    if decide(left, known, terms).kind != DEAD:
        return
    assert left.owned and not left.foreign
    if left.boot_id not in ("", BOOT) and not left.in_kernel:
        return
    assert not terms.boot
    assert left.job_id not in known.steps
    assert left.changed is None or not terms.min_age or NOW - left.changed >= terms.min_age
    assert known.holders is not None
    assert left.cluster in ("", known.cluster)
    holder = known.holders.get(left.job_id)
    assert holder is None or (holder.nodes and left.node and left.node not in holder.nodes)


@given(remains, known, terms, holders)
def test_one_more_witness_of_a_live_job_never_removes(
    left: Remains, known: Known, terms: Terms, holder: Holder
) -> None:
    before = decide(left, known, terms)
    if before.kind == DEAD:
        return
    assert decide(left, replace(known, steps=known.steps | {left.job_id}), terms).kind != DEAD
    assert decide(left, replace(known, holders=None), terms).kind != DEAD
    here = Holder(holder.states, holder.nodes | {left.node})
    assert decide(left, replace(known, holders={left.job_id: here}), terms).kind != DEAD


@given(remains, known, terms)
def test_the_reason_is_one_line(left: Remains, known: Known, terms: Terms) -> None:
    reason = decide(left, known, terms).reason
    assert reason and "\n" not in reason


@pytest.mark.parametrize(
    ("changes", "known", "kind", "reason"),
    [
        ({}, NOTHING_RUNS, DEAD, "on no node"),
        ({"cluster": ""}, NOTHING_RUNS, DEAD, "on no node"),
        ({"changed": None}, NOTHING_RUNS, DEAD, "on no node"),
        ({"changed": NOW - 59}, NOTHING_RUNS, YOUNG, "younger than 60 s"),
        ({"changed": NOW + 59}, NOTHING_RUNS, YOUNG, "ahead of this node's clock"),
        ({"foreign": ("veth7",)}, NOTHING_RUNS, FOREIGN, "veth7"),
        ({"owned": False}, NOTHING_RUNS, FOREIGN, "only its name"),
        ({"cluster": "west"}, NOTHING_RUNS, UNKNOWN, "of cluster west, and slurmctld here is of lab"),
        ({}, Known(), UNKNOWN, "cannot reach slurmctld"),
        ({}, Known(silence="squeue: timed out"), UNKNOWN, "squeue: timed out"),
        ({}, replace(NOTHING_RUNS, steps=frozenset({17})), LIVE, "slurmstepd"),
        ({"boot_id": "older", "in_kernel": False}, Known(), DEAD, "before this node was booted"),
        ({"boot_id": "older"}, Known(), UNKNOWN, "cannot reach slurmctld"),
    ],
)
def test_each_reason(changes: dict[str, object], known: Known, kind: str, reason: str) -> None:
    verdict = decide(replace(LEFT, **changes), known, TERMS)  # type: ignore[arg-type]
    assert verdict.kind == kind
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("state", "where", "kind"),
    [
        ("RUNNING", {"n1", "n2"}, LIVE),
        ("COMPLETING", {"n1"}, LIVE),
        ("CONFIGURING", set(), LIVE),
        ("RUNNING", {"n2"}, DEAD),
        ("COMPLETING", {"n2"}, DEAD),
    ],
)
def test_where_slurm_has_the_job(state: str, where: set[str], kind: str) -> None:
    holder = Holder(frozenset({state}), frozenset(where))
    assert decide(LEFT, replace(NOTHING_RUNS, holders={17: holder}), TERMS).kind == kind
    # without a journal nobody knows what Slurm calls this node
    nameless = replace(LEFT, node="")
    assert decide(nameless, replace(NOTHING_RUNS, holders={17: holder}), TERMS).kind == LIVE


def test_a_minimum_age_of_zero_asks_for_none() -> None:
    ahead = replace(LEFT, changed=NOW + 1e6)
    assert decide(ahead, NOTHING_RUNS, replace(TERMS, min_age=0)).kind == DEAD


def test_at_boot_only_what_an_earlier_boot_left() -> None:
    terms = replace(TERMS, boot=True)
    assert decide(LEFT, NOTHING_RUNS, terms).kind == YOUNG
    assert decide(replace(LEFT, boot_id="older", in_kernel=False), Known(), terms).kind == DEAD
    assert decide(replace(LEFT, boot_id="older"), NOTHING_RUNS, terms).kind == YOUNG


def test_entries_of_the_filter_belong_to_what_is_here() -> None:
    assert unclaimed({7: set(), 8: set()}, [LEFT]) == {8: set()}
