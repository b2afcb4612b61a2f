# SPDX-License-Identifier: Apache-2.0
"""``hpcnet stats``: a table, once or changing; a JSON document; a line of JSON for each sample."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from hpcnet.cli.table import print_json, table
from hpcnet.counters import transports, wire
from hpcnet.counters.board import GRACE, Board
from hpcnet.counters.model import Counters, Interface, JobInfo, NodeSample
from hpcnet.counters.rates import UNKNOWN, Rates
from hpcnet.counters.source import Source, Watch
from hpcnet.counters.steps import job_info, refusal, running
from hpcnet.counters.transports import Transport
from hpcnet.counters.troubles import Judge
from hpcnet.errors import SiteError, UserError
from hpcnet.slurm.networks import networks

_ONCE, _LIVE = 1.0, 2.0
"""Seconds between two samples of one table, and of a changing one."""

_HEADS = "JOB NODE DEVICE KIND RX TX RX-PACKETS TX-PACKETS RX-BYTES TX-BYTES ERRORS DROPS NOTE".split()
_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_SHORTEST_LOOK = 0.05  # seconds between two looks at who is silent


class _NothingToShow(Exception):
    """Why there are no counters of a job to be had."""


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 when there are no counters to be had."""
    if sys.stdout is None:
        raise UserError("standard output is closed")
    try:
        source = transports.transport(arguments.transport, arguments.config)
        found = _jobs(arguments, source)
        interval = arguments.watch or (_LIVE if _is_live(arguments) else _ONCE)
        watched = _Watched(source, found, interval)
        try:
            if arguments.watch:
                _stream(watched)
            elif _is_live(arguments):
                _live(watched)
            else:
                _once(watched, arguments.json)
        finally:
            watched.close()
    except _NothingToShow as why:
        print(f"hpcnet: {why}", file=sys.stderr)
        return 1
    return 0


def _is_live(arguments: argparse.Namespace) -> bool:
    return not (arguments.once or arguments.json or arguments.watch) and sys.stdout.isatty()


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _jobs(arguments: argparse.Namespace, source: Transport) -> list[JobInfo]:
    """The jobs to watch. Raises _NothingToShow, naming why, SiteError."""
    wanted, everybody = arguments.job, source.everybodys or os.geteuid() == 0
    if arguments.all and not everybody:
        raise SiteError("--all is for root, and for who may read [agent] token_file")
    if wanted is None:
        mine = not arguments.all and os.geteuid() != 0
        found = [job for job in source.jobs() if not mine or job.user == _me()]
        if not found:
            whose = "of yours " if mine else ""
            raise _NothingToShow(f"no running job {whose}has a network")
        return found
    number = int(wanted.partition("_")[0])
    complaints: list[str] = []
    seen = [
        each
        for each in networks(complaints.append, [number], source.ask)
        if wanted in (str(each.job.id), each.job.array) or str(each.job.array).startswith(f"{wanted}_")
    ]
    if not seen:
        why = complaints[0] if complaints else f"job {wanted} has no network, or Slurm does not know it (any more)"
        raise _NothingToShow(why)
    live = [each for each in seen if running(each)]
    if not live:
        job = seen[0].job
        state = "+".join(sorted(job.states))
        hint = f"; see hpcnet show {wanted}" if job.ended or seen[0].record.reason else ""
        raise _NothingToShow(f"job {wanted} is {state} and has no network now{hint}")
    for each in live:
        if not source.everybodys and refusal(each):
            raise SiteError(refusal(each))
    return [job_info(each) for each in live]


