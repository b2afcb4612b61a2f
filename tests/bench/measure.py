# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: commands timed in turns, medians with their spread, and the machine beneath.

Everything that is compared is measured in turns in one run: other work on the machine then falls on all alike. A
ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcnet.lab.cluster import Lab, Options

# Runs on a host: the commands of stdin's JSON one after the other, round by round. Prints for each its wall clock
# and processor milliseconds (its own and its children's) of every round; a first round only fills caches.
TIMED = """
import json, os, sys, tempfile, time
work = json.load(sys.stdin)
said = tempfile.TemporaryFile("w+")
quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
found = {case["name"]: {"wall": [], "cpu": []} for case in work["cases"]}
for number in range(work["rounds"] + 1):
    for case in work["cases"]:
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
        time.sleep(case.get("pause", 0))
print(json.dumps(found))
"""


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


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and the least, of any unit."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
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
