# SPDX-License-Identifier: Apache-2.0
"""The table of the 2016 study for today's ways between two nodes: what each carries, and what that costs.

    python -m tests.bench.table [--mtu 65520,4092,2044] [--rounds 7] [--quick] [--json FILE] [--svg FILE]

Two nodes of a lab whose ib0 is a veth: the host's own interface, hpcnet direct and VXLAN as a job gets them by
default, each from tasks and from Docker containers; Docker swarm's overlay, a kernel VXLAN as the study had it,
CNI's macvlan. With all offloads of ib0 on, and off as in the study's kernel. In turns whose order changes from
round to round; ratios are of the same round. hpcnet/cli/flow.py measures.

Needs root, Slurm, Docker, ethtool and containernetworking-plugins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpcnet.cli import chart
from hpcnet.cli.bench import STUDY, headline
from hpcnet.errors import HpcnetError
from hpcnet.lab.cluster import Lab
from hpcnet.lab.layout import PREFIX, SWITCH
from tests.bench import measure, verdict
from tests.bench.peers import FAR, NEAR, Way, ways

SECONDS = {
    "one way": 0.3,
    "both ways": 0.3,
    "one way, 8 streams": 0.2,
    "both ways, 8 streams": 0.2,
    "small packets": 0.15,
    "round trip": 0.05,
}
"""What each test counts; the ramp comes on top."""

_OFFER: dict[str, dict[str, Any]] = {
    "offer": {"modes": ["vxlan", "direct"], "docker": True},
    "direct": {"allow_shared": True},
}
_OFFLOADS = ("tso", "gso", "gro", "tx", "rx", "sg")
_PORT = 5201
_FLOW = (f"{PREFIX}/bin/python", "-I", "-m", "hpcnet.cli.flow")
_QUICK = ("host", "hpcnet direct", "hpcnet vxlan", "docker overlay")


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description="Throughput and latency of today's ways between two nodes.")
    parser.add_argument("--mtu", default="65520,4092,2044", help="of the fabric (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="of each (default 7)")
    parser.add_argument(
        "--quick", action="store_true", help="four ways, one stream one way and both, the first MTU"
    )
    parser.add_argument("--smoke", action="store_true", help="one round of one test of two ways")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    parser.add_argument("--svg", metavar="FILE", help="a chart")
    arguments = parser.parse_args()
    mtus = [int(mtu) for mtu in arguments.mtu.split(",")]
    document: dict[str, Any] = {
        "what": "ways between two nodes",
        "load before": measure.machine()["load"],
        "study": STUDY,
        "fabrics": {},
        "aims": [],
        "comparisons": [],
    }
    try:
        for mtu in mtus[:1] if arguments.quick or arguments.smoke else mtus:
            with measure.lab(nodes=2, docker=True, fabric_mtu=mtu, hpcnet=_OFFER) as lab:
                of_fabric(lab, str(mtu), arguments, document)
            document["machine"] = measure.machine()
            save(document, arguments)
    except HpcnetError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    show(document)
    return 0


def save(document: dict[str, Any], arguments: argparse.Namespace) -> None:
    """What was measured so far, for programs and as a picture."""
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
    if arguments.svg:
        with open(arguments.svg, "w", encoding="utf-8") as file:
            file.write(picture(document))


def picture(document: dict[str, Any]) -> str:
    """Gbit/s of both directions at once, together: the study's, and those of each fabric and state of offloads."""
    study = {name: dict.fromkeys(("median", "low", "high"), sum(both)) for name, both in document["study"].items()}
    groups = [("the study of 2016", study)]
    for mtu, states in document["fabrics"].items():
        for state, rows in states.items():
            bars = {name: row["both ways"]["gbit"] for name, row in rows.items()}
            groups.append((f"fabric MTU {mtu}, offloads {state}", bars))
    return chart.svg(groups, "Gbit/s, both directions together; lines: quartiles", ours=("hpcnet",))


