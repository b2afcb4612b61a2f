# SPDX-License-Identifier: Apache-2.0
"""Samples over a stream that tears and mixes: all that was whole arrives, and nothing else does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet.counters import wire
from hpcnet.counters.frames import Assembler, frames
from hpcnet.counters.model import KINDS, NEIGHBOUR_STATES, Counters, Interface, Neighbour, Neighbours, NodeSample

printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=30)
numbers = st.none() | st.integers(0, 2**64 - 1)
neighbour = st.builds(Neighbour, address=printable, mac=printable, state=st.sampled_from(NEIGHBOUR_STATES))
neighbours = st.builds(Neighbours, *[st.integers(0, 2**32)] * 7, listed=st.lists(neighbour, max_size=8).map(tuple))
interfaces = st.builds(
    Interface,
    device=printable,
    kind=st.sampled_from(KINDS),
    counters=st.builds(Counters, *[numbers] * 8),
    name=printable,
    mtu=numbers,
    state=printable,
    mac=printable,
    addresses=st.lists(printable, max_size=3).map(tuple),
    namespace=printable,
    speed=numbers,
    neighbours=st.none() | neighbours,
)
samples = st.builds(
    NodeSample,
    job_id=st.integers(1, 2**32 - 1),
    node=st.sampled_from(["n1", "n2", "gpu-3.example.org"]),
    time=st.floats(0, 1e10),
    interfaces=st.lists(interfaces, max_size=6).map(tuple),
    problem=printable,
    clock=st.none() | st.floats(0, 1e9),
)


def lines(sample: NodeSample, serial: int = 1) -> bytes:
    return frames(wire.encode(sample), sample.node, serial)


@given(samples)
def test_a_sample_comes_back_as_it_was(sample: NodeSample) -> None:
    assert wire.decode(json.loads(json.dumps(wire.encode(sample)))) == sample
    assert Assembler().feed(lines(sample)) == [sample]


@given(samples)
def test_no_line_is_longer_than_srun_passes_on_whole(sample: NodeSample) -> None:
    assert all(len(line) <= 1024 for line in lines(sample).splitlines(keepends=True))


@given(st.data(), st.lists(samples, min_size=1, max_size=3, unique_by=lambda sample: sample.node))
def test_nodes_lines_may_mix_and_pieces_may_end_anywhere(data: st.DataObject, sent: list[NodeSample]) -> None:
    queues = [lines(sample).splitlines(keepends=True) for sample in sent]
    stream = b"a TaskProlog said so\n"
    while any(queues):
        stream += data.draw(st.sampled_from([queue for queue in queues if queue])).pop(0)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    assembler, found = Assembler(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)]):
        found += assembler.feed(stream[begin:end])
    assert sorted(found, key=lambda sample: sample.node) == sorted(sent, key=lambda sample: sample.node)


@given(samples, st.data())
def test_a_sample_with_a_line_missing_is_dropped_and_the_next_is_not(
    sample: NodeSample, data: st.DataObject
) -> None:
    sample = sample._replace(problem="x" * 300, interfaces=(*sample.interfaces, Interface("y" * 300, "tasks")))
    whole = lines(sample).splitlines(keepends=True)
    gone = data.draw(st.integers(0, len(whole) - 1))
    stream = b"".join(whole[:gone] + whole[gone + 1 :]) + lines(sample, 2)
    assert Assembler().feed(stream) == [sample]


@given(st.binary(max_size=3000))
def test_noise_is_no_sample_and_no_error(noise: bytes) -> None:
    assembler = Assembler()
    assert assembler.feed(noise) == []
    assert assembler.feed(b"\n" + lines(NodeSample(1, "n1", 0.0))) == [NodeSample(1, "n1", 0.0)]


def test_another_nodes_name_is_not_taken() -> None:
    assert Assembler().feed(frames(wire.encode(NodeSample(1, "n2", 0.0)), "n1", 1)) == []


def test_text_cannot_steer_a_terminal() -> None:
    document = wire.encode(NodeSample(1, "n1", 0.0, problem="\x1b[2J\nred\u202e"))
    assert wire.decode(document).problem == "?[2J?red?"


COUNTED = wire.encode_interface(Interface("hpc0", "tasks"))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"job": None},
        {"interfaces": [{}]},
        {"interfaces": 3},
        {"node": 7},
        {"time": "soon"},
        # what json reads and no kernel counts: no arithmetic of a viewer may fail for it
        {"time": float("nan")},
        {"clock": float("inf")},
        {"interfaces": [COUNTED | {"counters": {"rx_bytes": 10**400}}]},
        {"interfaces": [COUNTED | {"counters": {"rx_bytes": -1}}]},
        {"interfaces": [COUNTED | {"mtu": float("inf")}]},
    ],
)
def test_what_is_no_sample_is_a_value_error(change: dict[str, object]) -> None:
    document = wire.encode(NodeSample(1, "n1", 0.0, (Interface("hpc0", "tasks"),)))
    with pytest.raises(ValueError, match=r"sample|float|int|could not|is no"):
        wire.decode({**document, **change})
