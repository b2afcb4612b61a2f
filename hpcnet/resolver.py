# SPDX-License-Identifier: Apache-2.0
"""Which DNS servers tasks ask: those of the node's /etc/resolv.conf, or the ones behind a resolver on the node.

A resolver on 127.0.0.53 or another loopback address of the node cannot be reached from a job's network, which has
a loopback of its own; and systemd-resolved drops what comes there from other addresses (resolved-dns-stub.c), so
that translating addresses would not help. What it asks itself stands in a file, and is reached by the way out.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from hpcnet.errors import SiteError

OWN = "/etc/resolv.conf"

BEHIND = ("/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf")
"""Where systemd-resolved (systemd-resolved(8)) and NetworkManager name the servers that they ask."""


def text(site_file: str) -> str:
    """A resolv.conf (resolv.conf(5)) for tasks; empty: the node's own is the right one, or there is no better.

    ``site_file``: of the site's configuration, empty for none. Raises SiteError when that cannot be read.
    """
    if site_file:
        try:
            with open(site_file, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError as error:
            raise SiteError(f"[egress] resolv_conf = {site_file}: cannot be read: {error.strerror}") from None
    own = _read(OWN)
    if own is None or _reachable(own):
        return ""
    return next((made for made in map(_without_the_others, map(_read, BEHIND)) if made), "")


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _without_the_others(found: str | None) -> str:
    """The file with no servers but those that tasks reach: only the first three are asked. Empty: it has none."""
    if not found or not _reachable(found):
        return ""
    lines = found.splitlines()
    return "".join(f"{line}\n" for line in lines if line.split()[:1] != ["nameserver"] or _reachable(line))


def _reachable(found: str) -> bool:
    """Whether any server is at an address that the way out leads to: IPv4, and not the node's loopback."""
    words = (line.split() for line in found.splitlines())
    servers = (line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1)
    return any(isinstance(address, IPv4Address) and not address.is_loopback for address in map(_address, servers))


def _address(word: str) -> object:
    try:
        return ip_address(word.partition("%")[0])
    except ValueError:
        return None
