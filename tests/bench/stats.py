# SPDX-License-Identifier: Apache-2.0
"""What ``hpcnet stats`` costs: 20 jobs of 1,000 nodes each, of the made-up source in its process.

    python tests/bench/stats.py [--nodes 1000] [--jobs 20] [--seconds 20]

``--once`` and ``--json``: seconds until the answer and of a processor, and rows without rates. ``--watch 2``:
share of a processor, what the source takes alone, and lines a second.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

_STATS = """
import sys
from hpcnet.cli.commands import main
from hpcnet.counters import transports
from hpcnet.tui.demo import DemoSource
jobs, nodes, *words = sys.argv[1:]
source = DemoSource(jobs=int(jobs), nodes=int(nodes), equal=True)
source.everybodys = True
transports.transport = lambda name, config: source
sys.exit(main(["stats", "--all", *words]))
"""
_SOURCE = """
import sys, time
from hpcnet.tui.demo import DemoSource
jobs, nodes = map(int, sys.argv[1:])
source = DemoSource(jobs=jobs, nodes=nodes, equal=True)
ids = [job.job_id for job in source.jobs()]
for second in (0, 2, 4, 6, 8, 10):
    if second == 2: begin = time.process_time()
    for sample in source.samples(ids, second): pass
print((time.process_time() - begin) / 5 / 2)
"""


@dataclass(frozen=True)
class Answer:
    """What one run took, seconds."""

    wall: float
    cpu: float
    text: str


def once(words: Sequence[str], jobs: int, nodes: int) -> Answer:
    """Run ``hpcnet stats`` to its end."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _STATS, str(jobs), str(nodes), *words], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Answer(time.monotonic() - begin, cpu, done.stdout)


def watch(jobs: int, nodes: int, seconds: float) -> tuple[float, float]:
    """Share of a processor and lines a second of ``--watch 2``, read by somebody who keeps up."""
    child = subprocess.Popen(
        [sys.executable, "-c", _STATS, str(jobs), str(nodes), "--watch", "2"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        _lines(child.stdout.fileno(), 4)
        ticks, begin = _cpu_ticks(child.pid), time.monotonic()
        lines = _lines(child.stdout.fileno(), seconds)
        took = time.monotonic() - begin
        return (_cpu_ticks(child.pid) - ticks) / os.sysconf("SC_CLK_TCK") / took, lines / took
    finally:
        child.kill()
        child.wait()


def _lines(pipe: int, seconds: float) -> int:
    count, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        count += os.read(pipe, 1 << 16).count(b"\n")
    return count


def _cpu_ticks(pid: int) -> int:
    """User and system time so far (proc(5))."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def main() -> None:
    """Run each once and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    for words in (["--once"], ["--json"]):
        seen = once(words, options.jobs, options.nodes)
        unknown = sum(line.split()[4:6] == ["-", "-"] for line in seen.text.splitlines())
        lacking = f", {unknown} rows without rates" if words == ["--once"] else ""
        print(f"{words[0]:<8} {seen.wall:6.1f} s, {seen.cpu:6.1f} s of a processor{lacking}")
    share, lines = watch(options.jobs, options.nodes, options.seconds)
    command = [sys.executable, "-c", _SOURCE, str(options.jobs), str(options.nodes)]
    source = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"--watch 2 {share:6.1%} of a processor ({source:.1%} of it the source's), {lines:.0f} lines a second")


if __name__ == "__main__":
    main()
