# SPDX-License-Identifier: Apache-2.0
"""A job's VXLAN segment on one node: the device in the job's namespace, the tasks' interface, static peers.

Nothing here asks the network anything: no ARP, no neighbour discovery, no multicast. Each function converges:
what is there already and is ours stays, what is missing is made.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from hpcnet import names
from hpcnet.errors import NodeError
from hpcnet.kernel import links, netns, rtnl
from hpcnet.kernel.links import Link
from hpcnet.model import VXLAN_PORT, Plan

IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_LIMIT, IFLA_VXLAN_PORT = 9, 15
_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE = 1, 4

LEARNED = 64
"""MACs that the device may learn beyond the planned ones: enough for strays, too few to fill memory."""

_BEFORE = (
    # of every device to come: no address, no solicitation, no autoconfiguration of its own
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    # packets may come in by another device than their answers leave by: none here
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    # what programs of a job expect: ping without privileges, wide port range, long accept queues
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/ip_local_port_range", "20000 60999"),
    ("net/core/somaxconn", "4096"),
)


def make_devices(plan: Plan) -> None:
    """The VXLAN device and the tasks' interface on it; new ones are down. Raises NodeError, OSError."""
    with rtnl.Rtnl() as host, netns.inside(plan.job_id) as namespace, rtnl.Rtnl() as job:
        for key, value in _BEFORE:
            _sysctl(key, value)
        vxlan = _ensure_vxlan(plan, host, job, namespace)
        _sysctl(f"net/ipv6/conf/{names.VXLAN_DEVICE}/disable_ipv6", "1")
        _ensure_tasks(plan, job, vxlan)


def _ensure_vxlan(plan: Plan, host: rtnl.Rtnl, job: rtnl.Rtnl, namespace: int) -> Link:
    uplink = links.find(host, plan.uplink)
    if uplink is None:
        raise NodeError(f"uplink {plan.uplink} vanished from {plan.node}")
    if links.find(job, names.VXLAN_DEVICE) is None:
        try:
            host.send(_new_vxlan(plan, uplink.index, namespace))
        except rtnl.RtnlError as error:
            raise NodeError(_vxlan_refused(plan, error)) from None
    vxlan = _existing(job, names.VXLAN_DEVICE)
    identity = (struct.pack("=I", plan.lease.vni), plan.tasks.underlay.packed)
    if vxlan.kind != "vxlan" or (vxlan.data.get(IFLA_VXLAN_ID), vxlan.data.get(IFLA_VXLAN_LOCAL)) != identity:
        raise NodeError(
            f"namespace {names.netns(plan.job_id)} on {plan.node} holds {names.VXLAN_DEVICE} of another network; "
            f"delete it: ip netns delete {names.netns(plan.job_id)}"
        )
    _alias(job, plan, vxlan.index)
    return _with_mtu(vxlan, plan)


def _new_vxlan(plan: Plan, uplink: int, namespace: int) -> bytes:
    data = (
        rtnl.number(IFLA_VXLAN_ID, plan.lease.vni)
        + rtnl.number(IFLA_VXLAN_LINK, uplink)
        + rtnl.attribute(IFLA_VXLAN_LOCAL, plan.tasks.underlay.packed)
        + rtnl.attribute(IFLA_VXLAN_LEARNING, b"\1")
        + rtnl.number(IFLA_VXLAN_LIMIT, len(plan.peers) + LEARNED)
        + rtnl.attribute(IFLA_VXLAN_PORT, struct.pack("!H", VXLAN_PORT))
    )
    return rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(),
        rtnl.text(rtnl.IFLA_IFNAME, names.VXLAN_DEVICE),
        rtnl.number(rtnl.IFLA_MTU, plan.mtu),
        rtnl.number(rtnl.IFLA_GROUP, names.DEVICE_GROUP),
        rtnl.number(rtnl.IFLA_NET_NS_FD, namespace),
        _link_info("vxlan", data),
    )


