# SPDX-License-Identifier: Apache-2.0
"""The table of the 2016 study for today's ways between two containers: what each carries, and what that costs.

    python -m tests.bench.table [--mtu 65520,4092,2044] [--rounds 3] [--quick] [--json FILE] [--svg FILE]

Two nodes of a lab whose ib0 is a veth: the host's own interface, hpcnet direct and VXLAN, each from tasks and from
Docker containers; Docker swarm's overlay, a kernel VXLAN as the study had it, CNI's macvlan. With all offloads of
ib0 on, and off as in the study's kernel. All in turns; ratios are of the same round to the host's interface.

Needs root, Slurm, Docker, iperf3, ethtool and containernetworking-plugins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from hpcnet.cli import bench
from hpcnet.errors import HpcnetError
from hpcnet.lab.cluster import Lab
from hpcnet.lab.layout import SWITCH
from tests.bench import chart, measure
from tests.bench.peers import FAR, NEAR, Way, ways

STUDY = {
    "host": (6.37, 5.69),
    "docker overlay": (0.97, 0.98),
    "kernel VXLAN as in 2016": (2.28, 1.83),
    "hpcnet direct": (7.93, 5.54),
}
"""Gbit/s each way by iperf -d, of the setup that a row answers; to direct: pipework moving ib0."""

_OFFER: dict[str, dict[str, Any]] = {
    "offer": {"modes": ["vxlan", "direct"], "docker": True},
    "direct": {"allow_shared": True},
}
_OFFLOADS = ("tso", "gso", "gro", "tx", "rx", "sg")
_PORT = 5201
_AHEAD = ("chrt", "--rr", "1")  # iperf3 goes before whatever else the machine does, for its second
_QUICK = ("host", "hpcnet direct", "hpcnet vxlan", "docker overlay")


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description="Throughput and latency of today's ways between two nodes.")
    parser.add_argument("--mtu", default="65520,4092,2044", help="of the fabric (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--quick", action="store_true", help="four ways, both directions at once, the first MTU")
    parser.add_argument("--smoke", action="store_true", help="one round of one test of two ways")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    parser.add_argument("--svg", metavar="FILE", help="a chart")
    arguments = parser.parse_args()
    mtus = [int(mtu) for mtu in arguments.mtu.split(",")]
    document: dict[str, Any] = {"what": "ways between two nodes", "fabrics": {}, "study": STUDY}
    document["load before"] = measure.machine()["load"]
    try:
        for mtu in mtus[:1] if arguments.quick or arguments.smoke else mtus:
            with measure.lab(nodes=2, docker=True, fabric_mtu=mtu, hpcnet=_OFFER) as lab:
                document["fabrics"][str(mtu)] = of_fabric(lab, arguments, whole=mtu == mtus[0])
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
            file.write(chart.table(document))


def of_fabric(lab: Lab, arguments: argparse.Namespace, whole: bool) -> dict[str, Any]:
    """All ways over a fabric of one MTU, with offloads and without; ``whole``: all tests, not just streams."""
    wanted = _QUICK[:2] if arguments.smoke else _QUICK if arguments.quick else ()
    found = []
    for way in ways(lab):
        if not wanted or way.name in wanted:
            found.append(way)
        if wanted and len(found) == len(wanted):
            break
    for number, way in enumerate(found):
        _serve(lab, way, _PORT + number)
    if arguments.smoke:
        return {"on": _rounds(lab, found, ["one way"], 1)}
    document = {}
    for state in ("on", "off"):
        _offload(lab, state)
        few = ["one way", "both ways"]
        tests = (
            ["both ways"]
            if arguments.quick
            else few
            if state == "off" or not whole
            else [*bench.TESTS, bench.ROUND_TRIP]
        )
        document[state] = _rounds(lab, found, tests, arguments.rounds)
    return document


def _serve(lab: Lab, way: Way, port: int) -> None:
    """iperf3 waits at the far end."""
    command = " ".join([*way.far, *_AHEAD, "iperf3", "-s", "-p", str(port)])
    lab.run(FAR, ["sh", "-c", f"{command} >/dev/null 2>&1 </dev/null & sleep 0.3"])


def _offload(lab: Lab, state: str) -> None:
    """What the fabric's interfaces take over from the processor: of both nodes and of the switch's ports."""
    words = [word for each in _OFFLOADS for word in (each, state)]
    for host, devices in ((NEAR, ["ib0"]), (FAR, ["ib0"]), (SWITCH, [f"{NEAR}-ib0", f"{FAR}-ib0"])):
        for device in devices:
            lab.run(host, ["ethtool", "-K", device, *words], check=False)


def _rounds(lab: Lab, found: Sequence[Way], tests: Sequence[str], rounds: int) -> dict[str, Any]:
    """Each test of each way, in turns."""
    figures: dict[str, dict[str, list[dict[str, float]]]] = {
        way.name: {test: [] for test in tests} for way in found
    }
    for _ in range(rounds):
        for test in tests:
            for number, way in enumerate(found):
                figures[way.name][test].append(_one(lab, way, _PORT + number, test))
    host = figures["host"]
    return {
        name: {test: _summary(each, host[test]) for test, each in row.items()} for name, row in figures.items()
    }


def _one(lab: Lab, way: Way, port: int, test: str) -> dict[str, float]:
    if test == bench.ROUND_TRIP:
        return _ping(lab, way)
    argv = [*way.near, *_AHEAD, "iperf3", "-c", way.address, "-p", str(port), "-J", "-t", "1", *bench.TESTS[test]]
    for _ in range(10):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = lab.run(NEAR, argv, check=False, timeout=60)
            answer = json.loads(done.stdout or "{}")
            if "error" not in answer and "end" in answer:
                return bench.figures(test, answer)
        time.sleep(1)  # the server may still be busy with the last one
    raise SystemExit(f"bench: {way.name}: iperf3: {answer.get('error') or done.stderr}")


def _ping(lab: Lab, way: Way) -> dict[str, float]:
    done = lab.run(NEAR, [*way.near, *bench.ping_command(way.address)], check=False, timeout=30)
    return bench.round_trip(done.stdout, f"{way.name}: {done.stderr}")


def _summary(rounds: list[dict[str, float]], host: list[dict[str, float]]) -> dict[str, Any]:
    key = bench.headline(rounds[0])
    document: dict[str, Any] = {key: measure.spread([each[key] for each in rounds]) for key in rounds[0]}
    document["to host"] = measure.ratio([each[key] for each in rounds], [each[key] for each in host])
    return document


def show(document: dict[str, Any]) -> None:
    """For people."""
    for mtu, states in document["fabrics"].items():
        for state, rows in states.items():
            print(f"\nfabric MTU {mtu}, offloads {state}: Gbit/s (ratio to host)")
            tests = list(next(iter(rows.values())))
            for test in tests:
                print(f"  {test}")
                for name, row in rows.items():
                    found = row[test]
                    key = bench.headline(found)
                    figures = found[key]
                    more = f"  p99 {found['p99']['median']:.0f} us" if key == "median" else ""
                    if "back" in found:
                        more = f"  {found['there']['median']:.2f} / {found['back']['median']:.2f}"
                        if name in document["study"]:
                            more += "  (2016: {} / {})".format(*document["study"][name])
                    if "processor" in found:
                        more += f"  {found['processor']['median']:.3f} processor seconds a Gbit"
                    print(
                        f"    {name:<26}{figures['median']:>9.2f} ({found['to host']['median']:.2f})  "
                        f"{figures['low']:.1f} to {figures['high']:.1f}{more}"
                    )
    print(f"\n{document['machine']}, load before {document['load before']}")


if __name__ == "__main__":
    sys.exit(main())
