# SPDX-License-Identifier: Apache-2.0
"""The only place where names of interfaces, namespaces and files are made or parsed."""

from __future__ import annotations

import re

CONFIG_FILE = "/etc/hpcnet/hpcnet.toml"
STATE_DIR = "/run/hpcnet"
NETNS_DIR = "/run/netns"

WORD = "ib"
"""First word of a ``--network`` option that is ours."""

TOKEN = "hpcnet:"
"""First characters of the word that carries a request or lease on the job record."""

VXLAN_DEVICE = "hpcvx"
"""The job's VXLAN device; it lives in the job's namespace only."""

TASKS_DEVICE = "hpc0"
"""The interface of the job's tasks, a macvlan child of the VXLAN device."""

EGRESS_DEVICE = "hpcout"
"""The job's end of its link to the node itself (egress=host), in the job's namespace."""

EGRESS_LINK = "hpce"
"""First characters of that link's other end, the one device of a job in the node's own namespace."""

DOCKER_DRIVER = "hpcnet"
"""Docker's name for our network driver and address management, after the socket's."""

DOCKER_PLUGIN = f"/run/docker/plugins/{DOCKER_DRIVER}.sock"
"""Where dockerd finds the driver, which ``hpcnet agent`` serves."""

NFT_TABLE = "hpcnet"
"""The nftables table (family inet) that is ours."""

NFT_EGRESS_TABLE = "hpcnet_egress"
"""The one that is there while jobs with egress=host are."""

PORT_NETNS = "hpcnet"
"""Namespace of the device that holds the VXLAN port for the kernel."""

PORT_DEVICE = "hpcport"

DEVICE_GROUP = 0x68706E
"""Netdev group of every device hpcnet makes ("hpn"): honoured at creation, unlike an ifalias."""

_HANDOVER = "hpd"
_NETNS = re.compile(r"hpcnet-([1-9][0-9]{0,9})")
_LINK = re.compile(EGRESS_LINK + "([1-9][0-9]{0,9})")
_ALIAS = re.compile(r"hpcnet:([^:\s]+):([1-9][0-9]{0,9}):([0-9]{1,19})")


def netns(job_id: int) -> str:
    """Name of the job's network namespace."""
    return f"hpcnet-{job_id}"


def netns_path(job_id: int) -> str:
    """File that pins the job's network namespace, as ``ip netns`` expects it."""
    return f"{NETNS_DIR}/{netns(job_id)}"


def parse_netns(name: str) -> int | None:
    """Job id of a namespace name of ours, or None."""
    match = _NETNS.fullmatch(name)
    return int(match[1]) if match else None


def egress_link(job_id: int) -> str:
    """The node's end of the job's link to it; at most 14 characters."""
    return f"{EGRESS_LINK}{job_id}"


def parse_egress_link(name: str) -> int | None:
    """Job id of such a device's name, or None."""
    match = _LINK.fullmatch(name)
    return int(match[1]) if match else None


def job_dir(job_id: int) -> str:
    """Directory of the job's state on this node."""
    return f"{STATE_DIR}/jobs/{job_id}"


def docker_network(job_id: int) -> str:
    """Name of the job's Docker network."""
    return f"hpcnet-{job_id}"


def handover(identity: str) -> str:
    """Name under which a container's interface is made, before its owner gives it the last one (15 characters)."""
    return f"{_HANDOVER}{identity[:12]}"


def alias(cluster: str, job_id: int, serial: int) -> str:
    """The ifalias that names the job's lease on a device."""
    return f"hpcnet:{cluster}:{job_id}:{serial}"


def parse_alias(text: str) -> tuple[str, int, int] | None:
    """``(cluster, job id, lease serial)`` of an ifalias of ours, or None."""
    match = _ALIAS.fullmatch(text)
    return (match[1], int(match[2]), int(match[3])) if match else None
