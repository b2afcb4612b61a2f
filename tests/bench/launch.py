# SPDX-License-Identifier: Apache-2.0
"""What a network costs at job launch: ``srun -N3 true`` in a lab, without and with --network=ib.

    python -m tests.bench.launch [--runs 15] [--nodes 3] [--json]

Both are measured in one lab and one run, in turns, each when all nodes are idle again; alice's waiting time on the
login node is what counts. A lab's daemons share one machine's processors, so only the ratio says something about
a cluster. Slurm's daemons start each hook through a script that writes down how long it took: what they wait for.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from typing import Any

from hpcnet.errors import HpcnetError
from hpcnet.lab.cluster import Lab
from hpcnet.lab.layout import CONTROLLER, PREFIX, node_names
from tests.bench import measure

_HOOKS = {"Prolog": "prolog", "Epilog": "epilog", "PrologSlurmctld": "prolog_slurmctld"}

_TIMES = "/var/log"

# Started by slurmd, or slurmctld, instead of the hook; bash reads the clock without a process.
_TIMING = """\
#!/bin/bash
begin=$EPOCHREALTIME
{prefix}/libexec/hpcnet/{hook}
code=$?
echo "$(( ${{EPOCHREALTIME/./}} - ${{begin/./}} ))" >> {times}/bench-{hook}
exit $code
"""

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
        seconds, hooks, requests = times_of(arguments.runs, arguments.nodes)
    except HpcnetError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    document = {**report(seconds, arguments.nodes), "hooks_ms": hooks, **requests}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    return 0


def times_of(runs: int, nodes: int) -> tuple[dict[str, list[float]], dict[str, Any], dict[str, Any]]:
    """Seconds of each run, by kind: ``plain`` and ``network``; milliseconds of hooks that did something, as Slurm
    sees it; and what slurmctld was asked, a job, with a network and without.
    """
    plain = ["srun", f"-N{nodes}", "true"]
    commands = {"plain": plain, "network": [*plain[:-1], "--network=ib", "true"]}
    with measure.lab(nodes=nodes) as lab:
        alone = {name: _requests(lab, name, command, min(runs, 5)) for name, command in commands.items()}
        _time_hooks(lab, nodes)
        seconds = _measured(lab, commands, runs)
        hooks = {hook: _hook_times(lab, hook, nodes) for hook in _HOOKS.values()}
    types = sorted({*alone["plain"], *alone["network"]})
    more = {name: alone["network"].get(name, 0.0) - alone["plain"].get(name, 0.0) for name in types}
    return (
        seconds,
        hooks,
        {
            "requests_per_job": alone,
            "requests_more_with_a_network": {name: count for name, count in more.items() if abs(count) >= 0.5},
            "updates_per_network": alone["network"].get("REQUEST_UPDATE_JOB", 0.0),
        },
    )


def _measured(lab: Lab, commands: dict[str, list[str]], runs: int) -> dict[str, list[float]]:
    argv = ["/usr/bin/python3", "-Ic", _MEASURE, str(runs), json.dumps(commands)]
    seconds: dict[str, list[float]] = json.loads(
        lab.run("login", argv, user="alice", timeout=60 + 20 * runs).stdout
    )
    return seconds


def _requests(lab: Lab, name: str, command: list[str], runs: int) -> dict[str, float]:
    """By type: what slurmctld was asked a job while only such ran; what asks whether all is idle left out."""
    before = _counts(lab)
    _measured(lab, {name: command}, runs)
    after = _counts(lab)
    found = {kind: (count - before.get(kind, 0)) / (runs + 1) for kind, count in after.items()}
    return {kind: count for kind, count in found.items() if count >= 0.5 and kind not in _ASKED_BY_THE_BENCH}


_ASKED_BY_THE_BENCH = {"REQUEST_JOB_INFO", "REQUEST_STATS_INFO"}


def _counts(lab: Lab) -> dict[str, int]:
    said = lab.run(CONTROLLER, ["sdiag"]).stdout
    return {kind: int(count) for kind, count in re.findall(r"((?:REQUEST|MESSAGE)_\w+)\s.*count:([0-9]+)", said)}


def _time_hooks(lab: Lab, nodes: int) -> None:
    """Let Slurm start the timing scripts."""
    hosts = [CONTROLLER, *node_names(nodes)]
    for hook in _HOOKS.values():
        text = _TIMING.format(prefix=PREFIX, hook=hook, times=_TIMES)
        files = f"cat > /run/bench-{hook}; chmod 755 /run/bench-{hook}; > {_TIMES}/bench-{hook}"
        for host in hosts:  # slurmctld's own user runs PrologSlurmctld
            lab.run(host, ["sh", "-ec", f"{files}; chmod 666 {_TIMES}/bench-{hook}"], stdin=text)
    lab.configure(slurm={key: f"/run/bench-{hook}" for key, hook in _HOOKS.items()})
    lab.await_idle()


def _hook_times(lab: Lab, hook: str, nodes: int) -> dict[str, float]:
    """Of those that built or removed a network: a hook of a job that did not ask takes next to nothing."""
    hosts = [CONTROLLER] if hook == "prolog_slurmctld" else node_names(nodes)
    times = [
        int(line) / 1e3
        for host in hosts
        for line in lab.run(host, ["cat", f"{_TIMES}/bench-{hook}"]).stdout.split()
    ]
    return measure.spread([each for each in times if each >= 10.0] or [0.0])


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
    for name, found in document["hooks_ms"].items():
        quartiles = f"{found['low']:.1f} to {found['high']:.1f}"
        print(f"{name:<18} as Slurm waits for it: median {found['median']:.1f} ms, {quartiles}")
    more = document["requests_more_with_a_network"]
    print(f"what slurmctld is asked more for a network, a job: {more or 'nothing'}")


if __name__ == "__main__":
    sys.exit(main())