class _Watched:
    """Jobs under observation: samples arrive in a thread of their own, the rest happens in the caller's."""

    def __init__(self, source: Source, found: list[JobInfo], interval: float) -> None:
        self.jobs, self.interval, self.board = found, interval, Board(interval)
        self._queue: queue.SimpleQueue[tuple[float, NodeSample | None]] = queue.SimpleQueue()
        self.now = time.time()
        """All that came until then is on the board: behind the clock where more comes than is taken in time."""
        self._judges = {job.job_id: Judge(job) for job in found}
        for job in found:
            self.board.expect(job.job_id, job.nodes, time.time())
        self._watch: Watch = source.watch([job.job_id for job in found], interval)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for sample in self._watch:
                self._queue.put((time.time(), sample))
        finally:
            self._queue.put((time.time(), None))

    def samples(self, until: float) -> Iterator[NodeSample]:
        """Those that come until a time (time.monotonic), already on the board. EOFError: there are no more."""
        late = False
        while not late:
            try:
                self.now, sample = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self.now = time.time()
                return
            if sample is None:
                raise EOFError
            self.board.take(sample, self.now)
            yield sample
            late = time.monotonic() >= until

    def silent(self, job: JobInfo) -> dict[str, float]:
        """The job's nodes that say nothing, and since when."""
        return self.board.silent(job.job_id, self.now)

    def next_look(self) -> float:
        """When to look who is silent (time.monotonic): as soon as one can be."""
        due = self.board.next_silence(self.now)
        wait = self.interval if due is None else min(due - self.now, self.interval)
        return time.monotonic() + max(_SHORTEST_LOOK, wait)

    def note(self, job: JobInfo, node: str, since: float | None) -> str:
        """What is wrong with a node, silent ``since`` then; drops and errors have columns of their own."""
        if since:
            return f"silent since {time.strftime('%H:%M:%S', time.localtime(since))}"
        older, latest = self.board.pair(job.job_id, node)
        found = self._judges[job.job_id].look(older, latest, UNKNOWN)
        return "; ".join(each.text for each in found) or (latest.problem if latest else "")

    def close(self) -> None:
        """End what was started on the nodes, and see it gone."""
        self._watch.close()
        self._thread.join(2 * _ONCE + 6)


def _stream(watched: _Watched) -> None:
    """A line for each sample, and one when a node falls silent."""
    silent: set[tuple[int, str]] = set()
    try:
        while True:
            for sample in watched.samples(watched.next_look()):
                silent.discard((sample.job_id, sample.node))
                _line(wire.encode(sample, watched.board.rates(sample.job_id, sample.node)))
            for job in watched.jobs:
                for node, since in watched.silent(job).items():
                    if (job.job_id, node) not in silent:
                        silent.add((job.job_id, node))
                        _line({"schema": wire.SCHEMA, "job": job.job_id, "node": node, "silent_since": since})
    except EOFError:
        _say_ended(watched)


def _line(document: dict[str, Any]) -> None:
    print(json.dumps(document, separators=(",", ":")), flush=True)


def _say_ended(watched: _Watched) -> None:
    jobs = ", ".join(job.label for job in watched.jobs)
    print(f"hpcnet: over: {jobs} ended", file=sys.stderr)


def _live(watched: _Watched) -> None:
    """A table that is painted anew every interval, as much of it as the terminal has room for."""
    try:
        while True:
            for _ in watched.samples(time.monotonic() + watched.interval):
                pass
            columns, lines = shutil.get_terminal_size()
            shown = "\n".join(line[:columns] for line in _table(watched, lines))
            print(_HOME_AND_CLEAR + shown, end="", flush=True)
    except EOFError:
        _say_ended(watched)


def _once(watched: _Watched, as_json: bool) -> None:
    """When each node has given two samples, or is given up."""
    deadline = time.monotonic() + GRACE + 2 * watched.interval
    awaited = {(job.job_id, node) for job in watched.jobs for node in job.nodes}
    try:
        while awaited and time.monotonic() < deadline:
            for sample in watched.samples(min(deadline, watched.next_look())):
                older, _ = watched.board.pair(sample.job_id, sample.node)
                if sample.problem or (older and sample.interfaces):
                    awaited.discard((sample.job_id, sample.node))
                    if not awaited:
                        break
            for job in watched.jobs:
                awaited -= {(job.job_id, node) for node in watched.silent(job)}
    except EOFError:
        pass
    board = watched.board
    if not any(board.latest(job.job_id, node) for job in watched.jobs for node in job.nodes):
        why = next(filter(None, (board.problem(job.job_id) for job in watched.jobs)), "no node answers")
        raise _NothingToShow(f"no counters of {', '.join(job.label for job in watched.jobs)}: {why}")
    if as_json:
        print_json({"schema": wire.SCHEMA, "jobs": [_document(watched, job) for job in watched.jobs]})
    else:
        print("\n".join(_table(watched)))


