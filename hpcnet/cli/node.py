# SPDX-License-Identifier: Apache-2.0
"""``hpcnet check`` and ``hpcnet filter``: what root does on one node."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

from hpcnet import check, config, lifecycle
from hpcnet.check import Report
from hpcnet.cli.table import print_json
from hpcnet.errors import NodeError
from hpcnet.kernel import filter as packet_filter


def run_check(arguments: argparse.Namespace) -> int:
    """Exit code 1 when any job's network here differs from its plan."""
    _as_root("check")
    site = config.load(arguments.config)
    jobs = [arguments.job] if arguments.job else check.jobs()
    reports = [check.check(job, site) for job in jobs]
    if arguments.json:
        print_json([{**asdict(report), "clean": report.clean} for report in reports])
    else:
        for report in reports:
            _print(report)
        if not reports:
            print("no job has a network on this node")
    return 0 if all(report.clean for report in reports) else 1


def _print(report: Report) -> None:
    print(f"job {report.job_id}: {'ok' if report.clean else report.problem or 'differs'}")
    for kind in ("missing", "foreign", "silent"):
        for line in getattr(report, kind):
            print(f"  {kind}  {line}")


def run_filter(arguments: argparse.Namespace) -> int:
    """Print or load the base table."""
    site = config.load(arguments.config)
    if arguments.action == "show":
        print(packet_filter.ruleset(site.fabric.uplink, site.pool.vni), end="")
        return 0
    _as_root("filter load")
    lifecycle.load_filter(site)
    return 0


def _as_root(command: str) -> None:
    if os.geteuid() != 0:
        raise NodeError(f"{command} reads the kernel's state of other users' jobs; run it as root")
