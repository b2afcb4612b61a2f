# SPDX-License-Identifier: Apache-2.0
"""What hpcnet-tui costs: start to first paint, CPU, bytes to the terminal, memory; beside an empty Textual app.

    python tests/bench/tui.py [--seconds 20] [--starts 5]

"shared" is a cluster of 1,000 nodes that 20 jobs share as jobs do; "equal" are 20 jobs of 1,000 nodes each: 20,000
samples every 2 s. The made-up source is in the same process; what it takes alone is printed too, and what it takes
to read the same samples from the lines that real samplers write.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass

EMPTY = """
from textual.app import App
from textual.widgets import Static
class Empty(App):
    def compose(self): yield Static("nothing here")
Empty().run()
"""
TUI = [sys.executable, "-m", "hpcnet.tui.main", "--demo"]
CASES = {
    "empty Textual app": ([sys.executable, "-c", EMPTY], b"nothing here"),
    "shared": ([*TUI, "--nodes", "1000"], b"quit"),
    "equal": ([*TUI, "--nodes", "1000", "--equal"], b"quit"),
}
SOURCE = """
import sys, time
from hpcnet.tui.demo import DemoSource
source = DemoSource(equal=len(sys.argv) > 1)
ids = [job.job_id for job in source.jobs()]
def rounds(first, last):
    for second in range(first, last, 2):
        for sample in source.samples(ids, second): pass
rounds(0, 2)
begin = time.process_time()
rounds(2, 12)
print((time.process_time() - begin) / 5)
"""
READ = """
import time
from hpcnet.counters import wire
from hpcnet.counters.frames import Assembler, frames
from hpcnet.tui.demo import DemoSource
source, assembler = DemoSource(jobs=20, nodes=100, equal=True), Assembler()
ids = [job.job_id for job in source.jobs()]
lines = b"".join(frames(wire.encode(each), each.node, 1) for each in source.samples(ids, 2))
begin = time.process_time()
count = sum(len(assembler.feed(lines[start : start + 65536])) for start in range(0, len(lines), 65536))
print((time.process_time() - begin) / count)
"""


@dataclass(frozen=True)
class Run:
    """What one run took."""

    paint: float
    """Seconds from exec to the first screen on the terminal; of hpcnet-tui, its line of keys."""
    cpu: float = 0.0
    """Share of one core while it ran."""
    sent: float = 0.0
    """Bytes per second to the terminal."""
    memory: float = 0.0
    """Resident, MiB."""


def run(command: Sequence[str], word: bytes, seconds: float) -> Run:
    """Start it in a terminal of 160x50, wait for the word, then watch it for some seconds."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    begin = time.monotonic()
    child = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        seen = b""
        while word not in seen:
            seen += read(master, 60)
        paint = time.monotonic() - begin
        if not seconds:
            return Run(paint)
        drain(master, 6)  # the first samples come, and the caches fill
        ticks, start = cpu_ticks(child.pid), time.monotonic()
        sent = drain(master, seconds)
        took = time.monotonic() - start
        share = (cpu_ticks(child.pid) - ticks) / os.sysconf("SC_CLK_TCK") / took
        return Run(paint, share, sent / took, resident(child.pid))
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        os.close(master)


def read(terminal: int, timeout: float) -> bytes:
    """What comes within the time, at least one byte of it."""
    ready, _, _ = select.select([terminal], [], [], timeout)
    if not ready:
        raise SystemExit(f"nothing came in {timeout:g} s")
    return os.read(terminal, 65536)


def drain(terminal: int, seconds: float) -> int:
    """Bytes that come in this time."""
    count, until = 0, time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            count += len(os.read(terminal, 65536))
    return count


def cpu_ticks(pid: int) -> int:
    """User and system time so far (proc(5))."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident(pid: int) -> float:
    """MiB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def spent(script: str, *words: str) -> float:
    """The seconds that a script prints."""
    command = [sys.executable, "-c", script, *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Run all cases in turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    paints: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.starts):
        for name, (command, word) in CASES.items():
            paints[name].append(run(command, word, 0).paint)
    base = statistics.median(paints["empty Textual app"])
    print(f"{'':<18}{'first paint':>12}{'ratio':>7}{'CPU':>7}{'source':>8}{'KiB/s':>8}{'MiB':>7}")
    for name, (command, word) in CASES.items():
        seen = run(command, word, options.seconds)
        paint = statistics.median(paints[name])
        source = "-"
        if name in ("shared", "equal"):
            source = f"{spent(SOURCE, *(['equal'] if name == 'equal' else [])) / 2:.1%}"
        print(
            f"{name:<18}{paint:>10.2f} s{paint / base:>7.2f}{seen.cpu:>7.1%}{source:>8}"
            f"{seen.sent / 1024:>8.1f}{seen.memory:>7.0f}"
        )
    print(f"to read one sample from a sampler's lines: {spent(READ) * 1e6:.0f} us of a core")


if __name__ == "__main__":
    main()
