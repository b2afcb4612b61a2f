# SPDX-License-Identifier: Apache-2.0
"""The nodes' own addresses on the fabric, by the site's rule; never a look-up over a network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address

from hpcnet.config import Fabric
from hpcnet.errors import SiteError


def addresses(fabric: Fabric, nodes: Iterable[str]) -> dict[str, IPv4Address]:
    """Fabric address of each node. Raises SiteError naming the first node that has none."""
    if fabric.peers == "number" and fabric.peers_base is not None:
        return {node: _numbered(fabric.peers_base, node) for node in nodes}
    try:
        with open(fabric.peers_file, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        raise SiteError(f"[fabric] peers_file {fabric.peers_file}: {error.strerror}") from None
    return from_hosts(text, fabric, nodes)


def from_hosts(text: str, fabric: Fabric, nodes: Iterable[str]) -> dict[str, IPv4Address]:
    """Fabric addresses out of a hosts file's text (hosts(5)); of a name's several addresses the first."""
    known: dict[str, str] = {}
    for line in text.splitlines():
        address, *aliases = line.partition("#")[0].split() or [""]
        if ":" not in address:
            for alias in aliases:
                known.setdefault(alias, address)
    found = {}
    for node in nodes:
        name = fabric.peers_name.replace("{node}", node)
        try:
            found[node] = IPv4Address(known[name])
        except KeyError:
            raise SiteError(
                f"node {node} has no address on the fabric: add {name} to {fabric.peers_file}, "
                "or set [fabric] peers in hpcnet.toml"
            ) from None
        except AddressValueError:
            raise SiteError(f"{fabric.peers_file}: {name} has {known[name]!r}, not an IPv4 address") from None
    return found


def _numbered(base: IPv4Address, node: str) -> IPv4Address:
    numbers = re.findall("[0-9]+", node)
    if not numbers:
        raise SiteError(
            f'node {node} has no number in its name, so [fabric] peers = "number" gives it no address; '
            'use peers = "hosts"'
        )
    try:
        return base + int(numbers[-1])
    except ValueError:  # also of a number with more digits than Python reads
        raise SiteError(f"node {node}: [fabric] peers_base {base} + {numbers[-1]} is no IPv4 address") from None
