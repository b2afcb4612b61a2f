# SPDX-License-Identifier: Apache-2.0
"""mode=direct: the tasks' interface is a child of the uplink, made straight in the job's namespace.

On InfiniBand an IPoIB child with a pkey of its own, on Ethernet a macvlan one. Nothing is encapsulated, so there
is no packet filter and no forwarding table. The 20-byte addresses of IPoIB are the kernel's to resolve; on
Ethernet the peers' MACs are planned and its neighbours static.
"""

from __future__ import annotations

import errno
import struct
import time

from hpcnet import names
from hpcnet.errors import NodeError, SiteError, UserError
from hpcnet.kernel import infiniband, interior, links, netns, rtnl
from hpcnet.kernel.links import Link
from hpcnet.model import IPOIB_MODES, Plan

IFLA_IPOIB_PKEY, IFLA_IPOIB_MODE, IFLA_IPOIB_UMCAST = 1, 2, 3

CARRIER_SECONDS = 10.0
"""How long a new child may take to join its partition's broadcast group."""

_POLL_SECONDS = 0.02


def require(plan: Plan) -> None:
    """Raises NodeError or SiteError when the uplink can have no such child; nothing is touched."""
    if plan.ipoib:
        infiniband.require(plan.uplink, plan.node, plan.pkey)


def make_device(plan: Plan) -> None:
    """The tasks' interface; a new one is down. Raises NodeError, UserError, OSError."""
    with rtnl.Rtnl() as host, netns.inside(plan.job_id) as namespace, rtnl.Rtnl() as job:
        interior.prepare()
        if links.find(job, names.TASKS_DEVICE) is None:
            _make(plan, host, namespace)
        child = interior.existing(job, names.TASKS_DEVICE)
        if not _is_planned(child, plan):
            raise NodeError(
                f"namespace {names.netns(plan.job_id)} on {plan.node} holds {names.TASKS_DEVICE} of another "
                f"network; delete it: ip -n {names.netns(plan.job_id)} link delete {names.TASKS_DEVICE}"
            )
        interior.set_alias(job, plan, child.index)
        if not plan.ipoib:
            interior.with_mtu(child, plan)


def _make(plan: Plan, host: rtnl.Rtnl, namespace: int) -> None:
    uplink = links.find(host, plan.uplink)
    if uplink is None:
        raise NodeError(f"uplink {plan.uplink} vanished from {plan.node}")
    _clear_name(plan, host)
    try:
        if plan.ipoib:
            host.send(new_ipoib(plan.pkey, plan.ipoib, uplink.index, namespace))
        else:
            host.send(interior.new_macvlan(plan, plan.tasks, uplink.index, namespace))
    except rtnl.RtnlError as error:
        if error.errno == errno.EINVAL and plan.lease.ipoib == "connected":
            raise UserError(
                f"ipoib=connected: uplink {plan.uplink} on {plan.node} has datagram mode only; leave ipoib out"
            ) from None
        raise NodeError(_refused(plan, error)) from None


def _clear_name(plan: Plan, host: rtnl.Rtnl) -> None:
    """The kernel makes no interface elsewhere by a name that the host has: an ended job's IPoIB child may."""
    taken = links.find(host, names.TASKS_DEVICE)
    if taken is None:
        return
    if taken.group != names.DEVICE_GROUP:
        raise NodeError(f"{plan.node} itself has an interface {names.TASKS_DEVICE}, which hpcnet did not make")
    links.delete(host, taken.index)


def _refused(plan: Plan, error: rtnl.RtnlError) -> str:
    kind = "IPoIB" if plan.ipoib else "macvlan"
    if error.errno == errno.EOPNOTSUPP:
        module = "ib_ipoib" if plan.ipoib else "macvlan"
        return f"the kernel of {plan.node} has no {kind}; load or build the module {module}"
    if error.errno == errno.EBUSY:
        return f"uplink {plan.uplink} on {plan.node} is a port of a bridge or bond, so it can have no child"
    hint = "; an IPoIB interface can have none" if error.errno == errno.EINVAL and not plan.ipoib else ""
    return f"the kernel of {plan.node} refused a {kind} child of {plan.uplink}: {error.strerror}{hint}"


