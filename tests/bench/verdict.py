# SPDX-License-Identifier: Apache-2.0
"""What the table's figures say: ratios of the same rounds, the aims, and where hpcnet is behind a peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcnet.cli.bench import headline
from tests.bench import measure

Rounds = dict[str, dict[str, list[dict[str, float]]]]

HOST, DIRECT, VXLAN, OVERLAY = "host", "hpcnet direct", "hpcnet vxlan", "docker overlay"
OURS = (DIRECT, VXLAN)
CONTAINER = ", container"
LARGEST = "65520"

AIMS = (
    (DIRECT, HOST, 0.98, "on"),
    (DIRECT, HOST, 0.98, "off"),
    (VXLAN, DIRECT, 0.95, "on"),
    (VXLAN, DIRECT, 0.95, "off"),
    (VXLAN, OVERLAY, 2.0, "off"),
)
"""With the largest MTU: the first way carries at least so much of the second one, offloads on or off."""


def summary(found: Rounds) -> dict[str, Any]:
    """By way and test: the spread of each figure, and of the rounds' ratios to the host's interface."""
    return {
        way: {
            test: {
                **{key: measure.spread([each[key] for each in rounds]) for key in rounds[0]},
                "to host": of(found, way, HOST, test),
                "rounds": [each[_key(rounds)] for each in rounds],
            }
            for test, rounds in tests.items()
        }
        for way, tests in found.items()
    }


def of(found: Rounds, way: str, base: str, test: str) -> dict[str, float]:
    """The rounds' own ratios of two ways."""
    ours, theirs = found[way][test], found[base][test]
    key = _key(ours)
    return measure.ratio([each[key] for each in ours], [each[key] for each in theirs])


def _key(rounds: Sequence[dict[str, float]]) -> str:
    return headline(rounds[0])


def aims(found: Rounds, mtu: str, state: str) -> list[dict[str, Any]]:
    """For streams one way and both: met, missed, or missed by less than the quartiles are apart."""
    document = []
    for way, base, least, which in AIMS:
        if (mtu, state) != (LARGEST, which) or not {way, base} <= set(found):
            continue
        for test in ("one way", "both ways"):
            if test in found[way]:
                ratio = of(found, way, base, test)
                met = ratio["median"] >= least
                document.append(
                    {
                        "aim": f"{way} / {base}, {test}, offloads {state}",
                        "least": least,
                        "ratio": ratio,
                        "verdict": "met"
                        if met
                        else "missed"
                        if ratio["high"] < least
                        else "missed, within the spread",
                    }
                )
    return document


def comparisons(found: Rounds) -> list[dict[str, Any]]:
    """Each of ours beside each peer of its kind, in each test. ``behind``: worse in the median and in three of
    four rounds, that is beyond the quartiles. Tasks are compared with what is no container, containers with such.
    """
    document = []
    for ours in OURS:
        for way in (ours, ours + CONTAINER):
            for peer in _peers(found, way):
                for test in found.get(way, {}):
                    ratio = of(found, way, peer, test)
                    less_is_better = _key(found[way][test]) == "median"
                    behind = ratio["low"] > 1 if less_is_better else ratio["high"] < 1
                    document.append({"way": way, "peer": peer, "test": test, "ratio": ratio, "behind": behind})
    return document


def _peers(found: Rounds, way: str) -> list[str]:
    """Of the same kind: of direct another macvlan, of VXLAN other tunnels; of containers overlays besides."""
    peers = {
        DIRECT: ["CNI macvlan"],
        VXLAN: ["kernel VXLAN as in 2016", OVERLAY, "docker overlay, large MTU"],
        DIRECT + CONTAINER: ["CNI macvlan", OVERLAY, "docker overlay, large MTU"],
        VXLAN + CONTAINER: [OVERLAY, "docker overlay, large MTU"],
    }
    return [peer for peer in peers[way] if peer in found]
