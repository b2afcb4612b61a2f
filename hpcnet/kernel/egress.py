# SPDX-License-Identifier: Apache-2.0
"""egress=host: the link between a job's namespace and the node, a veth pair without any address.

In the namespace it is ``hpcout`` with the default route, whose source address is the tasks' own on ``hpc0``: no
library finds an address on the link that it could take for a network, and a program that asks which address it has
towards the world is told the one that its peers reach. On the node it is ``hpce<job>`` with a route to that one
address. The packet filter around it is :mod:`hpcnet.kernel.translation`.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

from hpcnet import names
from hpcnet.errors import NodeError
from hpcnet.kernel import interior, links, netns, rtnl, sysctl
from hpcnet.model import Plan

GATEWAY = IPv4Address("192.0.0.8")
"""Next hop of the default route, which no device has: the dummy address of RFC 7600, good for nothing else."""

MTU = 1500
"""What every way on from the node carries."""

NODE_MAC, JOB_MAC = "02:68:70:6e:65:01", "02:68:70:6e:65:02"
"""Of the link's two ends; the same for every job, since no link has more."""

_VETH_INFO_PEER = 1
_SCOPE_LINK = 253


def connect(plan: Plan) -> None:
    """Make the link, both ends up, with routes and static neighbours; the job's addresses must be there.

    Converges. Raises NodeError, OSError.
    """
    name = names.egress_link(plan.job_id)
    with rtnl.Rtnl() as host, netns.inside(plan.job_id) as namespace, rtnl.Rtnl() as job:
        outside, inside = links.find(host, name), links.find(job, names.EGRESS_DEVICE)
        if outside and outside.group != names.DEVICE_GROUP:
            raise NodeError(f"{plan.node} has an interface {name} that hpcnet did not make; rename it")
        if outside is None or inside is None:
            for netlink, half in ((host, outside), (job, inside)):
                if half:
                    links.delete(netlink, half.index)
            host.send(_new_link(name, namespace))
        interior.setting(f"net/ipv6/conf/{names.EGRESS_DEVICE}/disable_ipv6", "1")
        inside = interior.existing(job, names.EGRESS_DEVICE)
        interior.set_alias(job, plan, inside.index)
        outer = interior.existing(host, name)
        interior.set_alias(host, plan, outer.index)
        job.send(interior.up(inside.index), *_inside(plan, inside.index))
    _guard(name)
    with rtnl.Rtnl() as host:
        host.send(interior.up(outer.index))
        _route_to_job(plan, host, outer.index)


def _new_link(name: str, namespace: int) -> bytes:
    peer = b"".join(
        (
            rtnl.link_header(),
            rtnl.text(rtnl.IFLA_IFNAME, names.EGRESS_DEVICE),
            *_end(JOB_MAC),
            rtnl.number(rtnl.IFLA_NET_NS_FD, namespace),
        )
    )
    return rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(),
        rtnl.text(rtnl.IFLA_IFNAME, name),
        *_end(NODE_MAC),
        interior.link_info("veth", rtnl.attribute(_VETH_INFO_PEER, peer)),
    )


def _end(mac: str) -> tuple[bytes, ...]:
    return (
        rtnl.attribute(rtnl.IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))),
        rtnl.number(rtnl.IFLA_MTU, MTU),
        rtnl.number(rtnl.IFLA_GROUP, names.DEVICE_GROUP),
    )


def _inside(plan: Plan, index: int) -> tuple[bytes, bytes]:
    """The messages for the namespace: the gateway's MAC, and the default route by it."""
    return (
        interior.entry(rtnl.neighbour_header(socket.AF_INET, index, rtnl.NUD_PERMANENT), GATEWAY.packed, NODE_MAC),
        rtnl.message(
            rtnl.RTM_NEWROUTE,
            rtnl.CREATE | rtnl.REPLACE,
            rtnl.route_header(0, flags=rtnl.RTNH_F_ONLINK),
            rtnl.attribute(rtnl.RTA_GATEWAY, GATEWAY.packed),
            rtnl.attribute(rtnl.RTA_PREFSRC, plan.tasks.ipv4.packed),
            rtnl.number(rtnl.RTA_OIF, index),
        ),
    )


def _guard(name: str) -> None:
    """The node's end before it goes up: no IPv6, no address but the job's, and what it brings may go on."""
    interior.setting(f"net/ipv6/conf/{name}/disable_ipv6", "1")
    for key, value in (
        ("rp_filter", "1"),
        ("forwarding", "1"),
        ("accept_redirects", "0"),
        ("send_redirects", "0"),
    ):
        sysctl.write(f"net/ipv4/conf/{name}/{key}", value)


def _route_to_job(plan: Plan, host: rtnl.Rtnl, index: int) -> None:
    """The job's address is on this link, and nowhere else."""
    address = plan.tasks.ipv4.packed
    head = rtnl.neighbour_header(socket.AF_INET, index, rtnl.NUD_PERMANENT)
    host.send(
        interior.entry(head, address, JOB_MAC),
        rtnl.message(
            rtnl.RTM_NEWROUTE,
            rtnl.CREATE | rtnl.REPLACE,
            rtnl.route_header(32, _SCOPE_LINK),
            rtnl.attribute(rtnl.RTA_DST, address),
            rtnl.number(rtnl.RTA_OIF, index),
        ),
    )
