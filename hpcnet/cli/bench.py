# SPDX-License-Identifier: Apache-2.0
"""``srun -N2 -n2 --network=ib hpcnet bench``: what a step's network carries between two nodes, by iperf3 and ping.

Both tasks run it: the second one serves until the first, which measures and prints, hangs up. Without a network of
the job it measures the nodes' own fabric; ``--compare`` puts two such answers beside each other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcnet import config, fabric, nodelist
from hpcnet.cli.table import print_json, print_table
from hpcnet.errors import NodeError, UserError

TESTS: Mapping[str, tuple[str, ...]] = {
    "one way": (),
    "both ways": ("--bidir",),
    "one way, 8 streams": ("-P", "8"),
    "both ways, 8 streams": ("-P", "8", "--bidir"),
    "small packets": ("-u", "-b", "0", "-l", "64"),
}
"""iperf3's arguments of each."""

ROUND_TRIP = "round trip"
HEADLINE = {"gbit": "Gbit/s", "kpackets": "1000 packets/s", "median": "us"}
"""The figure of a test that counts, and its unit."""

_PORT = 21077
_PATIENCE = 60.0  # seconds for the other task to be there


def run(arguments: argparse.Namespace) -> int:
    """``hpcnet bench``. Raises UserError, NodeError."""
    near, far = _places(os.environ)
    if shutil.which("iperf3") is None:
        raise NodeError(f"iperf3 is not installed on {socket.gethostname()}")
    older = _read(arguments.compare) if arguments.compare else None
    inside = _is_inside(os.environ.get("HPCNET_ADDRESS", ""))
    address = _address(far, inside, arguments.config)
    if os.environ["SLURM_PROCID"] != "0":
        _serve(address)
        return 0
    with _server(address, far):
        found = _measure(address, arguments.seconds, arguments.rounds)
    document = {
        "network": os.environ.get("HPCNET_MODE", "") if inside else "host",
        "mtu": int(os.environ["HPCNET_MTU"]) if inside else None,
        "nodes": [near, far],
        "tests": found,
    }
    if arguments.json:
        print_json(document)
    else:
        _show(document, older)
    return 0


def _places(environment: Mapping[str, str]) -> tuple[str, str]:
    """The two nodes of the step. Raises UserError when it is no step of two tasks on two nodes."""
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    if "SLURM_PROCID" not in environment or environment.get("SLURM_STEP_NUM_TASKS") != "2":
        raise UserError("bench is a step of two tasks: srun -N2 -n2 --network=ib hpcnet bench")
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
    """iperf3 listens for as long as the other task holds a connection."""
    with socket.create_server((address, _PORT)) as listener:
        listener.settimeout(_PATIENCE)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            raise NodeError(f"the other task did not come to {address} within {_PATIENCE:.0f} s") from None
    command = ["iperf3", "-s", "-B", address, "-p", str(_PORT + 1)]
    with connection, subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            connection.recv(1)
        finally:
            server.kill()


@contextlib.contextmanager
def _server(address: str, node: str) -> Any:
    late = time.monotonic() + _PATIENCE
    while True:
        try:
            connection = socket.create_connection((address, _PORT), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > late:
                raise NodeError(f"the other task, on {node}, is not reached at {address}: {error}") from None
        time.sleep(0.1)
    with connection:
        yield


def _measure(address: str, seconds: int, rounds: int) -> dict[str, Any]:
    """All tests in turns; of each figure the median, the least and the most."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*TESTS, ROUND_TRIP)}
    for _ in range(rounds):
        for name, options in TESTS.items():
            command = ["iperf3", "-c", address, "-p", str(_PORT + 1), "-J", "-t", str(seconds), *options]
            found[name].append(figures(name, _iperf3(command)))
        ping = subprocess.run(ping_command(address), capture_output=True, text=True, check=False)
        found[ROUND_TRIP].append(round_trip(ping.stdout, ping.stderr))
    return {
        name: {
            key: {
                "median": round(statistics.median(each[key] for each in runs), 4),
                "min": round(min(each[key] for each in runs), 4),
                "max": round(max(each[key] for each in runs), 4),
            }
            for key in runs[0]
        }
        for name, runs in found.items()
    }


def _iperf3(command: list[str]) -> dict[str, Any]:
    """Its answer; a server that is not there yet, or still busy with the last one, is asked again."""
    for _ in range(10):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answer: dict[str, Any] = json.loads(done.stdout or "{}")
        if "error" not in answer and "end" in answer:
            return answer
        time.sleep(0.3)
    raise NodeError(f"iperf3: {answer.get('error') or done.stderr.strip() or 'no answer'}")


def figures(test: str, answer: Mapping[str, Any]) -> dict[str, float]:
    """Of iperf3's JSON: Gbit/s ``there``, ``back`` and in all, and seconds of processor for each Gbit, which are
    those of iperf3's two ends with the kernel's work that is charged to them; or thousands of packets a second.
    """
    end = answer["end"]
    if test == "small packets":
        total = end["sum"]
        return {"kpackets": (total["packets"] - total["lost_packets"]) / total["seconds"] / 1e3}
    there = end["sum_received"]["bits_per_second"] / 1e9
    found = {"gbit": there}
    if "sum_received_bidir_reverse" in end:
        back = end["sum_received_bidir_reverse"]["bits_per_second"] / 1e9
        found = {"gbit": there + back, "there": there, "back": back}
    used = end["cpu_utilization_percent"]
    found["processor"] = (used["host_total"] + used["remote_total"]) / 100 / max(found["gbit"], 1e-9)
    return found


def ping_command(address: str) -> list[str]:
    """500 round trips, each as soon as the last one is back."""
    return ["ping", "-n", "-A", "-c", "500", "-w", "10", address]


def round_trip(text: str, complaint: str) -> dict[str, float]:
    """Microseconds, of ping's output: the median and what 99 of 100 do not exceed. Raises NodeError."""
    times = sorted(1e3 * float(found) for found in re.findall(r"time=([0-9.]+) ms", text))
    if not times:
        raise NodeError(f"ping: {' '.join((complaint or text).split())[-200:] or 'no answer'}")
    return {"median": statistics.median(times), "p99": times[int(0.99 * (len(times) - 1))]}


def headline(row: Mapping[str, Any]) -> str:
    """Which figure of a test counts: a key of HEADLINE."""
    return next(key for key in HEADLINE if key in row)


def _read(path: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if set(document["tests"]) != {*TESTS, ROUND_TRIP}:
            raise ValueError(path)
        return document
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no answer of hpcnet bench --json") from None


def _show(document: Mapping[str, Any], older: Mapping[str, Any] | None) -> None:
    heads = ["TEST", "MEDIAN", "FROM", "TO", "UNIT"]
    if older:
        heads += [str(older["network"]).upper(), "RATIO"]
    rows = []
    for test, row in document["tests"].items():
        key = headline(row)
        cells = [test, *(f"{row[key][each]:.2f}" for each in ("median", "min", "max")), HEADLINE[key]]
        if older:
            theirs = older["tests"][test][key]["median"]
            cells += [f"{theirs:.2f}", f"{row[key]['median'] / theirs:.2f}" if theirs else "-"]
        rows.append(cells)
    network = document["network"] + (f", MTU {document['mtu']}" if document["mtu"] else "")
    print(f"{document['nodes'][0]} to {document['nodes'][1]}, {network}")
    print_table(heads, rows)
    sys.stdout.flush()
