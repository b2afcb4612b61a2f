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
from dataclasses import asdict, fields
from typing import Any

from hpcnet.counters.model import Counters, Interface, NodeSample
from hpcnet.counters.rates import Rates

SCHEMA = 1

_LONGEST_TEXT = 300


def encode(sample: NodeSample, rates: Mapping[tuple[str, str, str], Rates] | None = None) -> dict[str, Any]:
    """The document of a sample; with ``rates`` (per second, by interface key) each interface has its own."""
    interfaces = []
    for interface in sample.interfaces:
        document = asdict(interface)
        if rates is not None:
            document["rates"] = asdict(rates.get(interface.key, Rates()))
        interfaces.append(document)
    return {
        "schema": SCHEMA,
        "job": sample.job_id,
        "node": sample.node,
        "time": sample.time,
        "clock": sample.clock,
        "interfaces": interfaces,
        "problem": sample.problem,
    }


def decode(document: Any) -> NodeSample:
    """The sample of a document. Raises ValueError when it is none, or of another schema."""
    try:
        if document["schema"] != SCHEMA:
            raise ValueError(f"samples of schema {document['schema']!r:.20}, not {SCHEMA}")
        return NodeSample(
            job_id=int(document["job"]),
            node=_text(document["node"]),
            time=float(document["time"]),
            interfaces=tuple(map(_interface, document["interfaces"])),
            problem=_text(document["problem"]),
            clock=None if document["clock"] is None else float(document["clock"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a sample: {error!r:.100}") from None


def _interface(document: Mapping[str, Any]) -> Interface:
    counters = document["counters"]
    return Interface(
        device=_text(document["device"]),
        kind=_text(document["kind"]),
        counters=Counters(*(_count(counters.get(each.name)) for each in fields(Counters))),
        name=_text(document["name"]),
        mtu=_count(document["mtu"]),
        state=_text(document["state"]),
        mac=_text(document["mac"]),
        addresses=tuple(map(_text, document["addresses"])),
        namespace=_text(document["namespace"]),
        speed=_count(document["speed"]),
    )


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is no text")
    return "".join(letter if letter.isprintable() else "?" for letter in value[:_LONGEST_TEXT])
