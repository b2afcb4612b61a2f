# SPDX-License-Identifier: Apache-2.0
"""The grammar of ``--network=ib[,key=value]...`` (DESIGN: what users type).

    asked = parse("ib,mtu=9000,docker=yes")     # Request(mtu=9000, docker=True); None: not our option
    check(asked, site.offer, site.direct, site.defaults.mode)    # raises UserError: this site does not offer it
    text(asked)                                 # "mtu=9000,docker=yes"; parse("ib," + that) is the same again

job_submit.lua holds the same grammar and the same messages, word for word; tests/grammar binds the two.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Protocol

from hpcnet import names
from hpcnet.errors import UserError
from hpcnet.model import EGRESSES, ENVS, IPOIB_MODES, JOINS, MODES, VXLAN_OVERHEAD, Request

LENGTH = 256
"""Longest option in bytes."""

MTU_MIN = 1280
"""The least that IPv6 allows (RFC 8200)."""

MTU_MAX = 65520
"""The largest of IPoIB in connected mode."""

DATAGRAM_MTU_MAX = 4092
"""The largest of IPoIB in datagram mode: the largest InfiniBand MTU, 4096, less 4 (RFC 4391)."""

ENDPOINTS_MAX = 1024

_INTEGER = re.compile(r"[1-9][0-9]{0,8}")
_PKEY = re.compile(r"0x[0-9a-f]{1,4}")
_FULL_MEMBER = 0x8000
_SHOWN = 32  # bytes of a value that a message repeats


class Offer(Protocol):
    """What users of a site may ask for; ``config.Offer`` is one."""

    @property
    def modes(self) -> tuple[str, ...]:
        """Of :data:`hpcnet.model.MODES`."""

    @property
    def egress(self) -> tuple[str, ...]:
        """Of :data:`hpcnet.model.EGRESSES`."""

    @property
    def docker(self) -> bool:
        """Whether Docker networks are made."""

    @property
    def max_endpoints(self) -> int:
        """Per node."""

    @property
    def pkeys(self) -> tuple[str, ...]:
        """Canonical, such as ``0x8001``."""


def parse(option: str) -> Request | None:
    """The Request of a ``--network`` option, or None when its first word is not ours. Raises UserError."""
    first, *parts = option.split(",")
    if first != names.WORD:
        return None
    size = len(_bytes(option))
    if size > LENGTH:
        raise _error(f"the option is {size} bytes long; at most {LENGTH}")
    values: dict[str, Any] = {}
    for part in parts:
        key, value = _pair(part)
        if key in values:
            raise _error(f"{key} is given twice")
        values[key] = value
    return Request(**values)


def text(request: Request) -> str:
    """The canonical form without the leading ``ib``: keys in Request's order; empty when nothing was said."""
    said = ((key, getattr(request, key)) for key in _KEYS)
    return ",".join(f"{key}={_word(value)}" for key, value in said if value is not None)


class Direct(Protocol):
    """What mode=direct may use; ``config.Direct`` is one."""

    @property
    def allow_shared(self) -> bool:
        """Whether several jobs may be on one partition."""

    @property
    def pkey_pool(self) -> tuple[str, ...]:
        """Partition keys for one job each."""


def check(
    request: Request,
    offer: Offer,
    direct: Direct,
    default_mode: str = "vxlan",
    uplink_mtu: int | None = None,
) -> None:
    """Raises UserError when the request contradicts itself or asks for more than the site offers.

    ``default_mode`` is the site's mode when the request names none; ``uplink_mtu`` the fabric's, if known.
    """
    if request.mode is not None and request.mode not in offer.modes:
        raise _not_offered("mode", request.mode, offer.modes)
    mode = request.mode or default_mode
    for key, value in (("pkey", request.pkey), ("ipoib", request.ipoib)):
        if value is not None and mode != "direct":
            raise _error(f"{key}={value} needs mode=direct; here it would be mode={mode}")
    pkeys = (*(offer.pkeys if direct.allow_shared else ()), *(("auto",) if direct.pkey_pool else ()))
    if request.pkey is not None and request.pkey not in pkeys:
        raise _not_offered("pkey", request.pkey, pkeys)
    largest = mtu_limit(mode, request.ipoib, uplink_mtu)
    if request.mtu is not None and request.mtu > largest:
        what = f"ipoib={request.ipoib}" if request.ipoib else f"mode={mode}"
        raise _error(f"mtu={request.mtu} is too large for {what} here; at most {largest}")
    if request.endpoints is not None and request.endpoints > offer.max_endpoints:
        rounded = f"endpoints={request.endpoints} (a power of two)"
        raise _error(f"{rounded} is more than is offered here; at most {offer.max_endpoints}")
    if request.egress is not None and request.egress not in offer.egress:
        raise _not_offered("egress", request.egress, offer.egress)
    if request.docker and not offer.docker:
        raise _not_offered("docker", "yes", ("no",))


