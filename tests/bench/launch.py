# SPDX-License-Identifier: Apache-2.0
"""What a network costs at job launch: ``srun -N3 true`` in a lab, without and with --network=ib.

    python tests/bench/launch.py [--runs 15] [--nodes 3] [--json]

Both are measured in one lab and one run, in turns, each when all nodes are idle again; alice's waiting time on the
login node is what counts. A lab's daemons share one machine's processors, so only the ratio says something about
a cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from hpcnet.errors import HpcnetError
from hpcnet.lab.cluster import Lab, Options

# Runs on the login node as alice; waits until the Epilogs of the run before have ended.
_MEASURE = """
import json, subprocess, sys, time
runs, commands = int(sys.argv[1]), json.loads(sys.argv[2])
seconds = {name: [] for name in commands}
for run in range(runs + 1):
    for name, command in commands.items():
        while subprocess.run(["squeue", "-h"], stdout=subprocess.PIPE, check=True).stdout:
            time.sleep(0.02)
        time.sleep(0.1)
        begin = time.monotonic()
        subprocess.run(command, check=True)
        # The first of each fills caches.
        if run:
            seconds[name].append(time.monotonic() - begin)
print(json.dumps(seconds))
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The cost of a network at job launch, in a lab of its own.")
    parser.add_argument("--runs", type=int, default=15, help="of each kind (default 15)")
    parser.add_argument("--nodes", type=int, default=3, help="of the lab and of each job (default 3)")
    parser.add_argument("--json", action="store_true", help="every single time, on stdout")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs: at least 1")
    try:
        seconds = measure(arguments.runs, arguments.nodes)
    except HpcnetError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    document = report(seconds, arguments.nodes)
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    return 0


def measure(runs: int, nodes: int) -> dict[str, list[float]]:
    """Seconds of each run, by kind: ``plain`` and ``network``."""
    plain = ["srun", f"-N{nodes}", "true"]
    commands = {"plain": plain, "network": [*plain[:-1], "--network=ib", "true"]}
    argv = ["/usr/bin/python3", "-Ic", _MEASURE, str(runs), json.dumps(commands)]
    with tempfile.TemporaryDirectory(prefix="hpcnet-bench-", dir="/var/tmp") as directory:
        lab = Lab.at(Path(directory) / "lab")
        try:
            lab.up(Options(nodes=nodes))
            done = lab.run("login", argv, user="alice", timeout=60 + 20 * runs)
        finally:
            lab.down()
    seconds: dict[str, list[float]] = json.loads(done.stdout)
    return seconds


def report(seconds: dict[str, list[float]], nodes: int) -> dict[str, Any]:
    """The times in milliseconds, their medians and the ratio, with what they depend on."""
    times = {name: [round(1000 * value, 1) for value in values] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "nodes": nodes,
        "ms": times,
        "median_ms": medians,
        "ratio": round(medians["network"] / medians["plain"], 3),
        "machine": {
            "kernel": platform.release(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
        },
    }


def show(document: dict[str, Any]) -> None:
    """For people."""
    machine, nodes = document["machine"], document["nodes"]
    print(f"srun -N{nodes} true, one lab, in turns; {machine['processors']} processors, Linux {machine['kernel']}")
    for name, label in (("plain", "without a network"), ("network", "--network=ib")):
        times = document["ms"][name]
        median = document["median_ms"][name]
        print(
            f"{label:<18} median {median:7.1f} ms   min {min(times):7.1f}   max {max(times):7.1f}   n={len(times)}"
        )
    extra = document["median_ms"]["network"] - document["median_ms"]["plain"]
    print(f"ratio {document['ratio']:.2f}, {extra:.0f} ms more")


if __name__ == "__main__":
    sys.exit(main())
