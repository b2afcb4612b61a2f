# SPDX-License-Identifier: Apache-2.0
"""Jobs' interfaces on this node, read now.

read_own(job_id, node)     a task of the job, in whose namespace it is: no privilege needed
read_job(job_id, node)     root, from the host's namespace
read_node(node)            root, all jobs of the node and their containers
read_mine(node)            anybody, from outside: the jobs that the caller has processes of

Neighbours are read where ``tables`` are given: an Epilog and Prometheus have no use for them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpcnet import names, slots
from hpcnet.counters.model import (
    CONTAINER,
    EGRESS,
    KINDS,
    PORT,
    SEGMENT,
    TASKS,
    Counters,
    Interface,
    Neighbours,
    NodeSample,
)
from hpcnet.kernel import infiniband, netns, rtnl, statistics
from hpcnet.kernel.statistics import Device

if TYPE_CHECKING:
    from pathlib import Path

    from hpcnet.counters.neighbours import Tables

_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")  # RFC 2863
_NOT_INSIDE = "no task of this job is in its network here (join=none?); root can read its counters"
_WORD = 4  # bytes that an InfiniBand data counter counts in one


Place = tuple[str, str]
"""Name of a namespace, and of an interface in it."""


def read_own(job_id: int, node: str, tables: Tables | None = None) -> NodeSample:
    """From inside: what the calling process's own namespace holds of the job."""
    with rtnl.Rtnl() as netlink:
        found = [each for each in statistics.devices(netlink, names.DEVICE_GROUP) if _is_of(each, job_id)]
        sample = _sample(job_id, node, found, "" if found else _NOT_INSIDE)
        if tables is None:
            return sample
        known = tables.of(netlink, found)
        return _acquainted(sample, {(names.netns(job_id), name): of for name, of in known.items()})


def read_job(job_id: int, node: str) -> NodeSample:
    """From the host's namespace, as root. A job that has no network here gives a problem."""
    try:
        with netns.inside(job_id), rtnl.Rtnl() as netlink:
            found = [each for each in statistics.devices(netlink, names.DEVICE_GROUP) if _is_of(each, job_id)]
        problem = "" if found else "its network holds no interface of hpcnet's"
    except FileNotFoundError:
        found, problem = [], "no network of this job on this node"
    except OSError as error:
        found, problem = [], f"its network cannot be read: {error.strerror or error}"
    return _sample(job_id, node, found, problem)


def read_node(node: str, tables: Tables | None = None) -> list[NodeSample]:
    """As root, all jobs that have a network here, in one pass over the node's namespaces."""
    own = {_identity(names.netns_path(job_id)): job_id for job_id in netns.pinned() if netns.exists(job_id)}
    found: dict[int, list[Interface]] = {job_id: [] for job_id in own.values()}
    seen: list[tuple[rtnl.Rtnl, list[Device], dict[str, str]]] = []
    with contextlib.ExitStack() as sockets:
        for namespace in netns.everywhere():
            inode = os.fstat(namespace).st_ino
            with netns.inside_fd(namespace):
                netlink = sockets.enter_context(rtnl.Rtnl())  # it stays in this namespace
                devices = statistics.devices(netlink, names.DEVICE_GROUP)
            places = {}
            for device in devices:
                alias = names.parse_alias(device.link.alias)
                if alias is None or alias[1] not in found:
                    continue
                interface = _interface(device, alias[1])
                if own.get(inode) != alias[1]:
                    interface = interface._replace(kind=CONTAINER, namespace=f"net:[{inode}]")
                found[alias[1]].append(interface)
                places[interface.device] = interface.namespace
            if places and tables is not None:
                seen.append((netlink, devices, places))
            else:
                netlink.close()
        samples = [_assemble(job_id, node, _named(job_id, interfaces)) for job_id, interfaces in found.items()]
        if tables is None:
            return samples
        known: dict[Place, Neighbours] = {}
        for netlink, devices, places in seen:
            of = tables.of(netlink, devices)
            known.update({(namespace_name, name): of[name] for name, namespace_name in places.items()})
        return [_acquainted(each, known) for each in samples]


def _acquainted(sample: NodeSample, known: Mapping[Place, Neighbours]) -> NodeSample:
    """With neighbours, read after the counters and the clock, of which rates are made: that may take a while."""
    interfaces = (each._replace(neighbours=known.get((each.namespace, each.device))) for each in sample.interfaces)
    return sample._replace(interfaces=tuple(interfaces))


def _named(job_id: int, interfaces: list[Interface]) -> list[Interface]:
    """Containers by the names that stand beside their addresses in the job's directory."""
    called = slots.called(job_id) if any(each.kind == CONTAINER for each in interfaces) else {}
    return [
        each._replace(name=name) if each.kind == CONTAINER and (name := _first(each.addresses, called)) else each
        for each in interfaces
    ]


