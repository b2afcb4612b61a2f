# SPDX-License-Identifier: Apache-2.0
"""Whether the host's rules let a packet through: nftables' rules, read and followed, nothing sent.

    judge(ruleset, "input", {"iifname": "ib0", "protocol": "udp"})     -> Answer(DROPPED, "inet firewalld x")

A rule that is not understood may match or not; what only such a rule decides is UNKNOWN. iptables' own tables are
seen when iptables is iptables-nft, as on every distribution of today.
Source: libnftables-json(5); nft(8), "A packet is accepted only if every base chain of its hook accepts it".
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PASSED, DROPPED, UNKNOWN = "passed", "dropped", "unknown"

_HOOKS = {
    "input": ("prerouting", "input"),
    "forward": ("prerouting", "forward"),
    "output": ("output", "postrouting"),
}
_FAMILIES = ("inet", "ip")
_DEPTH = 16  # of jumps, as the kernel's
_GOES_ON = ""  # a chain that says nothing

Packet = Mapping[str, Any]
"""What is known of it: iifname, oifname, protocol, dport, state (of its connection). Nothing else is."""


@dataclass(frozen=True)
class Answer:
    """What becomes of a packet, and in which table and chain; empty where every chain lets it through."""

    verdict: str
    where: str = ""


def judge(ruleset: Sequence[Mapping[str, Any]], hook: str, packet: Packet, own: Sequence[str] = ()) -> Answer:
    """``ruleset`` as ``nft --json list ruleset`` gives it; tables in ``own`` are passed over."""
    chains, rules = _sorted(ruleset, own)
    doubt = Answer(PASSED)
    for key, chain in chains.items():
        if chain.get("hook") not in _HOOKS[hook] or chain.get("type") == "nat":
            continue
        verdict = _base(key, chain, rules, packet)
        if verdict == DROPPED:
            return Answer(DROPPED, " ".join(key))
        if verdict == UNKNOWN:
            doubt = Answer(UNKNOWN, " ".join(key))
    return doubt


_Key = tuple[str, str, str]  # family, table, chain
_Rules = dict[_Key, list[list[Mapping[str, Any]]]]


def _sorted(
    ruleset: Sequence[Mapping[str, Any]], own: Sequence[str]
) -> tuple[dict[_Key, Mapping[str, Any]], _Rules]:
    chains: dict[_Key, Mapping[str, Any]] = {}
    rules: _Rules = {}
    for item in ruleset:
        chain, rule = item.get("chain"), item.get("rule")
        if chain and chain["family"] in _FAMILIES and chain["table"] not in own:
            chains[(chain["family"], chain["table"], chain["name"])] = chain
        if rule and rule["family"] in _FAMILIES and rule["table"] not in own:
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    return chains, rules


def _base(key: _Key, chain: Mapping[str, Any], rules: _Rules, packet: Packet) -> str:
    verdict = _follow(key, rules, packet, 0)
    if verdict != _GOES_ON:
        return verdict
    return DROPPED if chain.get("policy") == "drop" else PASSED


def _follow(key: _Key, rules: _Rules, packet: Packet, depth: int) -> str:
    """What a chain says: passed, dropped, unknown, or nothing."""
    if depth > _DEPTH:
        return UNKNOWN
    doubts: set[str] = set()
    for rule in rules.get(key, []):
        matches, verdict = _rule(rule, key, rules, packet, depth)
        if matches is False or verdict is None:
            continue
        if matches is True:
            return verdict if all(doubt == verdict for doubt in doubts) else UNKNOWN
        doubts.add(verdict)
    # Rules that may have decided otherwise than the chain's end leave the whole in doubt.
    return UNKNOWN if doubts - {_GOES_ON} else _GOES_ON


def _rule(
    rule: Sequence[Mapping[str, Any]], key: _Key, rules: _Rules, packet: Packet, depth: int
) -> tuple[bool | None, str | None]:
    """Whether it matches (None: perhaps), and its verdict (None: it has none, or only goes on)."""
    sure = True
    for statement in rule:
        for kind, body in statement.items():
            if kind == "match":
                matches = _match(body, packet)
                if matches is False:
                    return False, None
                sure = sure and matches is True
            elif kind == "vmap":
                found, target = _mapped(body, packet)
                if found is False:
                    return False, None
                verdict = _verdict(target, key, rules, packet, depth) if found else UNKNOWN
                return (True if sure and found else None), verdict
            elif kind in _VERDICTS:
                return (True if sure else None), _verdict(statement, key, rules, packet, depth)
            elif kind == "xt":
                return None, UNKNOWN  # iptables' own extension, its verdict perhaps too
            elif kind not in ("counter", "log", "mangle", "notrack"):
                sure = False
    return (True if sure else None), None


_VERDICTS = {"accept": PASSED, "drop": DROPPED, "reject": DROPPED, "return": _GOES_ON, "queue": UNKNOWN}
_VERDICTS.update(jump=UNKNOWN, goto=UNKNOWN)  # as their target says


def _verdict(statement: Mapping[str, Any], key: _Key, rules: _Rules, packet: Packet, depth: int) -> str | None:
    """Of a statement that has one; None: a jump that comes back."""
    ((kind, body),) = statement.items()
    if kind not in ("jump", "goto"):
        return _VERDICTS.get(kind, UNKNOWN)
    found = _follow((key[0], key[1], body["target"]), rules, packet, depth + 1)
    return None if kind == "jump" and found == _GOES_ON else found


def _mapped(body: Mapping[str, Any], packet: Packet) -> tuple[bool | None, Mapping[str, Any]]:
    """Whether a verdict map has what the packet has, and what it says then."""
    known, pairs = _value(body.get("key"), packet), body.get("data")
    pairs = pairs.get("set") if isinstance(pairs, dict) else None
    if known is None or not isinstance(pairs, list):
        return None, {}
    for value, verdict in pairs:
        found = _among(known, value)
        if found is not False:
            return found, verdict
    return False, {}


def _match(body: Mapping[str, Any], packet: Packet) -> bool | None:
    known = _value(body.get("left"), packet)
    if known is None:
        return None
    found = _among(known, body.get("right"))
    if found is None or body.get("op") in ("==", "in"):
        return found
    return not found if body.get("op") == "!=" else None


def _value(left: Any, packet: Packet) -> Any:
    """What the packet has where a match looks; None: that is not known."""
    if not isinstance(left, dict):
        return None
    if "meta" in left:
        names = {
            "iifname": "iifname",
            "oifname": "oifname",
            "iif": "iifname",
            "oif": "oifname",
            "l4proto": "protocol",
        }
        key = left["meta"].get("key")
        return "ipv4" if key == "nfproto" else packet.get(names.get(key, ""))
    if "payload" in left:
        protocol, field = left["payload"].get("protocol"), left["payload"].get("field")
        if (protocol, field) == ("ip", "protocol"):
            return packet.get("protocol")
        if protocol in ("tcp", "udp", "sctp", "dccp", "th") and "protocol" in packet:
            if protocol not in ("th", packet["protocol"]):
                return (protocol, "another protocol")  # equal to nothing
            return packet.get(field)
        return (protocol, "IPv6") if protocol in ("ip6", "icmpv6") else None
    if "ct" in left:
        return packet.get("state") if left["ct"].get("key") == "state" else None
    return None


def _among(known: Any, right: Any) -> bool | None:
    """Whether a value equals, or is in, the right side of a match; None: that is not known."""
    if isinstance(right, dict):
        if "range" in right and isinstance(known, int):
            low, high = right["range"]
            return bool(low <= known <= high) if isinstance(low, int) and isinstance(high, int) else None
        right = right.get("set")
    if isinstance(right, list):
        answers = [_among(known, each) for each in right]
        return True if True in answers else None if None in answers else False
    if right is None or isinstance(right, dict) or (isinstance(right, str) and right.startswith("@")):
        return None
    if isinstance(known, str) and isinstance(right, str):
        return fnmatch.fnmatchcase(known, right.replace("[", "[[]"))
    if isinstance(known, tuple):
        return False
    return bool(known == right) if type(known) is type(right) else None
