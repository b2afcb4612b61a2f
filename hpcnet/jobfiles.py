# SPDX-License-Identifier: Apache-2.0
"""The two files that a job's network has on a node: its hosts file, and what the SPANK plugin reads. Pure."""

from __future__ import annotations

from collections import defaultdict

from hpcnet import interfaces, names
from hpcnet.model import Endpoint, Plan

_LOCAL = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def host_name(endpoint: Endpoint) -> str:
    """``n2`` for the tasks of node n2, ``n2-3`` for its third container address."""
    return f"{endpoint.node}-{endpoint.slot}" if endpoint.slot else endpoint.node


def hosts(plan: Plan, host_file: str) -> str:
    """A hosts file (hosts(5)) in which the job's nodes and containers have their addresses of the job.

    ``host_file`` is the text of the node's own /etc/hosts: its other names stay, and longer forms of a
    node's name (n2.example.org) become names of the job's address too. Where a node is named like another
    one's container, the name is the node's.
    """
    longer, others = _own_names(plan, host_file)
    nodes = frozenset(plan.nodes)
    lines = [_LOCAL, f"# network of job {plan.job_id}\n"]
    for endpoint in sorted((*plan.own, *plan.peers), key=lambda endpoint: int(endpoint.ipv4)):
        if endpoint.slot and host_name(endpoint) in nodes:
            continue
        aliases = " ".join([host_name(endpoint), *(longer[endpoint.node] if endpoint.slot == 0 else ())])
        lines.append(f"{endpoint.ipv4} {aliases}\n{endpoint.ipv6} {aliases}\n")
    if others:
        lines.append("# names of the node that are not the job's\n")
    return "".join(lines + others)


def _own_names(plan: Plan, host_file: str) -> tuple[dict[str, list[str]], list[str]]:
    """Longer names of the job's nodes, and the lines for everybody else."""
    nodes = frozenset(plan.nodes)
    longer: dict[str, list[str]] = defaultdict(list)
    others = []
    for line in host_file.splitlines():
        address, *aliases = line.partition("#")[0].split() or [""]
        kept = []
        for alias in aliases:
            node = alias.partition(".")[0]
            if node not in nodes:
                kept.append(alias)
            elif alias != node and alias not in longer[node]:
                longer[node].append(alias)
        if kept and "localhost" not in kept:
            others.append(" ".join([address, *kept]) + "\n")
    return longer, others


def environment(plan: Plan) -> dict[str, str]:
    """The HPCNET_* variables of the job on this node."""
    own, lease = plan.tasks, plan.lease
    variables = {
        "HPCNET_JOB_ID": str(plan.job_id),
        "HPCNET_MODE": lease.mode,
        "HPCNET_INTERFACE": names.TASKS_DEVICE,
        "HPCNET_ADDRESS": str(own.ipv4),
        "HPCNET_ADDRESS6": str(own.ipv6),
        "HPCNET_SUBNET": str(lease.ipv4),
        "HPCNET_NETNS": names.netns(plan.job_id),
        "HPCNET_HOSTS": f"{names.job_dir(plan.job_id)}/hosts",
        "HPCNET_RANK": str(plan.rank),
        "HPCNET_NODES": str(len(plan.nodes)),
        "HPCNET_MTU": str(plan.mtu),
    }
    if lease.docker:
        variables["HPCNET_DOCKER_NETWORK"] = names.docker_network(plan.job_id)
    if plan.variables:
        # What the plugin sets in tasks, and takes away again in a job that was submitted from one.
        variables["HPCNET_ENV"] = interfaces.listed(plan.variables)
    return variables


def network(plan: Plan, resolv_conf: bool = False, adapters: str = "") -> str:
    """The file ``network`` for the SPANK plugin: who may join what, and the job's environment.

    ``resolv_conf``: whether the job has one of its own. ``adapters``: those of the uplink, for counters that a
    task reads: its view of /sys has not the interfaces of its node.
    """
    head = {
        "uid": str(plan.uid),
        "join": plan.lease.join,
        "netns": names.netns(plan.job_id),
        "hosts": f"{names.job_dir(plan.job_id)}/hosts",
        **({"resolv": f"{names.job_dir(plan.job_id)}/resolv.conf"} if resolv_conf else {}),
        **({"adapters": adapters} if adapters else {}),
    }
    return "".join(f"{key}={value}\n" for key, value in {**head, **environment(plan)}.items())