def _vxlan_refused(plan: Plan, error: rtnl.RtnlError) -> str:
    if error.errno == errno.EEXIST:
        return f"VNI {plan.lease.vni} is in use on {plan.node} already, by a device that is not of this job"
    if error.errno == errno.EOPNOTSUPP:
        return f"the kernel of {plan.node} has no VXLAN; load or build the module vxlan"
    return f"the kernel of {plan.node} refused the VXLAN device: {error.strerror}"


def _ensure_tasks(plan: Plan, job: rtnl.Rtnl, vxlan: Link) -> None:
    if links.find(job, names.TASKS_DEVICE) is None:
        mac = bytes.fromhex(plan.tasks.mac.replace(":", ""))
        mode = rtnl.number(_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE)
        job.send(
            rtnl.message(
                rtnl.RTM_NEWLINK,
                rtnl.CREATE | rtnl.EXCLUSIVE,
                rtnl.link_header(),
                rtnl.text(rtnl.IFLA_IFNAME, names.TASKS_DEVICE),
                rtnl.attribute(rtnl.IFLA_ADDRESS, mac),
                rtnl.number(rtnl.IFLA_MTU, plan.mtu),
                rtnl.number(rtnl.IFLA_LINK, vxlan.index),
                rtnl.number(rtnl.IFLA_GROUP, names.DEVICE_GROUP),
                _link_info("macvlan", mode),
            )
        )
    tasks = _existing(job, names.TASKS_DEVICE)
    _alias(job, plan, tasks.index)
    _with_mtu(tasks, plan)


def _link_info(kind: str, data: bytes) -> bytes:
    info = rtnl.text(rtnl.IFLA_INFO_KIND, kind) + rtnl.attribute(rtnl.IFLA_INFO_DATA, data)
    return rtnl.attribute(rtnl.IFLA_LINKINFO, info)


def _existing(job: rtnl.Rtnl, name: str) -> Link:
    link = links.find(job, name)
    if link is None:
        raise NodeError(f"the kernel made no {name}")
    return link


def _with_mtu(link: Link, plan: Plan) -> Link:
    """The kernel lowers a VXLAN device's MTU silently when its uplink carries less."""
    if link.mtu != plan.mtu:
        raise NodeError(
            f"{link.name} of job {plan.job_id} has MTU {link.mtu} on {plan.node}, not {plan.mtu}: "
            f"uplink {plan.uplink} carries less than the job's lease says"
        )
    return link


def _alias(job: rtnl.Rtnl, plan: Plan, index: int) -> None:
    alias = names.alias(plan.cluster, plan.job_id, plan.lease.serial)
    job.send(
        rtnl.message(
            rtnl.RTM_NEWLINK, 0, rtnl.link_header(index), rtnl.attribute(rtnl.IFLA_IFALIAS, alias.encode())
        )
    )


def _up(index: int) -> bytes:
    return rtnl.message(rtnl.RTM_NEWLINK, 0, rtnl.link_header(index, rtnl.IFF_UP, rtnl.IFF_UP))


def _addresses(plan: Plan, index: int) -> Iterator[bytes]:
    own, lease = plan.tasks, plan.lease
    for family, address, prefix, scope in (
        (socket.AF_INET, own.ipv4.packed, lease.ipv4.prefixlen, 0),
        (socket.AF_INET6, own.ipv6.packed, lease.ipv6.prefixlen, 0),
        (socket.AF_INET6, own.link_local.packed, 64, 253),
    ):
        yield rtnl.message(
            rtnl.RTM_NEWADDR,
            rtnl.CREATE | rtnl.REPLACE,
            rtnl.address_header(family, prefix, index, scope),
            rtnl.attribute(rtnl.IFA_LOCAL, address),
            rtnl.attribute(rtnl.IFA_ADDRESS, address),
            rtnl.number(rtnl.IFA_FLAGS, rtnl.IFA_F_PERMANENT | rtnl.IFA_F_NODAD),
        )


