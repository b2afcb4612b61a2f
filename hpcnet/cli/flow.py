# SPDX-License-Identifier: Apache-2.0
"""Streams, small packets and round trips between two ends of a network.

    serve(listener)                                     at the far end, until who connected hangs up
    with Near(address, port) as near:
        near.measure(TESTS["both ways"], 0.5)           {"gbit": 20.1, "there": 10.2, "back": 9.9, ...}

Sockets of this process and a thread for each stream, so that tests can be short and follow each other at once: a
program started for each one costs more time than the test. Bytes are counted where they arrive, after RAMP
seconds. ``python -m hpcnet.cli.flow far|near ADDRESS PORT`` is one end as a process of its own, see :func:`drive`;
both are on one machine then.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, NamedTuple

from hpcnet.errors import NodeError


class Test(NamedTuple):
    """Streams ``there`` and ``back``; or datagrams of 64 bytes as fast as they go; or such, each awaited back."""

    there: int = 0
    back: int = 0
    packets: bool = False
    trips: bool = False


TESTS: Mapping[str, Test] = {
    "one way": Test(1),
    "both ways": Test(1, 1),
    "one way, 8 streams": Test(8),
    "both ways, 8 streams": Test(8, 8),
    "small packets": Test(packets=True),
    "round trip": Test(trips=True),
}

HEADLINE = {"gbit": "Gbit/s", "kpackets": "1000 packets/s", "median": "us"}
"""The figure of a test that counts, and its unit. Of ``median`` less is better."""

RAMP = 0.05
"""Seconds of each test that do not count: connections open their windows."""

_CHUNK = 1 << 17  # bytes of a stream's send and receive, as iperf3's
_PACKET = b"x" * 64
_SILENCE = 10  # seconds without progress: the network is broken
_BEAT = 0.03  # seconds after which the end of datagrams is noticed


class Near:
    """The end that measures. For ``patience`` seconds the other one may not be there yet. Raises NodeError."""

    def __init__(self, address: str, port: int, patience: float = 10.0, one_machine: bool = False) -> None:
        """``one_machine``: both ends are on it, so that its processors are counted once."""
        self._to = (address, port)
        late = time.monotonic() + patience
        while True:
            try:
                connection = _connected(self._to)
                break
            except OSError as error:
                if time.monotonic() > late:
                    raise NodeError(f"the other end, {address}, is not reached: {error}") from None
            time.sleep(0.1)
        with connection:  # the file keeps it open
            self._control = connection.makefile("rw", encoding="ascii")
        self._one_machine = one_machine

    def __enter__(self) -> Near:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()

    def measure(self, test: Test, seconds: float) -> dict[str, float]:
        """One test: Gbit/s in all, ``there`` and ``back``, and ``processor``, seconds of busy processors a Gbit,
        of the whole machine at both ends; or thousands of packets a second that arrived, and ``processor``
        seconds for a million of them; or ``median`` and ``p99`` of round trips in microseconds.

        Raises NodeError.
        """
        try:
            return self._measure(test, seconds)
        except (OSError, ValueError) as error:
            raise NodeError(f"measuring to {self._to[0]} broke off: {error}") from None

    def _measure(self, test: Test, seconds: float) -> dict[str, float]:
        _say(self._control, test=test, seconds=seconds)
        with contextlib.ExitStack() as open_sockets:
            streams = [open_sockets.enter_context(_connected(self._to)) for _ in range(test.there + test.back)]
            ready = _hear(self._control)
            flows = [_Flow(_send, each) for each in streams[: test.there]]
            flows += [_Flow(_receive, each) for each in streams[test.there :]]
            if test.packets or test.trips:
                datagrams = open_sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                _impatient(datagrams, _SILENCE)
                datagrams.connect((self._to[0], ready["port"]))
                flows.append(_Flow(_ask if test.trips else _send_packets, datagrams))
            _say(self._control, go=True)
            own = _run(flows, seconds)
            other = _hear(self._control)
        if test.trips:
            times = sorted(flows[0].times)
            if not times:
                raise NodeError(f"no packet came back from {self._to[0]}")
            return {"median": statistics.median(times), "p99": times[int(0.99 * (len(times) - 1))]}
        busy = own["busy"] + (0.0 if self._one_machine else other["busy"])
        if test.packets:
            rate = max(other["rate"] / 1e3, 1e-9)
            return {"kpackets": rate, "processor": 1e3 * busy / rate}
        there, back = (8e-9 * each["rate"] for each in (other, own))
        figures = {"gbit": there + back, "processor": busy / max(there + back, 1e-9)}
        return {**figures, "there": there, "back": back} if test.back else figures


def serve(listener: socket.socket) -> None:
    """The far end of one Near. Raises OSError."""
    connection, _ = listener.accept()
    address = connection.getsockname()[0]
    with connection, connection.makefile("rw", encoding="ascii") as control:
        for line in control:
            asked = json.loads(line)
            test = Test(*asked["test"])
            with contextlib.ExitStack() as open_sockets:
                listener.settimeout(_SILENCE)
                accepted = [listener.accept()[0] for _ in range(test.there + test.back)]
                streams = [open_sockets.enter_context(each) for each in accepted]
                for each in streams:
                    _impatient(each, _SILENCE)
                flows = [_Flow(_receive, each) for each in streams[: test.there]]
                flows += [_Flow(_send, each) for each in streams[test.there :]]
                port = 0
                if test.packets or test.trips:
                    datagrams = open_sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    _impatient(datagrams, _BEAT)
                    datagrams.bind((address, 0))
                    port = datagrams.getsockname()[1]
                    flows.append(_Flow(_answer if test.trips else _receive_packets, datagrams))
                _say(control, port=port)
                _hear(control)
                _say(control, **_run(flows, asked["seconds"]))


class _Flow(threading.Thread):
    """One stream's thread. ``count``: bytes, or packets, that arrived; ``times``: microseconds of round trips."""

    def __init__(self, work: Callable[[_Flow], None], connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self.work, self.connection = work, connection
        self.count, self.over = 0, False
        self.times: list[float] = []
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            self.work(self)
        except OSError as error:
            self.error = error


def _run(flows: list[_Flow], seconds: float) -> dict[str, float]:
    """What arrived here in a second, and for how many seconds of a second processors of this machine were busy."""
    for flow in flows:
        flow.start()
    time.sleep(RAMP)
    begin, before, busy = time.monotonic(), sum(flow.count for flow in flows), _busy()
    time.sleep(seconds)
    elapsed = time.monotonic() - begin
    found = {
        "rate": (sum(flow.count for flow in flows) - before) / elapsed,
        "busy": (_busy() - busy) / elapsed,
    }
    for flow in flows:
        flow.over = True
    for flow in flows:
        flow.join()
        if flow.error:
            raise flow.error
    return found


def _send(flow: _Flow) -> None:
    data = bytes(_CHUNK)
    while not flow.over:
        flow.connection.send(data)
    flow.connection.shutdown(socket.SHUT_WR)


def _receive(flow: _Flow) -> None:
    buffer = bytearray(_CHUNK)
    while True:
        read = flow.connection.recv_into(buffer)
        if not read:
            return
        flow.count += read


def _send_packets(flow: _Flow) -> None:
    while not flow.over:
        with contextlib.suppress(ConnectionRefusedError):
            flow.connection.send(_PACKET)


def _receive_packets(flow: _Flow) -> None:
    buffer = bytearray(len(_PACKET))
    while True:
        try:
            flow.connection.recv_into(buffer)
        except BlockingIOError:
            if flow.over:
                return
        else:
            flow.count += 1


def _ask(flow: _Flow) -> None:
    buffer = bytearray(len(_PACKET))
    while not flow.over:
        begin = time.perf_counter_ns()
        flow.connection.send(_PACKET)
        flow.connection.recv_into(buffer)
        flow.times.append((time.perf_counter_ns() - begin) / 1e3)


def _answer(flow: _Flow) -> None:
    while True:
        try:
            packet, asker = flow.connection.recvfrom(len(_PACKET))
        except BlockingIOError:
            if flow.over:
                return
        else:
            flow.connection.sendto(packet, asker)


def _connected(to: tuple[str, int]) -> socket.socket:
    made = socket.create_connection(to, timeout=_SILENCE)
    _impatient(made, _SILENCE)
    return made


def _impatient(connection: socket.socket, seconds: float) -> None:
    """What blocks longer fails. Not by settimeout, which makes Python call poll() each time."""
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    connection.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)


def _say(control: IO[str], **words: Any) -> None:
    control.write(json.dumps(words) + "\n")
    control.flush()


def _hear(control: IO[str]) -> dict[str, Any]:
    line = control.readline()
    if not line:
        raise NodeError("the other end went away")
    found: dict[str, Any] = json.loads(line)
    return found


def _busy() -> float:
    """Seconds that all processors of the machine were not idle, since boot (proc(5), /proc/stat)."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def drive(near: Near, requests: Iterable[str], answers: IO[str]) -> None:
    """Answer each line ``TEST SECONDS`` with a line of JSON."""
    for line in requests:
        test, _, seconds = line.rpartition(" ")
        _say(answers, **near.measure(TESTS[test], float(seconds)))


def main() -> int:
    """One end, until standard input or the other end goes away."""
    end, address, port = sys.argv[1:]
    if end == "far":
        with socket.create_server((address, int(port))) as listener:
            serve(listener)
        return 0
    with Near(address, int(port), one_machine=True) as near:
        drive(near, sys.stdin, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
