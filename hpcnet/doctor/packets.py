# SPDX-License-Identifier: Apache-2.0
"""hpcnet's packet filter, and the site's own rules beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hpcnet import names
from hpcnet.config import Site
from hpcnet.doctor import firewall
from hpcnet.doctor.firewall import DROPPED, UNKNOWN, Answer
from hpcnet.doctor.model import Finding, Host, fail, ok, warn
from hpcnet.kernel import links, nft, rtnl, trial
from hpcnet.names import NFT_EGRESS_TABLE, NFT_TABLE

_LOAD = "hpcnet filter load; systemctl enable hpcnet-filter loads it at boot"
_LISTED = 3  # differing lines that are printed
_ALLOW = {
    "firewalld": "firewall-cmd --permanent --zone=trusted --add-interface={uplink}, then --reload",
    "": "allow what comes in and goes out by {uplink} to UDP port {port}, before that chain's drop",
}
_WAY_OUT = 'see docs/install.md, The way out, for the rule; or [offer] egress = ["none"]'


# hpcnet's own table.


def check_filter(host: Host) -> Iterable[Finding]:
    """The table of this boot, and that of jobs' way out if there is one, against what this configuration gives."""
    if not host.on_fabric and not _has(host.site.fabric.uplink):
        return [ok("this host has no uplink: it needs none")]
    found = judge_filter(trial.filter_difference(host.site))
    if nft.listed(NFT_EGRESS_TABLE):
        found += judge_filter(trial.translation_difference(host.site), NFT_EGRESS_TABLE)
    return found


def _has(uplink: str) -> bool:
    with rtnl.Rtnl() as netlink:
        return links.find(netlink, uplink) is not None


def judge_filter(difference: list[str], table: str = NFT_TABLE) -> list[Finding]:
    """``difference``: lines that the loaded table lacks (-) or has beyond (+)."""
    if any(line.startswith("- table") for line in difference):
        return [fail(f"the table inet {table} is not loaded: any user here can send into jobs' networks", _LOAD)]
    if difference:
        lines = "; ".join(difference[:_LISTED]) + ("; ..." if len(difference) > _LISTED else "")
        return [fail(f"the table inet {table} is not what hpcnet.toml and this hpcnet give: {lines}", _LOAD)]
    return [ok(f"the table inet {table} is loaded, as hpcnet.toml wants it")]


# The site's rules.


def check_firewall(host: Host) -> Iterable[Finding]:
    """Whether the site's own rules let jobs' packets pass on this node."""
    ruleset, uplink = nft.ruleset(), host.site.fabric.uplink
    own = (NFT_TABLE, NFT_EGRESS_TABLE)
    vxlan = {"protocol": "udp", "dport": host.site.fabric.vxlan_port, "state": "new"}
    answers = {
        "input": firewall.judge(ruleset, "input", {**vxlan, "iifname": uplink}, own),
        "output": firewall.judge(ruleset, "output", {**vxlan, "oifname": uplink}, own),
    }
    link, way_out = f"{names.EGRESS_LINK}1", {}
    if "host" in host.site.offer.egress:
        out, back = {"iifname": link, "state": "new"}, {"oifname": link, "state": "established"}
        way_out = {
            "goes out": firewall.judge(ruleset, "forward", {**out, "protocol": "tcp"}, own),
            "comes back": firewall.judge(ruleset, "forward", {**back, "protocol": "tcp"}, own),
        }
    return judge_firewall(answers, way_out, host.site)


def judge_firewall(vxlan: Mapping[str, Answer], way_out: Mapping[str, Answer], site: Site) -> list[Finding]:
    """What becomes of VXLAN packets by hook, and of what a job sends out by its node."""
    found = []
    for hook, answer in vxlan.items() if "vxlan" in site.offer.modes else ():
        if answer.verdict == DROPPED:
            by = f"UDP {site.fabric.vxlan_port} ({hook}) by {site.fabric.uplink}"
            what = f"chain {answer.where} drops {by}: the nodes of a job do not reach each other"
            remedy = _ALLOW["firewalld" if "firewalld" in answer.where else ""]
            found.append(fail(what, remedy.format(uplink=site.fabric.uplink, port=site.fabric.vxlan_port)))
    for direction, answer in way_out.items():
        if answer.verdict == DROPPED:
            what = f"chain {answer.where} drops what {direction} by a job's link to its node (egress=host)"
            found.append(warn(what, _WAY_OUT))
    if found:
        return found
    doubts = {answer.where for answer in (*vxlan.values(), *way_out.values()) if answer.verdict == UNKNOWN}
    not_read = f" (not followed to the end: {', '.join(sorted(doubts))})" if doubts else ""
    return [ok(f"no rule of the site's is seen to drop jobs' packets{not_read}")]