def _document(watched: _Watched, job: JobInfo) -> dict[str, Any]:
    board = watched.board
    seen = [(node, board.latest(job.job_id, node)) for node in job.nodes]
    return {
        "job": job.job_id,
        "array": job.task or None,
        "user": job.user,
        "mode": job.mode,
        "nodes": [wire.encode(latest, board.rates(job.job_id, node)) for node, latest in seen if latest],
        "silent": watched.silent(job),
        "problem": board.problem(job.job_id),
    }


def _table(watched: _Watched, most: int = sys.maxsize) -> list[str]:
    """At most so many lines; the last one tells how much was left out."""
    told = [f"{job.label}: {problem}" for job in watched.jobs if (problem := watched.board.problem(job.job_id))]
    rows = list(islice(_all_rows(watched), most))
    lines = [*table(_HEADS, rows), *told]
    if len(lines) <= most:
        return lines
    told = told[: most // 2]
    rows = rows[: max(0, most - len(told) - 2)]
    nodes = sum(len(job.nodes) for job in watched.jobs)
    some = f"{len({row[:2] for row in rows})} of {nodes} nodes fit in this window; hpcnet-tui shows all"
    return [*table(_HEADS, rows), *told, some]


def _all_rows(watched: _Watched) -> Iterator[tuple[str, ...]]:
    for job in watched.jobs:
        silent = watched.silent(job)
        for node in job.nodes:
            yield from _rows(watched, job, node, silent.get(node))


def _rows(watched: _Watched, job: JobInfo, node: str, since: float | None) -> Iterator[tuple[str, ...]]:
    latest, found = watched.board.latest(job.job_id, node), watched.board.rates(job.job_id, node)
    note = watched.note(job, node, since)
    if latest is None:
        yield (job.label, node, *["-"] * 10, note)
        return
    if not latest.interfaces:
        yield (job.label, node, *["-"] * 10, note)
    for interface in latest.interfaces:
        shown = UNKNOWN if since else found.get(interface.key, UNKNOWN)
        yield (job.label, node, *_cells(interface, shown), note)


def _cells(interface: Interface, shown: Rates) -> Iterator[str]:
    counters: Counters = interface.counters
    yield interface.name or interface.device
    yield interface.kind
    yield _scaled(None if shown.rx_bytes is None else 8 * shown.rx_bytes, "bit/s")
    yield _scaled(None if shown.tx_bytes is None else 8 * shown.tx_bytes, "bit/s")
    yield _scaled(shown.rx_packets, "/s")
    yield _scaled(shown.tx_packets, "/s")
    yield _scaled(counters.rx_bytes, "B")
    yield _scaled(counters.tx_bytes, "B")
    yield _sum(counters.rx_errors, counters.tx_errors)
    yield _sum(counters.rx_dropped, counters.tx_dropped)


def _sum(*parts: int | None) -> str:
    return "-" if None in parts else str(sum(part for part in parts if part is not None))


def _scaled(value: float | None, unit: str) -> str:
    """With a prefix of the SI and three or four digits; "-": not known."""
    if value is None:
        return "-"
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 1000 or prefix == "P":
            break
        value /= 1000
    number = f"{value:.0f}" if prefix == "" or value >= 100 else f"{value:.1f}"
    return f"{number} {prefix}{unit}" if unit != "/s" else f"{number}{prefix}{unit}"