def new_ipoib(pkey: str, mode: str, uplink: int, namespace: int, name: str = names.TASKS_DEVICE) -> bytes:
    """The request for an IPoIB child; ``uplink`` is an interface's index, ``namespace`` a descriptor."""
    data = (
        _short(IFLA_IPOIB_PKEY, int(pkey, 16))
        + _short(IFLA_IPOIB_MODE, IPOIB_MODES.index(mode))
        + _short(IFLA_IPOIB_UMCAST, 0)
    )
    return rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(),
        rtnl.number(rtnl.IFLA_NET_NS_FD, namespace),
        rtnl.number(rtnl.IFLA_GROUP, names.DEVICE_GROUP),
        rtnl.number(rtnl.IFLA_LINK, uplink),
        rtnl.text(rtnl.IFLA_IFNAME, name),
        interior.link_info("ipoib", data),
    )


def _short(kind: int, value: int) -> bytes:
    return rtnl.attribute(kind, struct.pack("=H", value))


def _is_planned(child: Link, plan: Plan) -> bool:
    if not plan.ipoib:
        return child.kind == "macvlan" and child.address == bytes.fromhex(plan.tasks.mac.replace(":", ""))
    wanted = struct.pack("=H", int(plan.pkey, 16)), struct.pack("=H", IPOIB_MODES.index(plan.ipoib))
    return child.kind == "ipoib" and (child.data.get(IFLA_IPOIB_PKEY), child.data.get(IFLA_IPOIB_MODE)) == wanted


def connect(plan: Plan) -> None:
    """The interface up with a carrier, its addresses, on Ethernet its neighbours. Raises NodeError, UserError."""
    with netns.inside(plan.job_id), rtnl.Rtnl() as job:
        child = interior.existing(job, names.TASKS_DEVICE)
        if plan.ipoib and child.mtu != plan.mtu:
            _set_mtu(job, child, plan)
        job.send(interior.up(1), interior.up(child.index))
        child = _with_carrier(job, plan)
        if plan.ipoib and child.mtu < plan.mtu:
            raise SiteError(
                f"partition {plan.pkey} carries {child.mtu} bytes on {plan.node}, not {plan.mtu}: ask for "
                f"mtu={child.mtu}, or have the site raise the partition's MTU in the subnet manager"
            )
        interior.with_mtu(child, plan)
        job.send(*interior.addresses(plan, plan.tasks, child.index))
        if not plan.ipoib:
            job.send(*interior.neighbours(plan, child.index))


def _set_mtu(job: rtnl.Rtnl, child: Link, plan: Plan) -> None:
    """An IPoIB interface takes no MTU at creation; and what it takes it may lower when it joins its partition."""
    request = rtnl.message(
        rtnl.RTM_NEWLINK, 0, rtnl.link_header(child.index), rtnl.number(rtnl.IFLA_MTU, plan.mtu)
    )
    try:
        job.send(request)
    except rtnl.RtnlError as error:
        if error.errno != errno.EINVAL:
            raise
        if not plan.lease.mtu:
            interior.with_mtu(child, plan)
        what = f"mtu={plan.mtu} is too large: an IPoIB child ({plan.ipoib}) of {plan.uplink} on {plan.node}"
        raise UserError(f"{what} allows {child.mtu}") from None


def _with_carrier(job: rtnl.Rtnl, plan: Plan) -> Link:
    deadline = time.monotonic() + CARRIER_SECONDS
    while True:
        child = interior.existing(job, names.TASKS_DEVICE)
        if child.flags & rtnl.IFF_LOWER_UP:
            return child
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    if plan.ipoib:
        raise SiteError(
            f"{plan.node} could not join partition {plan.pkey} within {CARRIER_SECONDS:.0f} s; "
            "see whether the subnet manager makes its IPoIB broadcast group (opensm: ipoib)"
        )
    raise NodeError(f"{names.TASKS_DEVICE} on {plan.node} has no carrier; check uplink {plan.uplink}")
