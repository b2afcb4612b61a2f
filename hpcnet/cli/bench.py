# SPDX-License-Identifier: Apache-2.0
"""``hpcnet bench``: what a network carries between two nodes.

As a step of two tasks: the second one serves until the first, which measures and prints, hangs up. Without a
network of the job it measures the nodes' own fabric. Outside of a job, with ``--networks``: a job for each, on the
same two nodes at once, all measured in turns. The measuring itself is :mod:`hpcnet.cli.flow`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from hpcnet import config, fabric, nodelist
from hpcnet.cli import chart, flow
from hpcnet.cli.table import print_json, print_table
from hpcnet.errors import NodeError, UserError

STUDY: Mapping[str, tuple[float, float]] = {
    "host": (6.37, 5.69),
    "hpcnet direct": (7.93, 5.54),
    "docker overlay": (0.97, 0.98),
    "docker overlay over Ethernet": (0.63, 0.75),
    "kernel VXLAN as in 2016": (2.28, 1.83),
}
"""Gbit/s each way by iperf -d, of the setup that a row answers; to direct: pipework moving ib0. macvlan failed."""

Measure = Callable[[str, float], dict[str, float]]
Rounds = dict[str, list[dict[str, float]]]

_HOST = "host"
_PORT = 21077
_PATIENCE = 60.0  # seconds for the other task to be there, or for a job to start


def run(arguments: argparse.Namespace) -> int:
    """``hpcnet bench``. Raises UserError, NodeError."""
    older = _read(arguments.compare) if arguments.compare else None
    if arguments.networks:
        document = _together(arguments)
    else:
        near, far = _places(os.environ)
        inside = _is_inside(os.environ.get("HPCNET_ADDRESS", ""))
        address = _address(far, inside, arguments.config)
        if os.environ["SLURM_PROCID"] != "0":
            _serve(address)
            return 0
        name = os.environ.get("HPCNET_MODE", "") if inside else _HOST
        mtu = int(os.environ["HPCNET_MTU"]) if inside else None
        with flow.Near(address, _PORT, _PATIENCE) as connected:
            if arguments.answer:
                print(json.dumps({"mtu": mtu, "nodes": [near, far]}), flush=True)
                flow.drive(connected, sys.stdin, sys.stdout)
                return 0
            measure = {name: lambda test, seconds: connected.measure(flow.TESTS[test], seconds)}
            rounds = _in_turns(measure, arguments.seconds, arguments.rounds)
        document = {"nodes": [near, far], "networks": {name: _summary(mtu, rounds[name])}}
    if older:
        _compare(document, older)
    document["study"] = STUDY
    _save(document, arguments)
    if arguments.json:
        print_json(document)
    else:
        _show(document)
    return 0


def _places(environment: Mapping[str, str]) -> tuple[str, str]:
    """The two nodes of the step. Raises UserError when it is no step of two tasks on two nodes."""
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    if "SLURM_PROCID" not in environment or environment.get("SLURM_STEP_NUM_TASKS") != "2":
        raise UserError(
            "bench is a step of two tasks: srun -N2 -n2 --network=ib hpcnet bench; "
            "or, outside of a job: hpcnet bench --networks host ib"
        )
    near, *far = nodelist.expand(nodes)
    if len(far) != 1:
        raise UserError(f"the step has the nodes {nodes}; bench needs its two tasks on two: srun -N2 -n2 ...")
    return near, far[0]


def _is_inside(own: str) -> bool:
    """Whether this task is in the job's network, by its address there."""
    with contextlib.suppress(OSError), socket.socket() as trial:
        trial.bind((own or "256", 0))
        return True
    return False


def _address(node: str, inside: bool, configuration: str) -> str:
    """The node's address in the job's network, or else on the fabric."""
    if not inside:
        return str(fabric.addresses(config.load(configuration).fabric, [node])[node])
    for line in Path(os.environ["HPCNET_HOSTS"]).read_text(encoding="utf-8").splitlines():
        address, *known = line.split() or [""]
        if node in known and ":" not in address:
            return address
    raise NodeError(f"{os.environ['HPCNET_HOSTS']} does not have {node}")


def _serve(address: str) -> None:
    with socket.create_server((address, _PORT)) as listener:
        listener.settimeout(_PATIENCE)
        try:
            flow.serve(listener)
        except TimeoutError:
            raise NodeError(f"the other task did not come to {address} within {_PATIENCE:.0f} s") from None


def _together(arguments: argparse.Namespace) -> dict[str, Any]:
    """A job for each network, on the nodes of the first one, all there at once. Raises UserError, NodeError."""
    if "SLURM_STEP_ID" in os.environ:
        raise UserError("--networks starts jobs of its own: run it outside of a step, on a login node")
    nodes = nodelist.fold(nodelist.expand(arguments.nodes)) if arguments.nodes else ""
    measure: dict[str, Measure] = {}
    mtus = {}
    with contextlib.ExitStack() as running:
        for network in dict.fromkeys(arguments.networks):
            begun, measure[network] = running.enter_context(_job(network, nodes))
            mtus[network], nodes = begun["mtu"], nodelist.fold(begun["nodes"])
        rounds = _in_turns(measure, arguments.seconds, arguments.rounds)
    networks = {name: _summary(mtus[name], rounds[name], rounds[next(iter(rounds))]) for name in rounds}
    return {"nodes": nodelist.expand(nodes), "networks": networks}


