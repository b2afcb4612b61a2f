# SPDX-License-Identifier: Apache-2.0
"""What a network costs at job launch: ``srun -N3 true`` in a lab, without and with --network=ib.

    python -m tests.bench.launch [--runs 15] [--nodes 3] [--json]

Both are measured in one lab and one run, in turns, each when all nodes are idle again; alice's waiting time on the
login node is what counts. A lab's daemons share one machine's processors, so only the ratio says something about
a cluster.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from typing import Any

from hpcnet.errors import HpcnetError
from hpcnet.lab.layout import CONTROLLER
from tests.bench import measure

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
        seconds, updates = times_of(arguments.runs, arguments.nodes)
    except HpcnetError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    document = {**report(seconds, arguments.nodes), "updates_per_network": updates}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    return 0


def times_of(runs: int, nodes: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each run, by kind: ``plain`` and ``network``; updates that slurmctld was asked for, a network."""
    plain = ["srun", f"-N{nodes}", "true"]
    commands = {"plain": plain, "network": [*plain[:-1], "--network=ib", "true"]}
    argv = ["/usr/bin/python3", "-Ic", _MEASURE, str(runs), json.dumps(commands)]
    with measure.lab(nodes=nodes) as lab:
        done = lab.run("login", argv, user="alice", timeout=60 + 20 * runs)
        requests = lab.run(CONTROLLER, ["sdiag"]).stdout
    seconds: dict[str, list[float]] = json.loads(done.stdout)
    # Nothing else updates a record in this lab; a job without a network has none.
    found = re.search(r"REQUEST_UPDATE_JOB\s.*count:([0-9]+)", requests)
    return seconds, int(found[1]) / (runs + 1) if found else 0.0


def report(seconds: dict[str, list[float]], nodes: int) -> dict[str, Any]:
    """The times in milliseconds, their medians and the ratio, with what they depend on."""
    times = {name: [round(1000 * value, 1) for value in values] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "nodes": nodes,
        "ms": times,
        "median_ms": medians,
        "ratio": measure.ratio(seconds["network"], seconds["plain"]),
        "machine": measure.machine(),
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
    print(f"ratio {document['ratio']['median']:.2f} (median of the rounds' own), {extra:.0f} ms more")
    print(f"updates of a record that slurmctld was asked for: {document['updates_per_network']:g} a network")


if __name__ == "__main__":
    sys.exit(main())
