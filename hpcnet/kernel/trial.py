# SPDX-License-Identifier: Apache-2.0
"""Whether this kernel makes what a job's network is made of: tried in a namespace that ends with the trial.

A module that is not loaded yet is loaded by it, as a job's Prolog would. Needs root.
"""

from __future__ import annotations

import difflib
import struct

from hpcnet.config import Site
from hpcnet.kernel import conntrack, egress, interior, links, netns, nft, rtnl, segment, translation
from hpcnet.kernel import filter as packet_filter
from hpcnet.model import VXLAN_PORT
from hpcnet.names import NFT_EGRESS_TABLE, NFT_TABLE

_LOWER = "trial"


def devices() -> dict[str, str]:
    """Why the kernel makes no network namespace, veth, vxlan or macvlan; empty texts: it does.

    What could not be tried for want of another one is left out.
    """
    found = {"network namespaces": ""}
    try:
        with netns.scratch(), rtnl.Rtnl() as netlink:
            found["veth"] = _refusal(netlink, "veth", b"")
            data = rtnl.number(segment.IFLA_VXLAN_ID, 1)
            data += rtnl.attribute(segment.IFLA_VXLAN_PORT, struct.pack("!H", VXLAN_PORT))
            found["vxlan"] = _refusal(netlink, "vxlan", data)
            lower = links.find(netlink, f"{_LOWER}veth") or links.find(netlink, f"{_LOWER}vxlan")
            if lower:
                found["macvlan"] = _refusal(netlink, "macvlan", b"", rtnl.number(rtnl.IFLA_LINK, lower.index))
    except OSError as error:
        found["network namespaces"] = error.strerror or str(error)
    return found


def _refusal(netlink: rtnl.Rtnl, kind: str, data: bytes, more: bytes = b"") -> str:
    try:
        netlink.send(
            rtnl.message(
                rtnl.RTM_NEWLINK,
                rtnl.CREATE | rtnl.EXCLUSIVE,
                rtnl.link_header(),
                rtnl.text(rtnl.IFLA_IFNAME, f"{_LOWER}{kind}"),
                more,
                interior.link_info(kind, data),
            )
        )
    except rtnl.RtnlError as error:
        return error.strerror or str(error)
    return ""


def filter_difference(site: Site) -> list[str]:
    """What the loaded packet filter lacks ("-") or has beyond ("+") what these settings give; its elements apart.

    Both are printed by the same nft. Raises NodeError: this kernel or nft does not take the table at all.
    """
    return _difference(NFT_TABLE, packet_filter.ruleset(site))


def translation_difference(site: Site) -> list[str]:
    """The same of the table of jobs' way out, which is there while one of them has one."""
    return _difference(NFT_EGRESS_TABLE, translation.ruleset(site))


def _difference(table: str, ruleset: str) -> list[str]:
    with netns.scratch():
        nft.apply(ruleset)
        wanted = nft.listed(table)
    lines = list(difflib.unified_diff(wanted, nft.listed(table), lineterm="", n=0))[2:]
    return [f"{line[0]} {line[1:]}" for line in lines if not line.startswith("@@")]


def takes_translation() -> None:
    """Try the table of jobs' way out, and to forget connections. Raises NodeError."""
    with netns.scratch():
        nft.apply(translation.ruleset(Site()))
        conntrack.forget(egress.GATEWAY)
