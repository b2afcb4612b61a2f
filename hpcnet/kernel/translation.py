# SPDX-License-Identifier: Apache-2.0
"""egress=host: what may pass the links between jobs and this node, and the NAT behind them.

A table of its own, which is there while jobs with a way out are: a rule that looks at connections makes the
kernel track those of the whole node. Packets go out of a job, and only answers come in; nothing goes from a job to
another one. A drop in another table of the node still holds.

The kernel forwards a packet if the interface by which it *came* has ``forwarding``; answers come by the node's
own. Where the node does not forward at all (net.ipv4.ip_forward is 0), these get it one by one, their names are
written to a file first, and what comes in by them and is no answer to a job is dropped, as it was before. The last
job that goes gives it back. Everything here is called under the node's lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from ipaddress import IPv4Address

from hpcnet import names
from hpcnet.config import Site
from hpcnet.kernel import links, nft, rtnl, sysctl
from hpcnet.names import NFT_EGRESS_TABLE

_FORWARDING = f"{names.STATE_DIR}/forwarding"

_BASE = """\
add table inet {table}
add set inet {table} links {{ type ifname . ipv4_addr; }}
add set inet {table} lent {{ type ifname; }}
add chain inet {table} outward
add chain inet {table} forward {{ type filter hook forward priority 0; }}
add chain inet {table} input {{ type filter hook input priority 0; }}
add chain inet {table} output {{ type filter hook output priority 0; }}
add chain inet {table} nat {{ type nat hook postrouting priority 100; }}
flush chain inet {table} outward
flush chain inet {table} forward
flush chain inet {table} input
flush chain inet {table} output
flush chain inet {table} nat
add rule inet {table} outward meta nfproto != ipv4 drop
add rule inet {table} outward iifname . ip saddr != @links drop
add rule inet {table} outward udp dport {port} drop
add rule inet {table} outward ip daddr {{ {jobs} }} reject with icmp type admin-prohibited
add rule inet {table} forward iifname "{link}*" oifname "{link}*" drop
add rule inet {table} forward iifname "{link}*" jump outward
add rule inet {table} forward oifname "{link}*" ct state established,related accept
add rule inet {table} forward oifname "{link}*" drop
add rule inet {table} forward iifname @lent drop
add rule inet {table} input iifname "{link}*" jump outward
add rule inet {table} output oifname "{link}*" ct state != {{ established, related }} drop
add rule inet {table} nat oifname != "{link}*" ip saddr {{ {jobs} }} masquerade
"""


def ruleset(site: Site) -> str:
    """The table as input of ``nft -f``. Sets keep their elements."""
    return _BASE.format(
        table=NFT_EGRESS_TABLE,
        link=names.EGRESS_LINK,
        port=site.fabric.vxlan_port,
        jobs=f"{site.pool.ipv4}, {site.direct.ipv4}",
    )


def admit(job_id: int, address: IPv4Address, site: Site) -> None:
    """Let packets of this address out by the job's link; a missing table is loaded. Raises NodeError."""
    lent = _lend()
    elements = f'add element inet {NFT_EGRESS_TABLE} links {{ "{names.egress_link(job_id)}" . {address} }}\n'
    elements += _guard("add", lent)
    if nft.apply(elements, may_miss=True):
        nft.apply(ruleset(site) + elements)
    for name in lent:  # not before the guard stands
        _forward(name, "1")


def expel(job_id: int) -> None:
    """Let nothing of the job out any more; with the last job the table goes, and the node forwards as before."""
    link = names.egress_link(job_id)
    found = nft.elements(NFT_EGRESS_TABLE, "links")
    own = [f'"{name}" . {address}' for name, address in found if name == link]
    if len(own) < len(found):
        if own:
            nft.apply(f"delete element inet {NFT_EGRESS_TABLE} links {{ {', '.join(own)} }}\n", may_miss=True)
        return
    if not _forwards_anyway():
        for name in _lent():
            _forward(name, "0")
    nft.apply(f"delete table inet {NFT_EGRESS_TABLE}\n", may_miss=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_FORWARDING)


def admitted(job_id: int) -> list[str]:
    """The addresses that may go out by the job's link."""
    found = nft.elements(NFT_EGRESS_TABLE, "links")
    return [str(address) for name, address in found if name == names.egress_link(job_id)]


def _lend() -> list[str]:
    """The node's interfaces that are to forward for jobs only, written down; none where it forwards anyway."""
    lent = _lent()
    if _forwards_anyway():
        if lent:
            nft.apply(_guard("delete", lent), may_miss=True)
            os.unlink(_FORWARDING)
        return []
    with rtnl.Rtnl() as host:
        found = [
            link for link in links.every(host) if link.flags & rtnl.IFF_UP and link.group != names.DEVICE_GROUP
        ]
    new = [link.name for link in found if link.name != "lo" and link.name not in lent and not _forwards(link.name)]
    if new:
        with open(_FORWARDING, "a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in new))
    return lent + new


def _lent() -> list[str]:
    """Interfaces that forward for us only."""
    try:
        with open(_FORWARDING, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _guard(verb: str, interfaces: Iterable[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in interfaces)
    return f"{verb} element inet {NFT_EGRESS_TABLE} lent {{ {quoted} }}\n" if quoted else ""


def _forwards_anyway() -> bool:
    return sysctl.read("net/ipv4/ip_forward") != "0"


def _forwards(interface: str) -> bool:
    return sysctl.read(f"net/ipv4/conf/{interface}/forwarding") != "0"  # None: it has gone since, or has no IPv4


def _forward(interface: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        sysctl.write(f"net/ipv4/conf/{interface}/forwarding", value)
