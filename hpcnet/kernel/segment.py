# SPDX-License-Identifier: Apache-2.0
"""mode=vxlan: a job's VXLAN segment on one node, the device in the job's namespace and static forwarding.

As all of :mod:`hpcnet.kernel.interior`, each function converges and asks the network nothing.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from hpcnet import names, phases
from hpcnet.errors import NodeError
from hpcnet.kernel import interior, links, netns, rtnl
from hpcnet.kernel.links import Link
from hpcnet.model import Plan

IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 3, 4, 7
IFLA_VXLAN_LIMIT, IFLA_VXLAN_PROXY, IFLA_VXLAN_PORT = 9, 11, 15

LEARNED = 64
"""MACs that the device may learn beyond the planned ones: enough for strays, too few to fill memory."""


def make_devices(plan: Plan) -> None:
    """The VXLAN device and the tasks' interface on it; new ones are down. Raises NodeError, OSError."""
    with rtnl.Rtnl() as host, netns.inside(plan.job_id) as namespace, rtnl.Rtnl() as job:
        interior.prepare()
        vxlan = _ensure_vxlan(plan, host, job, namespace)
        # The answers for containers need IPv6 on it; an address it never gets.
        interior.setting(f"net/ipv6/conf/{names.VXLAN_DEVICE}/disable_ipv6", "0" if plan.lease.docker else "1")
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
    vxlan = interior.existing(job, names.VXLAN_DEVICE)
    identity = (struct.pack("=I", plan.lease.vni), plan.tasks.underlay.packed)
    if vxlan.kind != "vxlan" or (vxlan.data.get(IFLA_VXLAN_ID), vxlan.data.get(IFLA_VXLAN_LOCAL)) != identity:
        raise NodeError(
            f"namespace {names.netns(plan.job_id)} on {plan.node} holds {names.VXLAN_DEVICE} of another network; "
            f"delete it: ip netns delete {names.netns(plan.job_id)}"
        )
    interior.set_alias(job, plan, vxlan.index)
    return interior.with_mtu(vxlan, plan)


def _new_vxlan(plan: Plan, uplink: int, namespace: int) -> bytes:
    data = (
        rtnl.number(IFLA_VXLAN_ID, plan.lease.vni)
        + rtnl.number(IFLA_VXLAN_LINK, uplink)
        + rtnl.attribute(IFLA_VXLAN_LOCAL, plan.tasks.underlay.packed)
        + rtnl.attribute(IFLA_VXLAN_LEARNING, b"\1")
        + rtnl.number(IFLA_VXLAN_LIMIT, len(plan.peers) + LEARNED)
        + rtnl.attribute(IFLA_VXLAN_PROXY, b"\1" if plan.lease.docker else b"\0")
        + rtnl.attribute(IFLA_VXLAN_PORT, struct.pack("!H", plan.vxlan_port))
    )
    return rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(),
        rtnl.text(rtnl.IFLA_IFNAME, names.VXLAN_DEVICE),
        rtnl.number(rtnl.IFLA_MTU, plan.mtu),
        rtnl.number(rtnl.IFLA_GROUP, names.DEVICE_GROUP),
        rtnl.number(rtnl.IFLA_NET_NS_FD, namespace),
        interior.link_info("vxlan", data),
    )


def _vxlan_refused(plan: Plan, error: rtnl.RtnlError) -> str:
    if error.errno == errno.EEXIST:
        return f"VNI {plan.lease.vni} is in use on {plan.node} already, by a device that is not of this job"
    if error.errno == errno.EOPNOTSUPP:
        return f"the kernel of {plan.node} has no VXLAN; load or build the module vxlan"
    return f"the kernel of {plan.node} refused the VXLAN device: {error.strerror}"


def _ensure_tasks(plan: Plan, job: rtnl.Rtnl, vxlan: Link) -> None:
    if links.find(job, names.TASKS_DEVICE) is None:
        job.send(interior.new_macvlan(plan, plan.tasks, vxlan.index))
    tasks = interior.existing(job, names.TASKS_DEVICE)
    interior.set_alias(job, plan, tasks.index)
    interior.with_mtu(tasks, plan)


def connect(plan: Plan) -> None:
    """Devices up, addresses, and for every peer endpoint static forwarding (MAC -> VTEP) and neighbours.

    Raises NodeError, OSError.
    """
    with netns.inside(plan.job_id), rtnl.Rtnl() as job:
        vxlan, tasks = interior.existing(job, names.VXLAN_DEVICE), interior.existing(job, names.TASKS_DEVICE)
        try:
            job.send(*(interior.up(index) for index in (1, vxlan.index, tasks.index)))
        except rtnl.RtnlError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise NodeError(
                f"UDP port {plan.vxlan_port} is in use on {plan.node} by a program or another form of VXLAN "
                "device; hpcnet doctor names it: end it, then hpcnet filter load; or set [fabric] vxlan_port"
            ) from None
        job.send(*interior.addresses(plan, plan.tasks, tasks.index))
        phases.passed("addresses")
        job.send(*_forwarding(plan, vxlan.index))
        phases.passed("forwarding")
        job.send(*interior.neighbours(plan, tasks.index))
        phases.passed("neighbours")
        if plan.lease.docker:
            # Nobody puts neighbours into Docker's containers: the device answers their questions from its own.
            job.send(*interior.neighbours(plan, vxlan.index))


def _forwarding(plan: Plan, index: int) -> Iterator[bytes]:
    head = rtnl.neighbour_header(socket.AF_BRIDGE, index, rtnl.NUD_NOARP | rtnl.NUD_PERMANENT, rtnl.NTF_SELF)
    for peer in plan.peers:
        yield interior.entry(head, peer.underlay.packed, peer.mac)


def find_vni(job_id: int) -> int | None:
    """VNI of the job's VXLAN device, or None when there is none."""
    vxlan = interior.devices(job_id).get(names.VXLAN_DEVICE)
    number = vxlan.data.get(IFLA_VXLAN_ID) if vxlan and vxlan.group == names.DEVICE_GROUP else None
    return int(struct.unpack("=I", number)[0]) if number else None
