# SPDX-License-Identifier: Apache-2.0
"""``hpcnet list`` and ``hpcnet show``: the networks, from the job records that anyone may read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from hpcnet import config, fabric, journal, names, nodelist
from hpcnet.cli.table import print_json, print_table
from hpcnet.counters import account
from hpcnet.errors import HpcnetError
from hpcnet.lease import separation
from hpcnet.model import Lease
from hpcnet.plan import endpoints_of
from hpcnet.request import text as request_text
from hpcnet.slurm.networks import Network, networks


def _complain(text: str) -> None:
    print(f"hpcnet: {text}", file=sys.stderr)


def _document(network: Network) -> dict[str, Any]:
    """As JSON: lease is null until the job starts, refused is null unless it was."""
    job, found = network.job, network.record
    asked = request_text(found.request)
    return {
        "job": job.id,
        "array": job.array or None,
        "user": job.user,
        "state": sorted(job.states),
        "nodes": job.nodelist,
        "asked": f"{names.WORD},{asked}" if asked else names.WORD,
        "lease": asdict(found.lease) if found.lease else None,
        "refused": found.reason or None,
    }


def find(wanted: str) -> Network | None:
    """The network of a job, named by its number or as an array's task; None: it has none."""
    return next((seen for seen in networks(_complain) if wanted in (str(seen.job.id), seen.job.array)), None)


def run_list(arguments: argparse.Namespace) -> int:
    """One line for each job that asked; those whose network is gone only with --all."""
    found = [network for network in networks(_complain) if arguments.all or not network.job.ended]
    if arguments.json:
        print_json([_document(network) for network in found])
        return 0
    heads = ("JOB", "USER", "STATE", "MODE", "VNI", "SUBNET", "MTU", "NODES")
    print_table(heads, (_row(network) for network in found))
    return 0


def _row(network: Network) -> tuple[object, ...]:
    job, lease = network.job, network.record.lease
    state = "+".join(sorted(job.states))
    if lease is None:
        why = f"refused: {network.record.reason}" if network.record.reason else "-"
        return job.array or job.id, job.user, state, "-", "-", "-", "-", why
    mtu = lease.mtu or "largest"
    return job.array or job.id, job.user, state, lease.mode, lease.vni or "-", lease.ipv4, mtu, job.nodelist or "-"


def run_show(arguments: argparse.Namespace) -> int:
    """All of one job; on a node also what that node's journal says."""
    wanted = arguments.job
    network = find(wanted)
    number = network.job.id if network else int(wanted) if wanted.isdigit() else 0
    here, accounts = _here(number), account.kept(_accounts_directory(arguments.config), number)
    if network is None and here is None and not accounts:
        print(f"hpcnet: job {wanted} has no network, or Slurm does not know it (any more)", file=sys.stderr)
        return 1
    document: dict[str, Any] = _document(network) if network else {"job": number}
    document["addresses"] = _addresses(network, arguments.config) if network else []
    document["here"], document["accounts"] = here, accounts
    if arguments.json:
        print_json(document)
    else:
        _print(document)
    return 0


def _addresses(network: Network, config_file: str) -> list[dict[str, Any]]:
    """Each node's address, computed as the node does; empty before the job has nodes and a lease, and once it
    is completing: Slurm then lists only the nodes that are not done yet, from which no rank can be told.
    """
    job, lease = network.job, network.record.lease
    if lease is None or not job.nodelist or "COMPLETING" in job.states:
        return []
    try:
        nodes = nodelist.expand(job.nodelist)
        underlays = fabric.addresses(config.load(config_file).fabric, nodes)
        return [
            {"node": node, "ipv4": own.ipv4, "ipv6": own.ipv6, "mac": own.mac, "fabric": own.underlay}
            for rank, node in enumerate(nodes)
            for own in endpoints_of(lease, node, rank, len(nodes), underlays[node])[:1]
        ]
    except HpcnetError as error:
        print(f"hpcnet: the nodes' addresses cannot be computed here: {error}", file=sys.stderr)
        return []


def _accounts_directory(config_file: str) -> str:
    try:
        return config.load(config_file).hooks.accounts
    except HpcnetError:
        return ""  # a host without the configuration shows what the job records tell


def _here(job_id: int) -> dict[str, Any] | None:
    """What this host's state directory says of the job, or None."""
    if not os.path.isdir(names.job_dir(job_id)):
        return None
    try:
        steps = journal.steps(job_id)
    except PermissionError:
        steps = []
    return {"complete": journal.published(job_id), "refused": journal.refusal(job_id) or None, "steps": steps}


def _print(document: dict[str, Any]) -> None:
    lease = document.get("lease")
    if "user" in document:
        print(f"job       {document['job']} of {document['user']}, {'+'.join(document['state'])}")
        print(f"asked     --network={document['asked']}")
    else:
        print(f"job       {document['job']}, not known to Slurm any more")
    if lease:
        print(f"network   {lease['mode']}, {separation(Lease(**lease))}, {lease['ipv4']}, {lease['ipv6']}")
        print(f"mtu       {lease['mtu'] or 'the largest that each uplink allows'}")
        print(f"join      {lease['join']}, egress {lease['egress']}, docker {'yes' if lease['docker'] else 'no'}")
        print(f"serial    {lease['serial']}")
    elif document.get("refused"):
        print(f"refused   {document['refused']}")
    elif "user" in document:
        print("network   none yet: it is leased when the job starts")
    here = document["here"]
    if here:
        what = (
            f"refused: {here['refused']}" if here["refused"] else "complete" if here["complete"] else "half-built"
        )
        print(f"here      {what}")
    if document["addresses"]:
        print()
        heads = ("NODE", "IPV4", "IPV6", "MAC", "FABRIC")
        print_table(heads, (tuple(entry[key.lower()] for key in heads) for entry in document["addresses"]))
    if document["accounts"]:
        print()
        moved = "NODE MOVED-BY RX-BYTES TX-BYTES RX-PACKETS TX-PACKETS SECONDS".split()
        print_table(moved, (row for each in document["accounts"] for row in _account_rows(each)))


def _account_rows(found: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for interface in found["interfaces"]:
        counts = [
            interface["counters"].get(f"{way}_{what}") for what in ("bytes", "packets") for way in ("rx", "tx")
        ]
        cells = ("-" if count is None else count for count in counts)
        yield (found["node"], interface["name"] or interface["device"], *cells, found["seconds"])
