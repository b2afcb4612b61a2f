# SPDX-License-Identifier: Apache-2.0
"""Samples as JSON documents: what a sampler writes a line each, and what ``hpcnet stats --json`` prints.

    encode(sample)      -> {"schema": 1, "job": 1234, "node": "n1", "time": ..., "interfaces": [...], ...}
    decode(document)    -> NodeSample

A number that is not known is null. A reader ignores keys that it does not know; what it does know changes its
meaning only with the schema's number. What is read may have been written by somebody else's processes, so its text
is made fit for a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from hpcnet.counters.model import (
    LISTED_NEIGHBOURS,
    NEIGHBOUR_STATES,
    Counters,
    Interface,
    Neighbour,
    Neighbours,
    NodeSample,
)
from hpcnet.counters.rates import UNKNOWN, Rates

SCHEMA = 1

_LONGEST_TEXT = 300
_COUNTERS_END = 1 << 64


def encode(sample: NodeSample, rates: Mapping[tuple[str, str, str], Rates] | None = None) -> dict[str, Any]:
    """The document of a sample; with ``rates`` (per second, by interface key) each interface has its own."""
    interfaces = [encode_interface(each) for each in sample.interfaces]
    if rates is not None:
        for each, document in zip(sample.interfaces, interfaces):
            document["rates"] = rates.get(each.key, UNKNOWN)._asdict()
    return {
        "schema": SCHEMA,
        "job": sample.job_id,
        "node": sample.node,
        "time": sample.time,
        "clock": sample.clock,
        "interfaces": interfaces,
        "problem": sample.problem,
    }


def encode_interface(interface: Interface) -> dict[str, Any]:
    """What a sample's document says of one interface, without its rates."""
    met = interface.neighbours
    return {
        **interface._asdict(),
        "counters": interface.counters._asdict(),
        "neighbours": met and {**vars(met), "listed": [vars(each) for each in met.listed]},
    }


def decode(document: Any) -> NodeSample:
    """The sample of a document. Raises ValueError when it is none, or of another schema."""
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"samples of schema {document['schema']!r:.20}, not {SCHEMA}")
        return NodeSample(
            job_id=int(document["job"]),
            node=text(document["node"]),
            time=moment(document["time"]),
            interfaces=tuple(map(_interface, document["interfaces"])),
            problem=text(document["problem"]),
            clock=None if document["clock"] is None else moment(document["clock"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a sample: {error!r:.100}") from None


def _interface(document: Mapping[str, Any]) -> Interface:
    counters: Mapping[str, Any] = document["counters"]
    return Interface(
        device=text(document["device"]),
        kind=text(document["kind"]),
        counters=Counters(*map(count, map(counters.get, Counters._fields))),
        name=text(document["name"]),
        mtu=count(document["mtu"]),
        state=text(document["state"]),
        mac=text(document["mac"]),
        addresses=tuple(map(text, document["addresses"])),
        namespace=text(document["namespace"]),
        speed=count(document["speed"]),
        neighbours=_neighbours(document.get("neighbours")),  # added later: a sampler of before has none
    )


def _neighbours(document: Mapping[str, Any] | None) -> Neighbours | None:
    if document is None:
        return None
    listed = (
        Neighbour(text(each["address"]), text(each["mac"]), text(each["state"]))
        for each in document["listed"][:LISTED_NEIGHBOURS]
    )
    return Neighbours(listed=tuple(listed), **{state: count(document[state]) or 0 for state in NEIGHBOUR_STATES})


def count(value: Any) -> int | None:
    """A number as the kernel counts, or that it is not known. Raises ValueError, TypeError, OverflowError."""
    if value is None:
        return None
    number = int(value)
    if not 0 <= number < _COUNTERS_END:
        raise ValueError(f"{number!r:.30} is no count")
    return number


def moment(value: Any) -> float:
    """Seconds. Raises ValueError, TypeError, OverflowError."""
    seconds = float(value)
    if not isfinite(seconds):
        raise ValueError(f"{seconds} is no time")
    return seconds


def text(value: Any) -> str:
    """Text of a document, cut and fit for a terminal. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is no text")
    cut = value[:_LONGEST_TEXT]
    return cut if cut.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in cut)