def of_fabric(lab: Lab, mtu: str, arguments: argparse.Namespace, document: dict[str, Any]) -> None:
    """All ways over a fabric of one MTU, with offloads and without, into the document."""
    seconds, rounds, states = SECONDS, arguments.rounds, ["on", "off"]
    found = list(_wanted(lab, _QUICK if arguments.quick else _QUICK[:2] if arguments.smoke else ()))
    if arguments.quick or arguments.smoke:
        seconds = {test: SECONDS[test] for test in ("one way", "both ways")}
    if arguments.smoke:
        rounds, states = 1, ["on"]
    document["fabrics"][mtu] = {}
    with _measuring(lab, found) as pairs:
        for state in states:
            _offload(lab, state)
            figures = measure.in_turns(pairs, seconds, rounds)
            document["fabrics"][mtu][state] = verdict.summary(figures)
            document["aims"] += verdict.aims(figures, mtu, state)
            fabric = {"mtu": int(mtu), "offloads": state}
            document["comparisons"] += [{**fabric, **each} for each in verdict.comparisons(figures)]


def _wanted(lab: Lab, names: Sequence[str]) -> Iterator[Way]:
    """All ways, or those of these names; none is made behind the last of them."""
    left = set(names)
    for way in ways(lab):
        if not names or way.name in left:
            yield way
        left.discard(way.name)
        if names and not left:
            return


@contextlib.contextmanager
def _measuring(lab: Lab, found: Sequence[Way]) -> Iterator[Mapping[str, measure.Pair]]:
    pairs = {}
    try:
        for port, way in enumerate(found, _PORT):
            near, far = lab.command(NEAR, [*way.near, *_FLOW]), lab.command(FAR, [*way.far, *_FLOW])
            pairs[way.name] = measure.Pair(near, far, way.address, port)
        yield pairs
    finally:
        for pair in pairs.values():
            pair.close()


def _offload(lab: Lab, state: str) -> None:
    """What the fabric's interfaces take over from the processor: of both nodes and of the switch's ports."""
    words = [word for each in _OFFLOADS for word in (each, state)]
    for host, devices in ((NEAR, ["ib0"]), (FAR, ["ib0"]), (SWITCH, [f"{NEAR}-ib0", f"{FAR}-ib0"])):
        for device in devices:
            lab.run(host, ["ethtool", "-K", device, *words], check=False)


def show(document: dict[str, Any]) -> None:
    """For people."""
    for mtu, states in document["fabrics"].items():
        for state, rows in states.items():
            print(f"\nfabric MTU {mtu}, offloads {state}: median (ratio to host), quartiles")
            for test in next(iter(rows.values())):
                print(f"  {test}")
                for name, row in rows.items():
                    print(f"    {name:<26}{_line(row[test], document['study'].get(name))}")
    print("\naims, with MTU 65520")
    for each in document["aims"]:
        ratio = each["ratio"]
        said = f"{ratio['median']:.2f}  {ratio['low']:.2f} to {ratio['high']:.2f}, at least {each['least']}"
        print(f"  {each['aim']:<58}{said}: {each['verdict']}")
    behind = [each for each in document["comparisons"] if each["behind"]]
    print(f"\nbehind a peer beyond the quartiles: {len(behind)} of {len(document['comparisons'])} cells")
    for each in behind:
        fabric = f"MTU {each['mtu']}, offloads {each['offloads']}"
        print(f"  {fabric}: {each['way']} / {each['peer']}, {each['test']}: {each['ratio']['median']:.2f}")
    print(f"\n{document['machine']}, load before {document['load before']}")


def _line(found: dict[str, Any], study: Sequence[float] | None) -> str:
    key = headline(found)
    figure = found[key]
    line = (
        f"{figure['median']:>9.2f} ({found['to host']['median']:.2f})  {figure['low']:.1f} to {figure['high']:.1f}"
    )
    if key == "median":
        line += f"  p99 {found['p99']['median']:.0f} us"
    if "back" in found:
        line += f"  {found['there']['median']:.2f} / {found['back']['median']:.2f}"
        if study:
            line += "  (2016: {} / {})".format(*study)
    if key == "gbit":
        line += f"  {found['processor']['median']:.3f} processor seconds a Gbit"
    return line


if __name__ == "__main__":
    sys.exit(main())