@contextlib.contextmanager
def _job(network: str, nodes: str) -> Iterator[tuple[dict[str, Any], Measure]]:
    """Where it runs and with which MTU, and how it is asked to measure."""
    words = ["srun", "-N2", "-n2", "--input=0", f"--immediate={_PATIENCE:.0f}"]
    words += [f"--network={network}"] * (network != _HOST) + [f"--nodelist={nodes}"] * bool(nodes)
    command = [*words, "hpcnet", "bench", "--answer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as step:
        asked, said = step.stdin, step.stdout
        assert asked is not None and said is not None

        def answer() -> dict[str, Any]:
            line = said.readline()
            if not line:
                raise NodeError(
                    f"the job of {network} ended, or did not start within {_PATIENCE:.0f} s; --networks needs "
                    f"{nodes or 'two nodes'} to take all of its jobs at once"
                )
            found: dict[str, Any] = json.loads(line)
            return found

        def measure(test: str, seconds: float) -> dict[str, float]:
            asked.write(f"{test} {seconds}\n")
            asked.flush()
            return answer()

        try:
            yield answer(), measure
        except BaseException:
            step.terminate()
            raise
        finally:
            asked.close()


def _in_turns(measure: Mapping[str, Measure], seconds: float, rounds: int) -> dict[str, Rounds]:
    """Each round begins with another network: whoever comes first is not always the same."""
    found: dict[str, Rounds] = {name: {test: [] for test in flow.TESTS} for name in measure}
    names = list(measure)
    for number in range(rounds):
        turn = number % len(names)
        for test in flow.TESTS:
            for name in names[turn:] + names[:turn]:
                found[name][test].append(measure[name](test, seconds))
    return found


def _summary(mtu: int | None, rounds: Rounds, base: Rounds | None = None) -> dict[str, Any]:
    """Of each figure the median, the least and the most; with ``base`` its ratio, of the same rounds."""
    tests: dict[str, Any] = {}
    for test, each in rounds.items():
        tests[test] = {key: _spread([one[key] for one in each]) for key in each[0]}
        if base is not None:
            key = headline(each[0])
            tests[test]["ratio"] = _spread([one[key] / other[key] for one, other in zip(each, base[test])])
    return {"mtu": mtu, "tests": tests}


def _spread(values: list[float]) -> dict[str, float]:
    least_and_most = {"min": round(min(values), 4), "max": round(max(values), 4)}
    return {"median": round(statistics.median(values), 4), **least_and_most}


def headline(row: Mapping[str, Any]) -> str:
    """Which figure of a test counts: a key of flow.HEADLINE."""
    return next(key for key in flow.HEADLINE if key in row)


def _read(path: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        for network in document["networks"].values():
            for test in flow.TESTS:
                float(network["tests"][test][headline(network["tests"][test])]["median"])
        return document
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        raise UserError(f"{path} is no answer of hpcnet bench --json") from None


def _compare(document: dict[str, Any], older: Mapping[str, Any]) -> None:
    """The older answer's networks go first; ratios are of medians to its first one's."""
    base = next(iter(older["networks"].values()), None)
    if base is None:
        raise UserError("the answer to compare with has no network")
    for network in document["networks"].values():
        for test, row in network["tests"].items():
            key = headline(row)
            theirs = base["tests"][test][key]["median"]
            if theirs:
                row["ratio"] = {"median": round(row[key]["median"] / theirs, 4)}
    now = document["networks"]
    before = {f"{name} before" if name in now else name: row for name, row in older["networks"].items()}
    document["networks"] = {**before, **now}


def _save(document: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    both = "both ways"
    note = "Gbit/s, both directions together; lines: least and most"
    groups: list[tuple[str, dict[str, dict[str, float]]]] = [
        ("the study of 2016", {name: dict.fromkeys(("median", "low", "high"), sum(STUDY[name])) for name in STUDY})
    ]
    bars = {name: row["tests"][both]["gbit"] for name, row in document["networks"].items()}
    here = {name: {**bar, "low": bar["min"], "high": bar["max"]} for name, bar in bars.items()}
    groups.append((" to ".join(document["nodes"]), here))
    for path, text in (
        (arguments.save, json.dumps(document, indent=1) + "\n"),
        (arguments.svg, chart.svg(groups, note, ours=("hpcnet", "ib", "vxlan", "direct"))),
    ):
        try:
            if path:
                Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None


def _show(document: Mapping[str, Any]) -> None:
    heads = ["TEST", "NETWORK", "MEDIAN", "FROM", "TO", "UNIT", "P99", "CPU", "RATIO"]
    networks, rows = document["networks"], []
    for test in flow.TESTS:
        for name, network in networks.items():
            row = network["tests"][test]
            key = headline(row)
            more = [
                f"{row[each]['median']:.{digits}f}" if each in row else "-" for each, digits in _COLUMNS.items()
            ]
            figures = [f"{row[key][each]:.2f}" for each in ("median", "min", "max")]
            rows.append([test, name, *figures, flow.HEADLINE[key], *more])
    of = ", ".join(name + (f" (MTU {row['mtu']})" if row["mtu"] else "") for name, row in networks.items())
    print(f"{' to '.join(document['nodes'])}: {of}")
    print_table(heads, rows)
    print("CPU: seconds of both nodes' processors for a Gbit, or a million packets; RATIO: to the first network")
    study = (f"{name} {there:g} / {back:g}" for name, (there, back) in STUDY.items())
    print(f"the study of 2016, both ways, there / back: {', '.join(study)}")
    sys.stdout.flush()


_COLUMNS = {"p99": 0, "processor": 3, "ratio": 2}
