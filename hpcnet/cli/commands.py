# SPDX-License-Identifier: Apache-2.0
"""The commands that people type: the parser, and which function runs each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hpcnet import __version__, config
from hpcnet.errors import HpcnetError
from hpcnet.kernel import filter as packet_filter
from hpcnet import journal


def main(arguments: Sequence[str]) -> int:
    site = config.load()
    if arguments[:2] == ["filter", "load"]:
        journal.prepare()
        packet_filter.load(site.fabric.uplink, site.pool.vni)
    return 0