def connect(plan: Plan) -> None:
    """Devices up, addresses, and for every peer endpoint static forwarding (MAC -> VTEP) and neighbours.

    Raises NodeError, OSError.
    """
    with netns.inside(plan.job_id), rtnl.Rtnl() as job:
        vxlan, tasks = _existing(job, names.VXLAN_DEVICE), _existing(job, names.TASKS_DEVICE)
        try:
            job.send(*(_up(index) for index in (1, vxlan.index, tasks.index)))
        except rtnl.RtnlError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise NodeError(
                f"UDP port {VXLAN_PORT} is in use on {plan.node} by a program or another form of VXLAN device; "
                f"end it (ss -ulnp sport = :{VXLAN_PORT}; ip -d link show type vxlan)"
            ) from None
        job.send(*_addresses(plan, tasks.index))
        job.send(*_forwarding(plan, vxlan.index), *_neighbours(plan, tasks.index))


def _forwarding(plan: Plan, index: int) -> Iterator[bytes]:
    head = rtnl.neighbour_header(socket.AF_BRIDGE, index, rtnl.NUD_NOARP | rtnl.NUD_PERMANENT, rtnl.NTF_SELF)
    for peer in plan.peers:
        yield _entry(head, peer.underlay.packed, peer.mac)


def _neighbours(plan: Plan, index: int) -> Iterator[bytes]:
    head4 = rtnl.neighbour_header(socket.AF_INET, index, rtnl.NUD_PERMANENT)
    head6 = rtnl.neighbour_header(socket.AF_INET6, index, rtnl.NUD_PERMANENT)
    for peer in plan.peers:
        yield _entry(head4, peer.ipv4.packed, peer.mac)
        yield _entry(head6, peer.ipv6.packed, peer.mac)


def _entry(head: bytes, destination: bytes, mac: str) -> bytes:
    return rtnl.message(
        rtnl.RTM_NEWNEIGH,
        rtnl.CREATE | rtnl.REPLACE,
        head,
        rtnl.attribute(rtnl.NDA_DST, destination),
        rtnl.attribute(rtnl.NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))),
    )


def remove_devices(job_id: int) -> None:
    """Delete every device of ours in the job's namespace and see that it is gone; no namespace is fine.

    The VXLAN device goes first: its children in containers' namespaces go with it.
    """
    if not netns.exists(job_id):
        return
    with netns.inside(job_id), rtnl.Rtnl() as job:
        ours = [link for link in links.every(job) if link.group == names.DEVICE_GROUP]
        for link in sorted(ours, key=lambda link: link.kind != "vxlan"):
            links.delete(job, link.index)
        left = [link.name for link in links.every(job) if link.group == names.DEVICE_GROUP]
        if left:
            raise NodeError(f"job {job_id}: {', '.join(left)} cannot be deleted")


def find_vni(job_id: int) -> int | None:
    """VNI of the job's VXLAN device, or None when there is none."""
    vxlan = _vxlan_of(job_id)
    number = vxlan.data.get(IFLA_VXLAN_ID) if vxlan else None
    return int(struct.unpack("=I", number)[0]) if number else None


def alias(job_id: int) -> str | None:
    """The ifalias of the job's VXLAN device, or None when there is none."""
    vxlan = _vxlan_of(job_id)
    return vxlan.alias if vxlan else None


def _vxlan_of(job_id: int) -> Link | None:
    vxlan = _devices_of(job_id).get(names.VXLAN_DEVICE)
    return vxlan if vxlan and vxlan.group == names.DEVICE_GROUP else None


def strangers(job_id: int) -> list[str]:
    """Interfaces in the job's namespace that hpcnet did not make."""
    devices = _devices_of(job_id).values()
    return [link.name for link in devices if link.name not in netns.BORN and link.group != names.DEVICE_GROUP]


def foreign(job_id: int) -> list[str]:
    """The same of a namespace that is only called as the job's: nothing in it is ours."""
    ours = any(link.group == names.DEVICE_GROUP for link in _devices_of(job_id).values())
    return [] if ours else strangers(job_id)


def _devices_of(job_id: int) -> dict[str, Link]:
    if not netns.exists(job_id):
        return {}
    with netns.inside(job_id), rtnl.Rtnl() as job:
        return {link.name: link for link in links.every(job)}


def _sysctl(key: str, value: str) -> None:
    """Of the thread's namespace. A key that this kernel does not have is no error: IPv6 may be off."""
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/sys", key).write_text(value, encoding="ascii")
