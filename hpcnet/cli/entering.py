# SPDX-License-Identifier: Apache-2.0
"""``hpcnet exec``: a command in a job's network: for its owner as a step, for root on the node itself."""

from __future__ import annotations

import argparse
import os
import sys

from hpcnet import interfaces, journal, names, nodelist
from hpcnet.cli.networks import find
from hpcnet.errors import NodeError, UserError
from hpcnet.kernel import netns
from hpcnet.slurm.networks import Network


def run_exec(arguments: argparse.Namespace) -> int:
    """Does not return when the command starts: its exit code is the program's."""
    command = arguments.command or [os.environ.get("SHELL") or "/bin/sh"]
    if os.geteuid() == 0:
        _enter(arguments.job, arguments.node)
    else:
        command = _step(arguments.job, arguments.node, command)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None


def _step(wanted: str, node: str | None, command: list[str]) -> list[str]:
    """The srun command line that runs it in the job. Raises UserError saying why that cannot be."""
    network = find(wanted)
    if network is None:
        raise UserError(
            f"job {wanted} has no network, or Slurm does not know it (any more); hpcnet list shows which do"
        )
    _require_enterable(network, wanted, node)
    words = ["srun", f"--jobid={network.job.id}", "--overlap", "--mpi=none", "-N1", "-n1"]
    if node is not None:
        words.append(f"--nodelist={node}")
    if sys.stdin.isatty() and sys.stdout.isatty():
        words.append("--pty")
    return [*words, "--", *command]


def _require_enterable(network: Network, wanted: str, node: str | None) -> None:
    job, lease = network.job, network.record.lease
    if job.uid != os.geteuid():
        raise UserError(f"job {wanted} is {job.user}'s; only its owner may enter it, or root on one of its nodes")
    if network.record.reason:
        raise UserError(f"job {wanted} was refused a network: {network.record.reason}")
    if "RUNNING" not in job.states or lease is None:
        state = "+".join(sorted(job.states))
        raise UserError(f"job {wanted} is {state}; its network is there while it runs")
    if lease.join == "none":
        raise UserError(
            f"job {wanted} has join=none: its steps stay in the nodes' network; root can enter on a node"
        )
    if node is not None and node not in nodelist.expand(job.nodelist):
        raise UserError(f"node {node!r} is not among the job's nodes {job.nodelist}")


def _enter(wanted: str, node: str | None) -> None:
    """This process enters the job's network, names and variables on this node. Raises NodeError, UserError."""
    entry = journal.read(int(wanted)) if wanted.isdigit() else None
    if entry is None or not netns.exists(entry.job_id):
        raise NodeError(f"job {wanted} has no network on this host; as root, run it on one of the job's nodes")
    if node not in (None, entry.node):
        raise UserError(f"this is {entry.node}; as root, run it on {node} itself")
    variables = journal.variables(entry.job_id)
    told = interfaces.unlisted(variables.get("HPCNET_ENV", ""))
    os.environ.update(interfaces.not_given(told, os.environ))
    os.environ.update(variables)
    files = {"/etc/hosts": "hosts", "/etc/resolv.conf": "resolv.conf"}
    paths = {target: f"{names.job_dir(entry.job_id)}/{file}" for target, file in files.items()}
    netns.enter(entry.job_id, {target: path for target, path in paths.items() if os.path.exists(path)})
