# SPDX-License-Identifier: Apache-2.0
"""hpcnet's own nftables table: who may send into a job's VXLAN, and from whom it is taken.

Two layers. *Out*: on every host of the fabric, nothing but the kernel itself sends to the VXLAN port, and
nothing to it is forwarded: whatever VNI a program writes first, UDP_SEGMENT lets it send more datagrams in one
packet, of which no rule sees any but the first. What the kernel encapsulates for a program, in a VXLAN device of
the host's own, still has that program's socket; but it passed here once before, on its way into that device, and
bears the priority that it was given then, which no unprivileged program can set. *In*: a packet of a VNI of ours
is taken only from an address that is a peer of that job, an element of one set. Other VNIs are left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address

from hpcnet.config import Site
from hpcnet.kernel import nft
from hpcnet.names import NFT_TABLE, VXLAN_DEVICE

_TUNNELS = '"vxlan", "bridge", "openvswitch"'
_TUNNELLED = "6870:6e01"  # as a traffic class; programs reach 0 to 6 (socket(7), SO_PRIORITY)

# @th,96,24: 96 bits behind the start of the UDP header (UDP 64, VXLAN flags 32) stands the VNI, 24 bits.
_BASE = """\
add table inet {table}
add set inet {table} vtep {{ typeof @th,96,24 . ip saddr; }}
add chain inet {table} output {{ type filter hook output priority -300; }}
add chain inet {table} postrouting {{ type filter hook postrouting priority 300; }}
add chain inet {table} forward {{ type filter hook forward priority -300; }}
add chain inet {table} input {{ type filter hook input priority -300; }}
flush chain inet {table} output
flush chain inet {table} postrouting
flush chain inet {table} forward
flush chain inet {table} input
add rule inet {table} output oifname "{device}*" drop
add rule inet {table} postrouting oifname != "{uplink}" meta oifkind {{ {tunnels} }} meta priority set {tunnelled}
add rule inet {table} postrouting udp dport {port} meta skuid >= 0 meta priority != {tunnelled} drop
add rule inet {table} forward oifname "{uplink}" udp dport {port} drop
add rule inet {table} forward iifname "{device}*" drop
add rule inet {table} input iifname "{device}*" drop
add rule inet {table} input udp dport != {port} accept
add rule inet {table} input meta l4proto != udp accept
add rule inet {table} input @th,96,24 < {first} accept
add rule inet {table} input @th,96,24 > {last} accept
add rule inet {table} input meta nfproto ipv6 drop
add rule inet {table} input iifname != "{uplink}" drop
add rule inet {table} input @th,96,24 . ip saddr != @vtep drop
"""


def ruleset(site: Site) -> str:
    """The base table as input of ``nft -f``: loading it again keeps the set's elements."""
    return _BASE.format(
        table=NFT_TABLE,
        device=VXLAN_DEVICE,
        port=site.fabric.vxlan_port,
        tunnels=_TUNNELS,
        tunnelled=_TUNNELLED,
        uplink=site.fabric.uplink,
        first=site.pool.vni[0],
        last=site.pool.vni[1],
    )


def load(site: Site) -> None:
    """Load the base table, in one transaction. Raises NodeError."""
    nft.apply(ruleset(site))


def admit(site: Site, vni: int, vteps: Iterable[IPv4Address]) -> None:
    """Take the job's packets from its peers, in one transaction; the base table is loaded where it is missing.

    Raises NodeError.
    """
    elements = _elements("add", vni, vteps)
    missing = nft.apply(elements or f"list set inet {NFT_TABLE} vtep\n", may_miss=True)
    if missing:
        nft.apply(ruleset(site) + elements)


def expel(
    vni: int, vteps: Iterable[IPv4Address] | None = None, keep: Collection[IPv4Address] = frozenset()
) -> None:
    """Take nothing of this VNI any more, but from ``keep``. Gone already is fine. Raises NodeError.

    ``vteps``: what the set is known to hold of it; None, or where it does not: it is read.
    """
    if vteps is None or nft.apply(expelling(vni, vteps, keep), may_miss=True):
        known = sorted(admitted(vni).difference(keep))
        nft.apply(_elements("delete", vni, known), may_miss=True)


def expelling(vni: int, vteps: Iterable[IPv4Address], keep: Collection[IPv4Address] = frozenset()) -> str:
    """What :func:`expel` tells nft first, for a transaction that does more."""
    return _elements("delete", vni, [address for address in vteps if address not in keep])


def admitted(vni: int) -> set[IPv4Address]:
    """The peers that the set admits for a VNI; empty when there is no table."""
    return elements().get(vni, set())


def elements() -> dict[int, set[IPv4Address]]:
    """By VNI: the peers that the set admits; empty when there is no table. Raises NodeError."""
    found: dict[int, set[IPv4Address]] = {}
    for number, address in nft.elements(NFT_TABLE, "vtep"):
        found.setdefault(int(number), set()).add(IPv4Address(address))
    return found


def _elements(verb: str, vni: int, vteps: Iterable[IPv4Address]) -> str:
    pairs = ", ".join(f"{vni} . {address}" for address in vteps)
    return f"{verb} element inet {NFT_TABLE} vtep {{ {pairs} }}\n" if pairs else ""
