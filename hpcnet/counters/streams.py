# SPDX-License-Identifier: Apache-2.0
"""A watch over programs that write frames: srun steps, ssh connections. One thread, no more than its iterator's.

Each program is started anew when it ends and its jobs have not, sooner at first, later every RETRY_MOST seconds;
and when it has lost all of its nodes, which say nothing any more. When it has lost some, who says what is to run
is told, and may name another program for them: the rest is not disturbed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Callable

from hpcnet.counters import tether
from hpcnet.counters.board import PATIENCE
from hpcnet.counters.frames import Assembler
from hpcnet.counters.model import NodeSample
from hpcnet.counters.sampler import BEAT, LIFETIME
from hpcnet.errors import HpcnetError
from hpcnet.slurm.jobs import environment

RETRY_FIRST, RETRY_MOST = 1.0, 30.0
"""Seconds before a program that ended is started again."""

LOST = LIFETIME + BEAT
"""Seconds, beside the intervals that make it silent, until a node is lost: by then its sampler has ended."""

_PATIENCE = 3.0  # seconds that a program may take to end by itself
_COMPLAINT = 2000  # bytes kept of what a program says on standard error


@dataclass(frozen=True)
class Target:
    """One program to run, and which samples it may give."""

    job_ids: frozenset[int]
    nodes: frozenset[str]
    command: tuple[str, ...] = ()
    problem: str = ""
    """Why there is nothing to run: its jobs are not watched."""
    node: str = ""
    """The one node that it speaks for, whatever that calls itself; empty: each sample names one of ``nodes``."""
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    """As whom root runs it; None: as the caller."""


Targets = Callable[[frozenset[int], Mapping[str, frozenset[str]]], Mapping[str, Target]]
"""What to run for some jobs, by a name that stays; jobs that are over are in none. It is told by these names which
nodes the running ones have lost. May raise HpcnetError."""


class _Stream:
    """A running program."""

    def __init__(self, target: Target) -> None:
        self.target, self.assembler, self.complaint = target, Assembler(), b""
        self.heard = dict.fromkeys(target.nodes, time.monotonic())
        """When each node spoke last; first, when it was started."""
        as_whom = {} if target.uid is None else _identity(target)
        self.process = subprocess.Popen(
            tether.command(target.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env={**environment(), **_of_ssh()},
            start_new_session=True,  # Ctrl-C is the viewer's alone
            **as_whom,  # type: ignore[call-overload]
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        os.set_blocking(self.stdin.fileno(), False)
        self.lock = threading.Lock()

    def beat(self) -> None:
        """Tell its samplers that somebody watches."""
        with self.lock, contextlib.suppress(BlockingIOError, BrokenPipeError, ValueError):
            self.stdin.write(b"\n")

    def hang_up(self) -> None:
        """Tell them that nobody does any more: they end, and with them the program."""
        with self.lock, contextlib.suppress(OSError):
            self.stdin.close()

    def end(self) -> None:
        """Wait for that, and see to it."""
        self.hang_up()
        # srun blocks on a pipe that nobody reads: its ends go first
        self.stdout.close()
        self.stderr.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                self.process.wait(_PATIENCE)
                return
            except subprocess.TimeoutExpired:
                self.process.send_signal(number)
        self.process.wait()


def _of_ssh() -> dict[str, str]:
    """With which the caller may log in elsewhere."""
    return {name: os.environ[name] for name in ("SSH_AUTH_SOCK", "KRB5CCNAME") if name in os.environ}


def _identity(target: Target) -> dict[str, object]:
    return {"user": target.uid, "group": target.gid, "extra_groups": list(target.groups)}


class Streams:
    """The watch; see hpcnet.counters.source.Watch."""

    def __init__(
        self,
        targets: Targets,
        job_ids: Iterable[int],
        interval: float = 0.0,
        may_ask: Callable[[], float] = time.monotonic,
    ) -> None:
        """``may_ask``: when ``targets`` gives a new answer (time.monotonic)."""
        self._targets, self._wanted, self._may_ask = targets, frozenset(job_ids), may_ask
        self._patience = LOST + PATIENCE * interval
        self._lost: dict[str, frozenset[str]] = {}
        self._streams: dict[str, _Stream] = {}
        self._changed, self._closed = True, False
        self._retries: dict[str, float] = {}
        self._due: float | None = None
        self._lock = threading.Lock()
        self._wake_read = self._wake_write = -1  # a pipe while somebody iterates

    def follow(self, job_ids: Iterable[int]) -> None:
        """Watch these jobs from now on."""
        wanted = frozenset(job_ids)
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted, self._changed = wanted, True
        self._wake()

    def close(self) -> None:
        """End all programs; those that run are told at once, also when nobody iterates."""
        self._closed = True
        for stream in list(self._streams.values()):
            stream.hang_up()
        self._wake()

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._wake_write >= 0:
                os.write(self._wake_write, b"\n")

    def __iter__(self) -> Iterator[NodeSample]:
        """Each sample as it comes; programs run while this does."""
        selector = selectors.DefaultSelector()
        with self._lock:
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        selector.register(self._wake_read, selectors.EVENT_READ)
        beat = time.monotonic()
        try:
            while not self._closed:
                now = time.monotonic()
                if self._changed or (self._due is not None and now >= self._due):
                    yield from self._reconcile(selector)
                    if not self._streams and self._due is None:
                        return
                if now >= beat:
                    beat = now + BEAT
                    for stream in self._streams.values():
                        stream.beat()
                    self._look_for_lost(selector, now - self._patience)
                wait = min(beat, self._due or beat) - time.monotonic()
                for key, _ in selector.select(max(0.0, wait)):
                    yield from self._read(selector, key)
        finally:
            self._closed = True
            streams = list(self._streams.values())
            for stream in streams:
                stream.hang_up()
            for stream in streams:
                stream.end()
            selector.close()
            with self._lock:
                os.close(self._wake_read)
                os.close(self._wake_write)
                self._wake_read = self._wake_write = -1

    def _reconcile(self, selector: selectors.BaseSelector) -> Iterator[NodeSample]:
        """Start what is to run and does not, end what runs and is not to."""
        with self._lock:
            wanted, self._changed = self._wanted, False
        self._due = None
        try:
            targets = self._targets(wanted, self._lost) if wanted else {}
        except HpcnetError as error:
            self._retry("")
            yield from problems(wanted, str(error))
            return
        self._retries.pop("", None)
        for name in [name for name in self._streams if name not in targets]:
            self._stop(selector, name)
        for name, target in targets.items():
            if target.problem:
                yield from problems(target.job_ids, target.problem)
            elif name not in self._streams:
                yield from self._start(selector, name, target)
            elif target.command != self._streams[name].target.command:
                self._stop(selector, name)
                yield from self._start(selector, name, target)
            else:
                self._streams[name].target = target
        if self._lost:  # Slurm may not reach them yet
            self._look_again(time.monotonic() + RETRY_MOST)

    def _look_for_lost(self, selector: selectors.BaseSelector, heard: float) -> None:
        """Of which nodes nothing was heard since then."""
        lost = {}
        for name, stream in list(self._streams.items()):
            silent = frozenset(node for node, last in stream.heard.items() if last <= heard)
            if silent == stream.target.nodes:
                stream.process.kill()  # it may not notice anything any more
                self._stop(selector, name)
                self._retry(name)
            elif silent:
                lost[name] = silent
        if lost != self._lost:
            self._lost = lost
            self._look_again(time.monotonic())

    def _start(self, selector: selectors.BaseSelector, name: str, target: Target) -> Iterator[NodeSample]:
        try:
            stream = _Stream(target)
        except OSError as error:
            self._retry(name)
            yield from problems(target.job_ids, f"no process can be started: {error.strerror}")
            return
        self._streams[name] = stream
        selector.register(stream.stdout, selectors.EVENT_READ, name)
        selector.register(stream.stderr, selectors.EVENT_READ, name)
        stream.beat()

    def _stop(self, selector: selectors.BaseSelector, name: str) -> _Stream:
        stream = self._streams.pop(name)
        for pipe in (stream.stdout, stream.stderr):
            with contextlib.suppress(KeyError):
                selector.unregister(pipe)
        stream.end()
        return stream

    def _read(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> Iterator[NodeSample]:
        if key.data is None:
            os.read(self._wake_read, 4096)
            return
        stream = self._streams.get(key.data)
        if stream is None or key.fileobj not in (stream.stdout, stream.stderr):
            return
        data = os.read(key.fd, 1 << 16)
        if key.fileobj is stream.stderr:
            stream.complaint = (stream.complaint + data)[-_COMPLAINT:]
            if not data:
                selector.unregister(stream.stderr)
        elif data:
            for sample in stream.assembler.feed(data):
                if stream.target.node:
                    sample = sample._replace(node=stream.target.node)
                if sample.job_id in stream.target.job_ids and sample.node in stream.target.nodes:
                    self._retries.pop(key.data, None)
                    stream.heard[sample.node] = time.monotonic()
                    yield sample
        else:
            yield from self._ended(selector, key.data)

    def _ended(self, selector: selectors.BaseSelector, name: str) -> Iterator[NodeSample]:
        """Ask again what is to run: its jobs may be over. If they are not, it starts again after a while."""
        stream = self._streams[name]
        with contextlib.suppress(OSError, ValueError):
            os.set_blocking(stream.stderr.fileno(), False)
            stream.complaint += os.read(stream.stderr.fileno(), _COMPLAINT)
        self._stop(selector, name)
        self._retry(name)
        why = _last_line(stream.complaint) or f"{stream.target.command[0]} ended"
        # of one of several programs the board says that its nodes are silent
        well = frozenset().union(*(each.target.job_ids for each in self._streams.values()))
        yield from problems(stream.target.job_ids - well, why)

    def _retry(self, name: str) -> None:
        """Look again after a time that grows with each failure in a row."""
        pause = self._retries[name] = min(RETRY_MOST, 2 * self._retries.get(name, RETRY_FIRST / 2))
        self._look_again(max(time.monotonic() + pause, self._may_ask()))

    def _look_again(self, due: float) -> None:
        self._due = due if self._due is None else min(self._due, due)


def problems(job_ids: Iterable[int], text: str) -> Iterator[NodeSample]:
    """What is wrong with some jobs as a whole."""
    for job_id in sorted(job_ids):
        yield NodeSample(job_id, "", time.time(), problem=text)


def _last_line(said: bytes) -> str:
    """The last thing that a program complained of, without its name."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    text = lines[-1].partition(": error: ")[2] or lines[-1] if lines else ""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:300]
