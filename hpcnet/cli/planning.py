# SPDX-License-Identifier: Apache-2.0
"""``hpcnet plan``: what a job would get, computed as the controller and the nodes do."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from ipaddress import IPv4Address
from typing import Any

from hpcnet import config, fabric, lease, leasestore, names, nodelist, request
from hpcnet.cli.table import print_json, print_table
from hpcnet.config import Site
from hpcnet.errors import SiteError, UserError
from hpcnet.kernel import observe
from hpcnet.model import NONE, VXLAN_OVERHEAD, Endpoint, Lease
from hpcnet.plan import endpoints_of, plan
from hpcnet.request import DATAGRAM_MTU_MAX


def run(arguments: argparse.Namespace) -> int:
    """Print the lease and every node's addresses; with --node what that node builds."""
    site = config.load(arguments.config)
    asked = request.parse(arguments.network)
    if asked is None:
        raise UserError(f"--network={arguments.network!r:.80} is not hpcnet's; its first word is {names.WORD}")
    nodes = nodelist.expand(arguments.nodes)
    if len(set(nodes)) < len(nodes):
        raise UserError(f"nodes {arguments.nodes!r:.80}: a name twice")
    if arguments.node is not None and arguments.node not in nodes:
        raise UserError(f"node {arguments.node!r:.80} is not among {arguments.nodes:.80}")
    state, source = _state(site)
    terms = lease.terms_of(asked, site)
    given = lease.allocate(state, terms, len(nodes), lease.pool_of(terms, site), 0)[1]
    underlays = fabric.addresses(site.fabric, nodes)
    everyone = [endpoints_of(given, node, rank, len(nodes), underlays[node]) for rank, node in enumerate(nodes)]
    document: dict[str, Any] = {
        "lease": _lease_document(given),
        "lease_source": source,
        "nodes": [_node_document(rank, endpoints) for rank, endpoints in enumerate(everyone)],
    }
    if arguments.node is not None:
        document["builds"] = _builds(given, nodes, arguments.node, underlays, site, asked.env)
    if arguments.json:
        print_json(document)
    else:
        _print(document, arguments.node)
    return 0


def _state(site: Site) -> tuple[lease.State, str]:
    """What the allocator knows: on the controller the pool as it is, elsewhere an empty one."""
    try:
        return leasestore.peek(site.pool.store)[0], "next"
    except SiteError:
        return lease.State(), "first"


def _lease_document(given: Lease) -> dict[str, Any]:
    document = asdict(given)
    del document["serial"]
    return document


def _node_document(rank: int, endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    tasks, containers = endpoints[0], endpoints[1:]
    return {
        "node": tasks.node,
        "rank": rank,
        "fabric": tasks.underlay,
        "ipv4": tasks.ipv4,
        "ipv6": tasks.ipv6,
        "mac": tasks.mac,
        "containers": [endpoint.ipv4 for endpoint in containers],
    }


def _builds(
    given: Lease, nodes: list[str], node: str, underlays: Any, site: Site, env: str | None
) -> dict[str, Any]:
    # Without [fabric] mtu only the node itself knows what its uplink carries, and whether that is InfiniBand.
    overhead = VXLAN_OVERHEAD if given.mode == "vxlan" else 0
    uplink_mtu = site.fabric.mtu or (given.mtu or 1500) + overhead
    ipoib = "connected" if uplink_mtu > DATAGRAM_MTU_MAX else "datagram"
    if (given.pkey, given.ipoib) == (NONE, NONE):
        ipoib = ""
    wanted = plan(
        given, nodes, node, underlays, cluster="CLUSTER", job_id=0, uid=0, uplink=site.fabric.uplink,
        uplink_mtu=uplink_mtu, uplink_ipoib=ipoib, uplink_pkey="0xffff", variables=site.variables(env),
        vxlan_port=site.fabric.vxlan_port,
    )  # fmt: skip
    lines = _lines(wanted)
    if wanted.mtu == uplink_mtu - overhead and not given.mtu:
        less = f" less {overhead}" if overhead else ""
        mtu = f"(the MTU of {site.fabric.uplink}{less})"
        own = (f"device {names.TASKS_DEVICE} ", f"device {names.VXLAN_DEVICE} ")
        old, new = f"mtu {wanted.mtu}", f"mtu {mtu}"
        lines = [line.replace(old, new) if line.startswith(own) else line for line in lines]
    return {"lines": lines, "variables": wanted.variables}


def _lines(wanted: Any) -> list[str]:
    identity = names.alias("CLUSTER", 0, wanted.lease.serial)
    lines = (line.replace(f" alias {identity}", "") for line in observe.planned(wanted))
    return sorted(line.replace(names.egress_link(0), f"{names.EGRESS_LINK}JOBID") for line in lines)


def _print(document: dict[str, Any], node: str | None) -> None:
    given, source = document["lease"], document["lease_source"]
    says = "the lease that the next job would get" if source == "next" else "an empty pool's first lease"
    kind = f"{given['mode']}, {lease.separation(Lease(serial=0, **given))}"
    print(f"network   {kind}, {given['ipv4']}, {given['ipv6']} ({says})")
    print(f"mtu       {given['mtu'] or 'the largest that each uplink allows'}")
    print(f"join      {given['join']}, egress {given['egress']}, docker {'yes' if given['docker'] else 'no'}\n")
    heads = ("NODE", "FABRIC", "IPV4", "IPV6", "MAC", "CONTAINERS")
    print_table(heads, (_row(entry) for entry in document["nodes"]))
    if node is not None:
        print(f"\n{node} builds namespace hpcnet-JOBID with")
        for line in document["builds"]["lines"]:
            print(f"  {line}")
        if document["builds"]["variables"]:
            print("\nand its tasks get, but for what they have already,")
            for name, value in document["builds"]["variables"].items():
                print(f"  {name}={value}")


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    containers = entry["containers"]
    return entry["node"], entry["fabric"], entry["ipv4"], entry["ipv6"], entry["mac"], _span(containers)


def _span(containers: list[IPv4Address]) -> str:
    """The containers' addresses, which follow each other: 10.128.0.8-15."""
    if not containers:
        return "-"
    first, last = str(containers[0]), str(containers[-1])
    same = first.rpartition(".")[0] == last.rpartition(".")[0]
    return f"{first}-{last.rpartition('.')[2] if same else last}"