def mtu_limit(mode: str, ipoib: str | None, uplink_mtu: int | None) -> int:
    """The largest MTU of a job's interface in bytes; ``uplink_mtu`` is the fabric's, if known.

    An IPoIB child may be connected on an uplink that is not, and the other way round.
    """
    if ipoib == "connected":
        return MTU_MAX
    largest = min(uplink_mtu or MTU_MAX, MTU_MAX)
    if ipoib == "datagram":
        return min(largest, DATAGRAM_MTU_MAX)
    return largest - (VXLAN_OVERHEAD if mode == "vxlan" else 0)


def _pair(part: str) -> tuple[str, Any]:
    """Key and value of one ``key=value``."""
    if not part:
        raise _error(f"an empty part between commas; write {names.WORD}[,key=value]...")
    key, _, value = part.partition("=")
    if key not in _KEYS:
        raise _error(f"unknown key {_quoted(key)}; known{_lower(key)}: {', '.join(_KEYS)}")
    reader, meaning = _KEYS[key]
    read = reader(value)
    if read is None:
        raise _error(f"{key}={_quoted(value)}: must be {meaning}{_lower(value)}")
    return key, read


Reader = Callable[[str], Any]
"""Turns the text behind ``key=`` into Request's value; None: it may not be that."""


def _one_of(*choices: str) -> tuple[Reader, str]:
    return (lambda value: value if value in choices else None), " or ".join(choices)


def _integer(low: int, high: int) -> tuple[Reader, str]:
    def read(value: str) -> int | None:
        return int(value) if _INTEGER.fullmatch(value) and low <= int(value) <= high else None

    return read, f"an integer from {low} to {high}"


def _endpoints() -> tuple[Reader, str]:
    integer, meaning = _integer(1, ENDPOINTS_MAX)

    def read(value: str) -> int | None:
        number = integer(value)
        return 1 << (number - 1).bit_length() if number else None

    return read, meaning


def _pkey(value: str) -> str | None:
    if value == "auto":
        return value
    if not _PKEY.fullmatch(value) or int(value, 16) in (0, _FULL_MEMBER):
        return None
    return f"0x{int(value, 16) | _FULL_MEMBER:04x}"


def _docker(value: str) -> bool | None:
    return {"yes": True, "no": False}.get(value)


_KEYS: dict[str, tuple[Reader, str]] = {
    "mode": _one_of(*MODES),
    "mtu": _integer(MTU_MIN, MTU_MAX),
    "pkey": (_pkey, "a partition key such as 0x8001, or auto"),
    "ipoib": _one_of(*IPOIB_MODES),
    "endpoints": _endpoints(),
    "join": _one_of(*JOINS),
    "egress": _one_of(*EGRESSES),
    "docker": (_docker, "yes or no"),
    "env": _one_of(*ENVS),
}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _error(problem: str) -> UserError:
    return UserError(f"--network={names.WORD}: {problem}")


def _not_offered(key: str, value: str, offered: tuple[str, ...]) -> UserError:
    return _error(f"{key}={value} is not offered here; offered: {', '.join(offered) or 'nothing'}")


def _lower(word: str) -> str:
    return ", in lower case" if re.search("[A-Z]", word) else ""


def _bytes(word: str) -> bytes:
    return word.encode("utf-8", "backslashreplace")


def _quoted(word: str) -> str:
    """The word in quotes for a message: cut, and with every byte that is not printable ASCII escaped."""
    raw = _bytes(word)
    shown = "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in raw[:_SHOWN])
    return f'"{shown}{"..." if len(raw) > _SHOWN else ""}"'