def _first(addresses: tuple[str, ...], called: dict[str, str]) -> str:
    return next((called[text] for text in (each.partition("/")[0] for each in addresses) if text in called), "")


_KIND_OF = {names.TASKS_DEVICE: TASKS, names.VXLAN_DEVICE: SEGMENT, names.EGRESS_DEVICE: EGRESS}


def read_mine(node: str) -> list[NodeSample]:
    """Without privilege, by /proc: counters alone, of the tasks' namespaces; no MTU, addresses, containers."""
    from hpcnet.kernel import procnet  # not for the Epilog

    found: dict[int, list[Interface]] = {}
    for job_id, process in procnet.processes_of_jobs():
        if not found.setdefault(job_id, []):
            devices = procnet.devices(process)
            found[job_id] = [
                Interface(name, kind, Counters(**devices[name]), namespace=names.netns(job_id))
                for name, kind in _KIND_OF.items()
                if names.TASKS_DEVICE in devices and name in devices
            ]
    return [_assemble(job_id, node, own, "" if own else _NOT_INSIDE) for job_id, own in found.items()]


def _identity(path: str) -> int:
    return os.stat(path).st_ino


def _is_of(device: Device, job_id: int) -> bool:
    alias = names.parse_alias(device.link.alias)
    return alias is not None and alias[1] == job_id


def _sample(job_id: int, node: str, found: list[Device], problem: str) -> NodeSample:
    return _assemble(job_id, node, [_interface(device, job_id) for device in found], problem)


def _assemble(job_id: int, node: str, found: list[Interface], problem: str = "") -> NodeSample:
    clock = time.clock_gettime(time.CLOCK_BOOTTIME)
    interfaces = sorted(found, key=lambda each: KINDS.index(each.kind))
    return NodeSample(job_id, node, time.time(), (*interfaces, *ports(job_id)), problem, clock)


def _interface(device: Device, job_id: int) -> Interface:
    link = device.link
    kind = _KIND_OF.get(link.name, EGRESS)
    return Interface(
        device=link.name,
        kind=kind,
        counters=Counters(**device.counters),
        mtu=link.mtu or None,
        state=_OPERSTATES[link.operstate] if link.operstate < len(_OPERSTATES) else "",
        mac=link.address.hex(":"),
        addresses=device.addresses,
        namespace=names.netns(job_id),
        speed=device.speed,
    )


def ports(job_id: int = 0) -> tuple[Interface, ...]:
    """Ports of adapters that have an interface on this host; none where there is no InfiniBand or RoCE.

    sysfs shows every host of a machine all its adapters, of interfaces only the host's own, and a task those of
    its job alone. So where no adapter has one, it is the adapters of the job's uplink, if they are known.
    """
    if not os.path.isdir(f"{infiniband.SYSFS}/class/infiniband"):
        return ()
    adapters = sorted(infiniband.sysfs().glob("class/infiniband/*"))
    here = [adapter for adapter in adapters if _listed(f"{adapter}/device/net")]
    if not here:
        uplinks = _of_uplink(job_id)
        here = [adapter for adapter in adapters if not uplinks or adapter.name in uplinks]
    return tuple(
        _port(port) for adapter in here for port in sorted(adapter.glob("ports/*")) if (port / "counters").is_dir()
    )


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _of_uplink(job_id: int) -> list[str]:
    """Names of adapters, from what Prolog has published of the job."""
    with contextlib.suppress(OSError), open(f"{names.job_dir(job_id)}/network", encoding="utf-8") as file:
        return next((line.partition("=")[2].split() for line in file if line.startswith("adapters=")), [])
    return []


def _port(port: Path) -> Interface:
    """Source: Documentation/ABI/stable/sysfs-class-infiniband; IBTA's PortCounters count data in 4-byte words."""
    received, sent = _count(port, "port_rcv_data"), _count(port, "port_xmit_data")
    return Interface(
        device=f"{port.parents[1].name}/{port.name}",
        kind=PORT,
        counters=Counters(
            rx_bytes=None if received is None else received * _WORD,
            tx_bytes=None if sent is None else sent * _WORD,
            rx_packets=_count(port, "port_rcv_packets"),
            tx_packets=_count(port, "port_xmit_packets"),
            rx_errors=_count(port, "port_rcv_errors"),
            tx_dropped=_count(port, "port_xmit_discards"),
        ),
        state=_text(port / "state").rpartition(":")[2].strip(),
        speed=_speed(_text(port / "rate")),
    )


def _count(port: Path, name: str) -> int | None:
    text = _text(port / "counters" / name)
    return int(text) if text.isdecimal() else None


def _speed(rate: str) -> int | None:
    """``100 Gb/sec (4X EDR)`` -> bit/s."""
    number, _, unit = rate.partition(" ")
    try:
        return round(float(number) * 1e9) if unit.startswith("Gb/sec") else None
    except ValueError:
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
