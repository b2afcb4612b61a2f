# SPDX-License-Identifier: Apache-2.0
"""hpcnet.toml -> Site. Every key is known, typed and ranged here; an unknown one is an error.

site = load()                                # /etc/hpcnet/hpcnet.toml
site = parse('[fabric]\\nuplink = "ib0"')     # from text; what is missing has its default
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, Callable, ClassVar, Union

import tomli

from hpcnet import interfaces, names, values
from hpcnet.errors import SiteError
from hpcnet.frozen import frozen
from hpcnet.model import EGRESSES, ENVS, JOINS, MODES, VXLAN_PORT


@frozen
class Fabric:
    """The network that jobs' networks are built on."""

    uplink: str = "ib0"
    mtu: int | None = None
    peers: str = "hosts"
    peers_file: str = "/etc/hosts"
    peers_name: str = "{node}-ib"
    peers_base: IPv4Address | None = None
    vxlan_port: int = VXLAN_PORT


@frozen
class Pool:
    """What the controller leases from, and how."""

    vni: tuple[int, int] = (6815744, 6819839)
    ipv4: IPv4Network = IPv4Network("10.128.0.0/10")
    ipv6: IPv6Network = IPv6Network("fd68:7063:6e65::/48")
    store: str = "/var/spool/slurmctld/hpcnet.sqlite"
    cooldown: int = 10
    wait: int = 20

    section: ClassVar[str] = "pool"


@frozen
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


@frozen
class Defaults:
    """What holds where the user's option does not say."""

    mode: str = "vxlan"
    endpoints: int = 8
    join: str = "tasks"
    egress: str = "host"
    docker: bool = False
    env: str = "site"


@frozen
class Offer:
    """What users of this site may ask for."""

    modes: tuple[str, ...] = ("vxlan",)
    egress: tuple[str, ...] = EGRESSES
    docker: bool = False
    max_endpoints: int = 64
    pkeys: tuple[str, ...] = ()


@frozen
class Submit:
    """Policy at sbatch, srun and salloc; read by job_submit.lua."""

    record: str = "auto"
    licence: str = ""
    accounts: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    default_partitions: tuple[str, ...] = ()


@frozen
class Egress:
    """What tasks with a way out find there."""

    resolv_conf: str = ""
    """Their /etc/resolv.conf; empty: the node's, or the servers behind it (:mod:`hpcnet.resolver`)."""


@frozen
class Docker:
    """How a node's dockerd is reached."""

    socket: str = "/run/docker.sock"
    deadline: int = 10
    """Seconds that dockerd may take in a Prolog, and again in an Epilog."""


@frozen
class Agent:
    """What else ``hpcnet agent`` serves."""

    metrics: str = ""
    """ADDRESS:PORT; empty: no metrics."""
    host: str = "{node}"
    """By which a viewer reaches a node's agent, at that port."""
    token_file: str = "/etc/hpcnet/metrics.token"


@frozen
class Hooks:
    """How the four hooks behave."""

    deadline: int = 30
    log: str = "syslog"
    accounts: str = ""
    """Directory for what each job has moved; empty: none is kept, it stands in the log alone."""


@frozen
class Site:
    """The whole of hpcnet.toml."""

    fabric: Fabric = Fabric()
    pool: Pool = Pool()
    direct: Direct = Direct()
    defaults: Defaults = Defaults()
    offer: Offer = Offer()
    submit: Submit = Submit()
    egress: Egress = Egress()
    docker: Docker = Docker()
    agent: Agent = Agent()
    hooks: Hooks = Hooks()
    environment: Mapping[str, str] = interfaces.DEFAULTS
    """Variables by which tasks' libraries are told their interface: :mod:`hpcnet.interfaces`."""

    def variables(self, env: str | None) -> Mapping[str, str]:
        """Those for a job with ``env=``; None: it did not say."""
        return self.environment if (env or self.defaults.env) == "site" else {}


_SECTIONS: Mapping[str, Callable[..., Any]] = {
    "fabric": Fabric,
    "pool": Pool,
    "direct": Direct,
    "defaults": Defaults,
    "offer": Offer,
    "submit": Submit,
    "egress": Egress,
    "docker": Docker,
    "agent": Agent,
    "hooks": Hooks,
}

_ABSOLUTE = values.text(r"/[^\0\n]+", "an absolute path")
_PKEYS = values.list_of(values.text(r"0x[89a-f][0-9a-f]{3}", "a full-member pkey such as 0x8001"))
_NAME = values.text(r"[A-Za-z0-9_.@-]+", "a name of letters, digits, '_', '.', '@' and '-'")
_HOST_NAME = values.text(r"[A-Za-z0-9_.-]*\{node\}[A-Za-z0-9_.-]*", "a host name with {node} in it")

