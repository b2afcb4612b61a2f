# SPDX-License-Identifier: Apache-2.0
"""What a value of hpcnet.toml may be: checks give the Site's value, or raise ValueError with what is allowed."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, Callable

Check = Callable[[Any], Any]
"""Turns a TOML value into the Site's, or raises ValueError with what is allowed."""


def integer(low: int, high: int) -> Check:
    """From ``low`` to ``high``."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return value

    return check


def one_of(*choices: str) -> Check:
    """One of these words."""

    def check(value: Any) -> str:
        if value not in choices or not isinstance(value, str):
            raise ValueError("one of " + ", ".join(choices))
        return value

    return check


def text(pattern: str, meaning: str) -> Check:
    """Text of which all matches the pattern."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(meaning)
        return value

    return check


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def list_of(item: Check) -> Check:
    """A list, as a tuple."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("a list")
        try:
            return tuple(item(entry) for entry in value)
        except ValueError as error:
            raise ValueError(f"a list; each entry {error}") from None

    return check


def vni_range(value: Any) -> tuple[int, int]:
    """First and last."""
    number = integer(1, 2**24 - 1)
    meaning = "two integers [first, last] from 1 to 16777215, at most 65536 in all"
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(meaning)
    try:
        first, last = number(value[0]), number(value[1])
    except ValueError:
        raise ValueError(meaning) from None
    if not first <= last < first + 65536:
        raise ValueError(meaning)
    return first, last


def ipv4_pool(value: Any) -> IPv4Network:
    """What jobs get their IPv4 networks of."""
    try:
        network = IPv4Network(value)
    except ValueError:
        network = None
    if not isinstance(value, str) or network is None or not 8 <= network.prefixlen <= 28:
        raise ValueError("an IPv4 network from /8 to /28 with no host bits set, such as 10.128.0.0/10")
    return network


def ipv6_pool(value: Any) -> IPv6Network:
    """What jobs get their /64 of."""
    try:
        network = IPv6Network(value)
    except ValueError:
        network = None
    if not isinstance(value, str) or network is None or "%" in value or not 16 <= network.prefixlen <= 64:
        raise ValueError("an IPv6 network from /16 to /64 with no host bits set, such as fd68:7063:6e65::/48")
    return network


def ipv4_address(value: Any) -> IPv4Address:
    """One address."""
    try:
        if isinstance(value, str):
            return IPv4Address(value)
    except ValueError:
        pass
    raise ValueError("an IPv4 address, such as 10.2.0.0")
