# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: commands timed in turns, medians with their spread, and the machine beneath.

Everything that is compared is measured in turns in one run: other work on the machine then falls on all alike. A
ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcnet.lab.cluster import Lab, Options

# Runs on a host: the groups of commands of stdin's JSON one after the other, round by round, each round beginning
# with another group. Prints for each command its wall clock and processor milliseconds (its own, its children's)
# of every round; a first round only fills caches. Before each command nothing happens for PAUSE seconds, so that
# none pays for what the one before left to the kernel.
TIMED = """
import json, os, sys, tempfile, time
work = json.load(sys.stdin)
said = tempfile.TemporaryFile("w+")
quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
groups = work["groups"]
found = {case["name"]: {"wall": [], "cpu": []} for group in groups for case in group}
for number in range(work["rounds"] + 1):
    turn = 3 * number % len(groups)
    for case in [case for group in groups[turn:] + groups[:turn] for case in group]:
        time.sleep(work["pause"])
        env = {key: value.replace("@ROUND@", str(number)) for key, value in case.get("env", {}).items()}
        argv = case["argv"]
        begin = time.perf_counter()
        process = os.posix_spawn(argv[0], argv, env, file_actions=quiet)
        _, status, used = os.wait4(process, 0)
        end = time.perf_counter()
        if status:
            said.seek(0)
            sys.exit(f"{case['name']}: status {status}: {said.read()[-2000:]}")
        if number:
            found[case["name"]]["wall"].append(round(1000 * (end - begin), 3))
            found[case["name"]]["cpu"].append(round(1000 * (used.ru_utime + used.ru_stime), 3))
print(json.dumps(found))
"""


PAUSE = 0.06  # the kernel frees devices some 45 ms after their namespace


@contextmanager
def lab(**options: Any) -> Iterator[Lab]:
    """A lab of the benchmark's own, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="hpcnet-bench-", dir="/var/tmp") as directory:
        made = Lab.at(Path(directory) / "lab")
        try:
            made.up(Options(**options))
            yield made
        finally:
            made.down()


class Pair:
    """Two ends of :mod:`hpcnet.cli.flow`, each a process; ``near`` and ``far`` come before their command lines.

    They stay, so that a test costs no start of a program, until ``close``.
    """

    def __init__(self, near: Sequence[str], far: Sequence[str], address: str, port: int) -> None:
        words = [address, str(port)]
        self._far = subprocess.Popen([*far, "far", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._near = subprocess.Popen(
            [*near, "near", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, test: str, seconds: float) -> dict[str, float]:
        """As :meth:`hpcnet.cli.flow.Near.measure`."""
        assert self._near.stdin is not None and self._near.stdout is not None
        self._near.stdin.write(f"{test} {seconds}\n")
        self._near.stdin.flush()
        line = self._near.stdout.readline()
        if not line:
            raise SystemExit("bench: an end of the measuring went away; what it said stands above")
        found: dict[str, float] = json.loads(line)
        return found

    def close(self) -> None:
        """End both."""
        self._near.communicate()
        self._far.kill()
        self._far.wait()


def in_turns(
    pairs: Mapping[str, Pair], seconds: Mapping[str, float], rounds: int
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """By name of a pair and of a test: each round's figures. Each round begins with another pair, every other one
    goes the other way round: whoever comes first, or behind a heavy one, is not always the same.
    """
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {test: [] for test in seconds} for name in pairs}
    names = list(pairs)
    for number in range(rounds):
        turn = 3 * number % len(names)
        order = names[turn:] + names[:turn]
        for test, duration in seconds.items():
            for name in order[:: -1 if number % 2 else 1]:
                found[name][test].append(pairs[name].measure(test, duration))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and the least, of any unit."""
    low, middle, high = (
        statistics.quantiles(values, n=4)
        if len(values) > 3
        else (min(values), statistics.median(values), max(values))
    )
    return {
        "median": round(middle, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "min": round(min(values), 3),
        "n": len(values),
    }


def ratio(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The rounds' own ratios: what slows one round slows both of its sides."""
    return spread([value / reference for value, reference in zip(values, base)])


def machine() -> dict[str, Any]:
    """What every figure depends on; the load is the last minute's, this benchmark's own work included."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "kernel": platform.release(),
        "processor": model,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }
