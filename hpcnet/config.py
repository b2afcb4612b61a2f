# SPDX-License-Identifier: Apache-2.0
"""hpcnet.toml -> Site. Every key is known, typed and ranged here; an unknown one is an error.

site = load()                                # /etc/hpcnet/hpcnet.toml
site = parse('[fabric]\\nuplink = "ib0"')     # from text; what is missing has its default
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Callable, ClassVar, Union

import tomli

from hpcnet import names
from hpcnet.errors import SiteError
from hpcnet.model import EGRESSES, JOINS, MODES


@dataclass(frozen=True)
class Fabric:
    """The network that jobs' networks are built on."""

    uplink: str = "ib0"
    mtu: int | None = None
    peers: str = "hosts"
    peers_file: str = "/etc/hosts"
    peers_name: str = "{node}-ib"
    peers_base: IPv4Address | None = None


@dataclass(frozen=True)
class Pool:
    """What the controller leases from, and how."""

    vni: tuple[int, int] = (6815744, 6819839)
    ipv4: IPv4Network = IPv4Network("10.128.0.0/10")
    ipv6: IPv6Network = IPv6Network("fd68:7063:6e65::/48")
    store: str = "/var/spool/slurmctld/hpcnet.sqlite"
    cooldown: int = 10
    wait: int = 20

    section: ClassVar[str] = "pool"


@dataclass(frozen=True)
class Direct:
    """How networks of mode=direct are separated, and what the controller leases for them."""

    allow_shared: bool = False
    """Whether jobs may have networks that nothing separates from other jobs': Ethernet, or a pkey of several."""
    pkey_pool: tuple[str, ...] = ()
    """Partition keys of which each is one job's alone."""
    ipv4: IPv4Network = IPv4Network("10.192.0.0/10")
    ipv6: IPv6Network = IPv6Network("fd68:7063:6e66::/48")

    section: ClassVar[str] = "direct"


AnyPool = Union[Pool, Direct]
"""What a lease is taken from: Pool for mode=vxlan, Direct for mode=direct."""


@dataclass(frozen=True)
class Defaults:
    """What holds where the user's option does not say."""

    mode: str = "vxlan"
    endpoints: int = 8
    join: str = "tasks"
    egress: str = "host"
    docker: bool = False


@dataclass(frozen=True)
class Offer:
    """What users of this site may ask for."""

    modes: tuple[str, ...] = ("vxlan",)
    egress: tuple[str, ...] = EGRESSES
    docker: bool = False
    max_endpoints: int = 64
    pkeys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submit:
    """Policy at sbatch, srun and salloc; read by job_submit.lua."""

    record: str = "auto"
    licence: str = ""
    accounts: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    default_partitions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Docker:
    """How a node's dockerd is reached."""

    socket: str = "/run/docker.sock"
    deadline: int = 10
    """Seconds that dockerd may take in a Prolog, and again in an Epilog."""


@dataclass(frozen=True)
class Agent:
    """What else ``hpcnet agent`` serves."""

    metrics: str = ""
    """ADDRESS:PORT; empty: no metrics."""
    token_file: str = "/etc/hpcnet/metrics.token"


@dataclass(frozen=True)
class Hooks:
    """How the four hooks behave."""

    deadline: int = 30
    log: str = "syslog"
    accounts: str = ""
    """Directory for what each job has moved; empty: none is kept, it stands in the log alone."""


@dataclass(frozen=True)
class Site:
    """The whole of hpcnet.toml."""

    fabric: Fabric = field(default_factory=Fabric)
    pool: Pool = field(default_factory=Pool)
    direct: Direct = field(default_factory=Direct)
    defaults: Defaults = field(default_factory=Defaults)
    offer: Offer = field(default_factory=Offer)
    submit: Submit = field(default_factory=Submit)
    docker: Docker = field(default_factory=Docker)
    agent: Agent = field(default_factory=Agent)
    hooks: Hooks = field(default_factory=Hooks)


_SECTIONS: Mapping[str, Callable[..., Any]] = {
    "fabric": Fabric,
    "pool": Pool,
    "direct": Direct,
    "defaults": Defaults,
    "offer": Offer,
    "submit": Submit,
    "docker": Docker,
    "agent": Agent,
    "hooks": Hooks,
}

Check = Callable[[Any], Any]
"""Turns a TOML value into the Site's, or raises ValueError with what is allowed."""


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return value

    return check


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices or not isinstance(value, str):
            raise ValueError("one of " + ", ".join(choices))
        return value

    return check


def _text(pattern: str, meaning: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(meaning)
        return value

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _list_of(item: Check) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("a list")
        try:
            return tuple(item(entry) for entry in value)
        except ValueError as error:
            raise ValueError(f"a list; each entry {error}") from None

    return check


def _vni_range(value: Any) -> tuple[int, int]:
    number = _integer(1, 2**24 - 1)
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


def _ipv4_pool(value: Any) -> IPv4Network:
    try:
        network = IPv4Network(value)
    except ValueError:
        network = None
    if not isinstance(value, str) or network is None or not 8 <= network.prefixlen <= 28:
        raise ValueError("an IPv4 network from /8 to /28 with no host bits set, such as 10.128.0.0/10")
    return network


def _ipv6_pool(value: Any) -> IPv6Network:
    try:
        network = IPv6Network(value)
    except ValueError:
        network = None
    if not isinstance(value, str) or network is None or "%" in value or not 16 <= network.prefixlen <= 64:
        raise ValueError("an IPv6 network from /16 to /64 with no host bits set, such as fd68:7063:6e65::/48")
    return network


def _ipv4_address(value: Any) -> IPv4Address:
    try:
        if isinstance(value, str):
            return IPv4Address(value)
    except ValueError:
        pass
    raise ValueError("an IPv4 address, such as 10.2.0.0")


_ABSOLUTE = _text(r"/[^\0\n]+", "an absolute path")
_PKEYS = _list_of(_text(r"0x[89a-f][0-9a-f]{3}", "a full-member pkey such as 0x8001"))
_NAME = _text(r"[A-Za-z0-9_.@-]+", "a name of letters, digits, '_', '.', '@' and '-'")

_KEYS: Mapping[str, Mapping[str, Check]] = {
    "fabric": {
        "uplink": _text(r"[^\s/:]{1,15}", "an interface name of at most 15 characters"),
        "mtu": _integer(1330, 65535),
        "peers": _one_of("hosts", "number"),
        "peers_file": _ABSOLUTE,
        "peers_name": _text(r"[A-Za-z0-9_.-]*\{node\}[A-Za-z0-9_.-]*", "a host name with {node} in it"),
        "peers_base": _ipv4_address,
    },
    "pool": {
        "vni": _vni_range,
        "ipv4": _ipv4_pool,
        "ipv6": _ipv6_pool,
        "store": _ABSOLUTE,
        "cooldown": _integer(0, 86400),
        "wait": _integer(0, 300),
    },
    "direct": {
        "allow_shared": _boolean,
        "pkey_pool": _PKEYS,
        "ipv4": _ipv4_pool,
        "ipv6": _ipv6_pool,
    },
    "defaults": {
        "mode": _one_of(*MODES),
        "endpoints": _integer(1, 1024),
        "join": _one_of(*JOINS),
        "egress": _one_of(*EGRESSES),
        "docker": _boolean,
    },
    "offer": {
        "modes": _list_of(_one_of(*MODES)),
        "egress": _list_of(_one_of(*EGRESSES)),
        "docker": _boolean,
        "max_endpoints": _integer(1, 1024),
        "pkeys": _PKEYS,
    },
    "submit": {
        "record": _one_of("auto", "extra", "comment"),
        "licence": _text(r"[A-Za-z0-9_.@-]*", "a licence's name, or empty for none"),
        "accounts": _list_of(_NAME),
        "partitions": _list_of(_NAME),
        "qos": _list_of(_NAME),
        "default_partitions": _list_of(_NAME),
    },
    "docker": {
        "socket": _ABSOLUTE,
        "deadline": _integer(1, 3600),
    },
    "agent": {
        "metrics": _text(r"|[0-9.]+:[0-9]{1,5}", "an IPv4 address and port, such as 127.0.0.1:9834, or empty"),
        "token_file": _ABSOLUTE,
    },
    "hooks": {
        "deadline": _integer(1, 3600),
        "log": _text(r"syslog|/[^\0\n]+", '"syslog" or an absolute path'),
        "accounts": _text(r"|/[^\0\n]+", "an absolute path, or empty for none"),
    },
}


def parse(text: str, source: str = names.CONFIG_FILE) -> Site:
    """The Site of a configuration text; ``source`` is its name in errors. Raises SiteError."""
    try:
        document = tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError) as error:
        raise SiteError(f"{source}: not TOML: {error}") from None
    sections = {}
    for name, section in _SECTIONS.items():
        table = document.pop(name, {})
        if not isinstance(table, dict):
            raise SiteError(f"{source}: {name} must be a table: [{name}]")
        sections[name] = section(**_values(name, table, source))
    if document:
        unknown, known = min(document), ", ".join(f"[{name}]" for name in _KEYS)
        raise SiteError(f"{source}: unknown section or key {unknown!r}; known sections: {known}")
    site = Site(**sections)
    _check_together(site, source)
    return site


