# SPDX-License-Identifier: Apache-2.0
"""Samples as short lines, so that one stream can carry those of many nodes.

lines = frames(document, node, serial)        # of a sampler
samples = Assembler().feed(data)              # of a viewer, whatever pieces the stream comes in

srun passes its tasks' output on in pieces of at most 1024 bytes (SLURM_IO_MAX_MSG_LEN), and mixes those of several
nodes: a longer line would come through torn. Lines that are no frames (what a TaskProlog prints) are skipped.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hpcnet.counters import wire
from hpcnet.counters.model import NodeSample

_FRAGMENT = 700
_LONGEST_LINE = 1024
_MOST_FRAGMENTS = 999
_MOST_NODES = 65536
_FRAME = re.compile(rb"@hpcnet1 ([A-Za-z0-9_.-]{1,255}) ([0-9]{1,19}) ([0-9]{1,3})/([0-9]{1,3}) (.*)", re.DOTALL)


def frames(document: Any, node: str, serial: int) -> bytes:
    """The lines of a document; ``serial`` tells it from the node's others."""
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    pieces = [text[start : start + _FRAGMENT] for start in range(0, len(text), _FRAGMENT)][:_MOST_FRAGMENTS]
    heads = (f"@hpcnet1 {node} {serial} {number}/{len(pieces)} ".encode() for number in range(1, len(pieces) + 1))
    return b"".join(head + piece + b"\n" for head, piece in zip(heads, pieces))


class Assembler:
    """Puts the samples of one stream together again. What does not fit together is dropped, bounded in memory."""

    def __init__(self) -> None:
        self._rest = b""
        self._parts: dict[str, tuple[bytes, list[bytes]]] = {}

    def feed(self, data: bytes) -> list[NodeSample]:
        """The samples that are complete with these bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self._rest = b""
        return [sample for sample in map(self._line, lines) if sample is not None]

    def _line(self, line: bytes) -> NodeSample | None:
        match = _FRAME.fullmatch(line)
        if not match or len(line) > _LONGEST_LINE:
            return None
        node, serial, number, count, fragment = match[1].decode(), match[2], int(match[3]), int(match[4]), match[5]
        begun, parts = self._parts.get(node, (serial, []))
        if begun != serial or number == 1:
            parts = []
        parts.append(fragment)
        if len(parts) != number or (node not in self._parts and len(self._parts) >= _MOST_NODES):
            self._parts.pop(node, None)
            return None
        if number < count:
            self._parts[node] = serial, parts
            return None
        self._parts.pop(node, None)
        try:
            sample = wire.decode(json.loads(b"".join(parts)))
        except (ValueError, RecursionError):
            return None
        return sample if sample.node == node else None
