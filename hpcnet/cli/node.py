# SPDX-License-Identifier: Apache-2.0
"""``hpcnet check``, ``filter``, ``agent``, ``attach`` and ``detach``: what root does on one node."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict

from hpcnet import attachment, check, config, lifecycle
from hpcnet.check import Report
from hpcnet.cli.table import print_json
from hpcnet.config import Site
from hpcnet.errors import NodeError
from hpcnet.jobfiles import host_name
from hpcnet.kernel import filter as packet_filter
from hpcnet.runtimes import docker
from hpcnet.runtimes.engine import Engine


def run_check(arguments: argparse.Namespace) -> int:
    """Exit code 1 when any job's network here differs from its plan."""
    as_root("check")
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
        print(packet_filter.ruleset(site), end="")
        return 0
    as_root("filter load")
    complaint = lifecycle.load_filter(site)
    if complaint:
        print(f"hpcnet: the filter is loaded, but {complaint}", file=sys.stderr)
    return 0


def run_agent(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    as_root("agent")
    from hpcnet.agent import command

    return command.run(arguments.config)


def run_attach(arguments: argparse.Namespace) -> int:
    """Print the interface that the container got."""
    as_root("attach")
    site = config.load(arguments.config)
    target = _namespace(arguments.container, site)
    name, endpoint, plan = attachment.attach(arguments.job, target, arguments.ip, site)
    if arguments.json:
        print_json({"interface": name, "known_as": host_name(endpoint), "mtu": plan.mtu, **asdict(endpoint)})
    else:
        print(f"{name} {attachment.describe(endpoint, plan)}, MTU {plan.mtu}")
    return 0


def run_detach(arguments: argparse.Namespace) -> int:
    """Print the interfaces that are gone."""
    as_root("detach")
    site = config.load(arguments.config)
    gone = attachment.detach(arguments.job, _namespace(arguments.container, site), site)
    if arguments.json:
        print_json({"removed": gone})
    else:
        print(f"removed {' '.join(gone)}")
    return 0


def _namespace(container: str, site: Site) -> str:
    """The file of a container's network namespace. Raises UserError, NodeError."""
    if "/" in container:
        return container
    if not (container.isascii() and container.isdecimal()):
        container = str(docker.process_of(container, Engine(site.docker.socket, site.docker.deadline)))
    return f"/proc/{container}/ns/net"


def as_root(command: str) -> None:
    """Raises NodeError for anybody else."""
    if os.geteuid() != 0:
        raise NodeError(f"{command} works on the kernel's state of other users' jobs; run it as root")