def _values(section: str, table: Mapping[str, Any], source: str) -> dict[str, Any]:
    checks = _KEYS[section]
    values = {}
    for key, value in table.items():
        if key not in checks:
            raise SiteError(f"{source}: unknown key {key!r} in [{section}]; known: {', '.join(checks)}")
        try:
            values[key] = checks[key](value)
        except ValueError as error:
            raise SiteError(f"{source}: [{section}] {key} = {value!r}: must be {error}") from None
    return values


def _check_together(site: Site, source: str) -> None:
    if site.fabric.peers == "number" and site.fabric.peers_base is None:
        raise SiteError(f'{source}: [fabric] peers = "number" needs peers_base, the address of node number 0')
    if site.defaults.mode not in site.offer.modes:
        raise SiteError(f"{source}: [defaults] mode = {site.defaults.mode!r} is not among [offer] modes")
    if site.defaults.egress not in site.offer.egress:
        raise SiteError(f"{source}: [defaults] egress = {site.defaults.egress!r} is not among [offer] egress")
    if site.defaults.docker and not site.offer.docker:
        raise SiteError(f"{source}: [defaults] docker = true, but [offer] docker = false")
    if "direct" in site.offer.modes and not (site.direct.allow_shared or site.direct.pkey_pool):
        raise SiteError(
            f'{source}: [offer] modes has "direct", in which nothing separates jobs: allow that with '
            "[direct] allow_shared = true, or give InfiniBand partitions of one job each in [direct] pkey_pool"
        )
    twice = sorted(set(site.offer.pkeys) & set(site.direct.pkey_pool))
    if twice:
        raise SiteError(
            f"{source}: {twice[0]} is in [offer] pkeys, for several jobs, and in [direct] pkey_pool, for one alone"
        )
    endpoints = 1 << (site.defaults.endpoints - 1).bit_length()  # as a lease rounds it
    if endpoints > site.offer.max_endpoints:
        rounded = f"endpoints = {site.defaults.endpoints} (rounded up to {endpoints})"
        raise SiteError(f"{source}: [defaults] {rounded} is more than [offer] max_endpoints")


def load(path: str = names.CONFIG_FILE) -> Site:
    """The Site of a configuration file. Raises SiteError, also when it cannot be read."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"), path)
    except OSError as error:
        raise SiteError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SiteError(f"{path}: not UTF-8") from None
