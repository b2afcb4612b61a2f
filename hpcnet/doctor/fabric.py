# SPDX-License-Identifier: Apache-2.0
"""The uplink, the nodes' addresses on the fabric, and whether jobs' addresses are anybody else's here."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_interface
from pathlib import Path

from hpcnet import config, fabric, names
from hpcnet.config import Site
from hpcnet.doctor.model import FAIL, LEFT_OUT, Finding, Host, fail, ok, raised, warn
from hpcnet.errors import HpcnetError
from hpcnet.kernel import infiniband, links, rtnl
from hpcnet.kernel.infiniband import Port
from hpcnet.kernel.links import Link

_ETHERNET = 1  # ARPHRD_ETHER
_UP, _UNKNOWN = 6, 0  # operational states (RFC 2863) of a device that can carry packets
_ROUTES = Path("/proc/net/route")


# The uplink.


@dataclass(frozen=True)
class Uplink:
    """What this host has under the name of [fabric] uplink."""

    link: Link | None
    addresses: tuple[str, ...] = ()
    """Of it, without prefix lengths."""
    mode: str = ""
    """Of IPoIB: datagram or connected."""
    pkey: str = ""
    port: Port | None = None


def check_uplink(host: Host) -> Iterable[Finding]:
    """The fabric interface of this host."""
    uplink = read_uplink(host.site.fabric.uplink)
    if not host.on_fabric:
        return elsewhere(judge_uplink(uplink, host.site.fabric, None))
    own = None
    with contextlib.suppress(HpcnetError):  # check_addresses says so
        own = fabric.addresses(host.site.fabric, [host.node])[host.node]
    return [*judge_uplink(uplink, host.site.fabric, own), *_partitions(uplink, host)]


def _partitions(uplink: Uplink, host: Host) -> Iterator[Finding]:
    """Whether the port has the partitions that jobs of mode=direct may have."""
    wanted = host.site.direct.pkey_pool
    if host.site.direct.allow_shared:
        wanted += (uplink.pkey, *host.site.offer.pkeys)
    if uplink.port is None or "direct" not in host.site.offer.modes:
        return
    for pkey in wanted:
        try:
            infiniband.require(host.site.fabric.uplink, host.node, pkey)
        except HpcnetError as error:
            yield raised(error)
            return
    yield ok(f"port {uplink.port.name} is a full member of {', '.join(wanted)}")


def read_uplink(name: str) -> Uplink:
    """From the kernel."""
    with rtnl.Rtnl() as netlink:
        link = links.find(netlink, name)
        if link is None:
            return Uplink(None)
        every = links.addresses(netlink)
    own = tuple(text.partition("/")[0] for index, text in every if index == link.index)
    if link.hardware != infiniband.ARPHRD_INFINIBAND:
        return Uplink(link, own)
    return Uplink(link, own, *infiniband.ipoib_facts(name), infiniband.port_of(name))


def judge_uplink(uplink: Uplink, wanted: config.Fabric, own: IPv4Address | None) -> list[Finding]:
    """``own``: this node's address by [fabric] peers; None: it must have none."""
    name, link = wanted.uplink, uplink.link
    if link is None:
        return [
            fail(f"there is no interface {name}", "load its driver, or correct [fabric] uplink in hpcnet.toml")
        ]
    found = [*_state(link), *_kind(uplink, link), *_mtu(link, wanted)]
    if own is not None and str(own) not in uplink.addresses:
        has = ", ".join(uplink.addresses) or "none"
        remedy = f"ip address add {own}/PREFIX dev {name}, or correct [fabric] peers in hpcnet.toml"
        found.append(fail(f"{name} has not {own}, this node's address by [fabric] peers; it has {has}", remedy))
    return found or [ok(_described(uplink, link, own))]


def _state(link: Link) -> Iterator[Finding]:
    if not link.flags & rtnl.IFF_UP:
        yield fail(f"{link.name} is down", f"ip link set {link.name} up, and see why it was not up since boot")
    elif link.operstate not in (_UP, _UNKNOWN):
        yield fail(f"{link.name} has no carrier", "check its cable, its port and the subnet manager or switch")


def _kind(uplink: Uplink, link: Link) -> Iterator[Finding]:
    if link.hardware == _ETHERNET:
        return
    if link.hardware != infiniband.ARPHRD_INFINIBAND:
        what = f"{link.name} is neither Ethernet nor InfiniBand (ARPHRD {link.hardware})"
        yield fail(what, "set [fabric] uplink to the fabric's own interface")
        return
    if uplink.port is None:
        yield warn(f"{link.name}: no InfiniBand port of it is found in sysfs", "see ibdev2netdev, and its driver")
    elif uplink.port.state != "ACTIVE":
        state = uplink.port.state or "in no known state"
        remedy = "check its cable and the subnet manager (ibstat, sminfo)"
        yield fail(f"port {uplink.port.name} of {link.name} is {state}, not ACTIVE", remedy)