_KEYS: Mapping[str, Mapping[str, values.Check]] = {
    "fabric": {
        "uplink": values.text(r"[^\s/:]{1,15}", "an interface name of at most 15 characters"),
        "mtu": values.integer(1330, 65535),
        "peers": values.one_of("hosts", "number"),
        "peers_file": _ABSOLUTE,
        "peers_name": _HOST_NAME,
        "peers_base": values.ipv4_address,
        # below what programs get as a port of their own, on hosts (32768) and in jobs (20000)
        "vxlan_port": values.integer(1024, 19999),
    },
    "pool": {
        "vni": values.vni_range,
        "ipv4": values.ipv4_pool,
        "ipv6": values.ipv6_pool,
        "store": _ABSOLUTE,
        "cooldown": values.integer(0, 86400),
        "wait": values.integer(0, 300),
    },
    "direct": {
        "allow_shared": values.boolean,
        "pkey_pool": _PKEYS,
        "ipv4": values.ipv4_pool,
        "ipv6": values.ipv6_pool,
    },
    "defaults": {
        "mode": values.one_of(*MODES),
        "endpoints": values.integer(1, 1024),
        "join": values.one_of(*JOINS),
        "egress": values.one_of(*EGRESSES),
        "docker": values.boolean,
        "env": values.one_of(*ENVS),
    },
    "offer": {
        "modes": values.list_of(values.one_of(*MODES)),
        "egress": values.list_of(values.one_of(*EGRESSES)),
        "docker": values.boolean,
        "max_endpoints": values.integer(1, 1024),
        "pkeys": _PKEYS,
    },
    "submit": {
        "record": values.one_of("auto", "extra", "comment"),
        "licence": values.text(r"[A-Za-z0-9_.@-]*", "a licence's name, or empty for none"),
        "accounts": values.list_of(_NAME),
        "partitions": values.list_of(_NAME),
        "qos": values.list_of(_NAME),
        "default_partitions": values.list_of(_NAME),
    },
    "egress": {
        "resolv_conf": values.text(r"|/[^\0\n]+", "an absolute path, or empty"),
    },
    "docker": {
        "socket": _ABSOLUTE,
        "deadline": values.integer(1, 3600),
    },
    "agent": {
        "metrics": values.text(
            r"|[0-9.]+:[0-9]{1,5}", "an IPv4 address and port, such as 127.0.0.1:9834, or empty"
        ),
        "host": _HOST_NAME,
        "token_file": _ABSOLUTE,
    },
    "hooks": {
        "deadline": values.integer(1, 3600),
        "log": values.text(r"syslog|/[^\0\n]+", '"syslog" or an absolute path'),
        "accounts": values.text(r"|/[^\0\n]+", "an absolute path, or empty for none"),
    },
}


def parse(text: str, source: str = names.CONFIG_FILE) -> Site:
    """The Site of a configuration text; ``source`` is its name in errors. Raises SiteError."""
    try:
        document = tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError) as error:
        raise SiteError(f"{source}: not TOML: {error}") from None
    tables = {name: document.pop(name, {}) for name in (*_SECTIONS, "environment")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SiteError(f"{source}: {name} must be a table: [{name}]")
    if document:
        unknown, known = min(document), ", ".join(f"[{name}]" for name in tables)
        raise SiteError(f"{source}: unknown section or key {unknown!r}; known sections: {known}")
    environment = _environment(tables.pop("environment"), source)
    sections = {name: _SECTIONS[name](**_settings(name, table, source)) for name, table in tables.items()}
    site = Site(**sections, environment=environment)
    _check_together(site, source)
    return site


def _environment(table: Mapping[str, Any], source: str) -> dict[str, str]:
    """The default variables and the site's, which go before."""
    variables = dict(interfaces.DEFAULTS)
    for name, value in table.items():
        try:
            variables[name] = interfaces.check(name, value)
        except ValueError as error:
            raise SiteError(f"{source}: [environment] {name!r} = {value!r}: must be {error}") from None
    if len(variables) > interfaces.LIMIT:
        raise SiteError(f"{source}: [environment] has {len(variables)} variables; at most {interfaces.LIMIT}")
    return variables


def _settings(section: str, table: Mapping[str, Any], source: str) -> dict[str, Any]:
    checks = _KEYS[section]
    settings = {}
    for key, value in table.items():
        if key not in checks:
            raise SiteError(f"{source}: unknown key {key!r} in [{section}]; known: {', '.join(checks)}")
        try:
            settings[key] = checks[key](value)
        except ValueError as error:
            raise SiteError(f"{source}: [{section}] {key} = {value!r}: must be {error}") from None
    return settings


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
        with open(path, encoding="utf-8") as file:
            return parse(file.read(), path)
    except OSError as error:
        raise SiteError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SiteError(f"{path}: not UTF-8") from None
