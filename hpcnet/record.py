# SPDX-License-Identifier: Apache-2.0
"""The token on the job record: how a request and its lease travel with the job (DESIGN: the job record).

It is the last word of the job's ``extra`` or ``comment``, behind the user's own text:

    hpcnet:asked:<request>              by job_submit.lua, at submit
    hpcnet:lease:<request>:<lease>      by PrologSlurmctld; what the nodes build, and the job's account
    hpcnet:refused:<request>:<why>      by PrologSlurmctld; blanks of the reason are underscores

The request stays in front in every state, so that a requeued job can be leased again.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network

from hpcnet import names, request
from hpcnet.errors import SiteError, UserError
from hpcnet.frozen import frozen
from hpcnet.model import EGRESSES, IPOIB_MODES, JOINS, MODES, NONE, Lease, Request

VERSION = 1
"""Of the lease's form; a node refuses a lease of a version that it does not know."""

LIMIT = 1024
"""Characters that Slurm keeps of comment and extra."""

_ACCOUNT, _ACCOUNT_NAME = ",account=", "[A-Za-z0-9_.@+-]{1,64}"
"""Behind the lease where it is known and has such a name: Slurm itself takes any text."""

_KEYS = frozenset("v serial mode vni ipv4 ipv6 endpoints mtu join egress docker pkey ipoib shared".split())


@frozen
class Record:
    """A token: ``state`` is asked, lease or refused; ``lease`` and ``reason`` belong to the latter two."""

    state: str
    request: Request
    lease: Lease | None = None
    reason: str = ""
    account: str = ""
    """Slurm's, with the lease: 22.05 tells it to PrologSlurmctld and not to a Prolog. Empty when not known."""


def carries(text: str) -> bool:
    """Whether a comment or extra has a token of ours, broken or not."""
    return bool(_words(text))


def find(text: str) -> Record | None:
    """The record in a comment or extra, or None when it has none. Raises SiteError on a broken one."""
    words = _words(text)
    return parse(words[-1]) if words else None


def replace(text: str, record: Record) -> str:
    """``text`` with ``record`` at its end in place of any token it had; the user's own text is kept.

    Raises SiteError when the result would be longer than Slurm keeps.
    """
    own = re.sub(rf"(?:^|\s+){names.TOKEN}\S*", "", text).strip()
    stamped = f"{own} {token(record)}" if own else token(record)
    if len(stamped.encode("utf-8", "surrogateescape")) > LIMIT:
        raise SiteError(f"the job's comment has no room for hpcnet's token (limit {LIMIT} bytes)")
    return stamped


def token(record: Record) -> str:
    """The word for a record; :func:`parse` reads it back."""
    asked = f"{names.TOKEN}{record.state}:{request.text(record.request)}"
    if record.lease is not None:
        account = f"{_ACCOUNT}{record.account}" if re.fullmatch(_ACCOUNT_NAME, record.account) else ""
        return f"{asked}:{_lease_text(record.lease)}{account}"
    if record.state == "refused":
        return f"{asked}:{_one_word(record.reason)}"
    return asked


def parse(word: str) -> Record:
    """The record of a token. Raises SiteError when it is not one that this version writes."""
    parts = word.split(":", 3)
    state = parts[1] if len(parts) > 2 and parts[0] + ":" == names.TOKEN else ""
    try:
        if state == "asked" and len(parts) == 3:
            return Record(state, _request(parts[2]))
        if state == "lease" and len(parts) == 4:
            lease, given, account = parts[3].partition(_ACCOUNT)
            if given and not re.fullmatch(_ACCOUNT_NAME, account):
                raise ValueError(f"{account!r} is not an account")
            return Record(state, _request(parts[2]), lease=_lease(lease), account=account)
        if state == "refused" and len(parts) == 4:
            return Record(state, _request(parts[2]), reason=parts[3].replace("_", " "))
    except (UserError, ValueError) as error:
        raise SiteError(f"the job record's token {word[:200]!r} is broken: {error}") from None
    raise SiteError(f"the job record's token {word[:200]!r} is not of a form this version knows")


def _words(text: str) -> list[str]:
    return [word for word in text.split() if word.startswith(names.TOKEN)]


def _request(text: str) -> Request:
    parsed = request.parse(f"{names.WORD},{text}" if text else names.WORD)
    if parsed is None:
        raise ValueError("no request in it")
    return parsed


def _one_word(reason: str) -> str:
    """A reason as one ASCII word, short enough to leave the user's own text its room."""
    plain = reason.encode("ascii", "replace").decode()
    return re.sub(r"[^!-~]+", "_", plain)[:300]


def _lease_text(lease: Lease) -> str:
    values = {
        "v": VERSION,
        "serial": lease.serial,
        "mode": lease.mode,
        "vni": lease.vni,
        "ipv4": lease.ipv4,
        "ipv6": lease.ipv6,
        "endpoints": lease.endpoints,
        "mtu": lease.mtu,
        "join": lease.join,
        "egress": lease.egress,
        "docker": _yes_or_no(lease.docker),
        "pkey": lease.pkey,
        "ipoib": lease.ipoib,
        "shared": _yes_or_no(lease.shared),
    }
    return ",".join(f"{key}={value}" for key, value in values.items())


def _lease(text: str) -> Lease:
    pairs = [part.partition("=") for part in text.split(",")]
    values = {key: value for key, _, value in pairs}
    if values.get("v") != str(VERSION):
        raise ValueError(f"lease version {values.get('v')!r}, this node knows {VERSION}; update hpcnet on it")
    if len(values) != len(pairs) or values.keys() != _KEYS:
        raise ValueError("keys of the lease are missing, unknown or doubled")
    return Lease(
        serial=_number(values["serial"], 1, 2**63 - 1),
        mode=_choice(values["mode"], MODES),
        vni=_number(values["vni"], 0, 2**24 - 1),
        ipv4=IPv4Network(values["ipv4"]),
        ipv6=_slash64(values["ipv6"]),
        endpoints=_endpoints(values["endpoints"]),
        mtu=_mtu(values["mtu"]),
        join=_choice(values["join"], JOINS),
        egress=_choice(values["egress"], EGRESSES),
        docker=_choice(values["docker"], ("yes", "no")) == "yes",
        pkey=_pkey(values["pkey"]),
        ipoib=_choice(values["ipoib"], (*IPOIB_MODES, NONE)),
        shared=_choice(values["shared"], ("yes", "no")) == "yes",
    )


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _number(text: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,19}", text, re.ASCII) or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is not a number from {low} to {high}")
    return int(text)


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
    return text


def _endpoints(text: str) -> int:
    number = _number(text, 0, request.ENDPOINTS_MAX)
    if number & (number - 1):
        raise ValueError(f"{text!r} is neither 0 nor a power of two")
    return number


def _mtu(text: str) -> int:
    return 0 if text == "0" else _number(text, request.MTU_MIN, 65535)


def _pkey(text: str) -> str:
    if text != NONE and (not re.fullmatch("0x[89a-f][0-9a-f]{3}", text) or text == "0x8000"):
        raise ValueError(f"{text!r} is not a full-member pkey such as 0x8001")
    return text


def _slash64(text: str) -> IPv6Network:
    if not re.fullmatch("[0-9a-f:]+/64", text):  # a scope (fe80::%x) would be taken by ipaddress
        raise ValueError(f"{text!r} is not an IPv6 /64")
    return IPv6Network(text)