def _mtu(link: Link, wanted: config.Fabric) -> Iterator[Finding]:
    if wanted.mtu is None:
        remedy = f"set [fabric] mtu = {link.mtu} in hpcnet.toml, and a node whose uplink has shrunk is noticed"
        yield warn(f"{link.name} has MTU {link.mtu}, and [fabric] mtu says nothing", remedy)
    elif link.mtu < wanted.mtu:
        remedy = f"ip link set {link.name} mtu {wanted.mtu} (IPoIB: mode connected for more than 4092)"
        yield fail(f"{link.name} has MTU {link.mtu}, less than [fabric] mtu = {wanted.mtu}", remedy)
    elif link.mtu > wanted.mtu:
        remedy = "if all nodes have that much, raise [fabric] mtu: jobs' networks get faster"
        yield warn(f"{link.name} has MTU {link.mtu}, more than [fabric] mtu = {wanted.mtu}", remedy)


def _described(uplink: Uplink, link: Link, own: IPv4Address | None) -> str:
    words = [f"{link.name} is up, MTU {link.mtu}"]
    if link.hardware == infiniband.ARPHRD_INFINIBAND:
        words.append(f"IPoIB {uplink.mode} {uplink.pkey}")
        words.append(f"port {uplink.port.name} {uplink.port.rate}".rstrip() if uplink.port else "")
    else:
        words.append("Ethernet")
    return ", ".join(word for word in (*words, str(own or "")) if word)


def elsewhere(found: list[Finding]) -> list[Finding]:
    """The same on a host where no job's network is built: nothing fails for it."""
    if any(finding.text.startswith("there is no interface") for finding in found):
        return [ok("this host has no uplink: it is not on the fabric")]
    return [warn(each.text, each.remedy) if each.status == FAIL else each for each in found]


# The rule by which nodes have their addresses.


def check_addresses(host: Host) -> Iterable[Finding]:
    """Every node of slurm.conf, by this host's own files."""
    nodes = list(host.named.nodes) or ([host.node] if host.node else [])
    if not nodes:
        return [Finding(LEFT_OUT, "nobody says which nodes there are", "start slurmctld")]
    return judge_addresses(nodes, host.site)


def judge_addresses(nodes: list[str], site: Site) -> list[Finding]:
    """Each node has an address by the rule, each its own, and none is of a pool that jobs' addresses are from."""
    try:
        known = fabric.addresses(site.fabric, nodes)
    except HpcnetError as error:
        what, _, remedy = str(error).partition(": add ")
        return [fail(what, f"add {remedy}" if remedy else "correct [fabric] peers in hpcnet.toml")]
    first: dict[IPv4Address, str] = {}
    for node, address in known.items():
        other = first.setdefault(address, node)
        if other != node:
            return [
                fail(f"{other} and {node} both have {address}", f"correct {_rule(site)}: jobs on both are refused")
            ]
        for key, pool in _pools(site).items():
            if address in pool:
                return [fail(f"{node} has {address}, which is in {key} = {pool}", f"choose another {key}")]
    return [ok(f"{_counted(len(known), 'node')}, each with an address of its own by {_rule(site)}")]


def _rule(site: Site) -> str:
    wanted = site.fabric
    return wanted.peers_file if wanted.peers == "hosts" else f"[fabric] peers_base {wanted.peers_base}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _pools(site: Site) -> dict[str, IPv4Network]:
    pools = {"[pool] ipv4": site.pool.ipv4} if "vxlan" in site.offer.modes else {}
    return {**pools, "[direct] ipv4": site.direct.ipv4} if "direct" in site.offer.modes else pools


# Whether the pools are free here.


def check_pools(host: Host) -> Iterable[Finding]:
    """Addresses and routes of this host against the pools of jobs' addresses."""
    with rtnl.Rtnl() as netlink:
        named = {link.index: link.name for link in links.every(netlink)}
        own = [(named.get(index, ""), text) for index, text in links.addresses(netlink)]
    return judge_pools(own, routes(_ROUTES.read_text(encoding="ascii")), host.site)


def routes(text: str) -> list[tuple[str, IPv4Network]]:
    """Interface and destination of each line of /proc/net/route but default routes (proc_pid_net(5))."""
    found = []
    for line in text.splitlines()[1:]:
        device, destination, *rest = line.split()
        network = IPv4Network((_packed(destination), bin(int(rest[5], 16)).count("1")), strict=False)
        if network.prefixlen:
            found.append((device, network))
    return found


def _packed(text: str) -> str:
    return socket.inet_ntoa(struct.pack("=I", int(text, 16)))


def judge_pools(
    own: Iterable[tuple[str, str]], routed: Iterable[tuple[str, IPv4Network]], site: Site
) -> list[Finding]:
    """``own``: interface and address with its prefix length; jobs' own links are not counted."""
    pools: Mapping[str, IPv4Network] = _pools(site)
    for device, text in own:
        address = ip_interface(text).ip
        for key, pool in pools.items():
            if address in pool and not names.parse_egress_link(device):
                what = f"{device} of this host has {address}, which is in {key} = {pool}"
                return [fail(what, f"choose another {key}: jobs are given these addresses")]
    for device, network in routed:
        for key, pool in pools.items():
            if network.overlaps(pool) and not names.parse_egress_link(device):
                what = f"this host routes {network} by {device}, which overlaps with {key} = {pool}"
                return [warn(what, f"choose another {key}, or see that nobody is behind that route in that range")]
    return [ok(f"{' and '.join(f'{key} {pool}' for key, pool in pools.items())}: nobody else's here")]
