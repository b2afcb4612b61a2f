# SPDX-License-Identifier: Apache-2.0
"""What a job's namespace holds in either mode: settings, addresses, static neighbours; and their removal.

Nothing here asks the network anything: no ARP, no neighbour discovery, no multicast. Each function converges:
what is there already and is ours stays, what is missing is made.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from hpcnet import names
from hpcnet.errors import NodeError
from hpcnet.kernel import links, netns, rtnl, stray, sysctl
from hpcnet.kernel.links import Link
from hpcnet.model import Endpoint, Plan

_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE = 1, 4

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
    # a node that routes hands that on to its new namespaces
    ("net/ipv4/ip_forward", "0"),
    # what programs of a job expect: ping without privileges, wide port range, long accept queues
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/ip_local_port_range", "20000 60999"),
    ("net/core/somaxconn", "4096"),
)


def prepare() -> None:
    """The settings of the namespace that the thread is in, before there are devices in it."""
    for key, value in _BEFORE:
        setting(key, value)


def setting(key: str, value: str) -> None:
    """Of the thread's namespace. A key that this kernel does not have is no error: IPv6 may be off."""
    with contextlib.suppress(FileNotFoundError):
        sysctl.write(key, value)


def link_info(kind: str, data: bytes) -> bytes:
    """IFLA_LINKINFO: what kind of interface, and the attributes of that kind."""
    info = rtnl.attribute(rtnl.IFLA_INFO_KIND, kind.encode()) + rtnl.attribute(rtnl.IFLA_INFO_DATA, data)
    return rtnl.attribute(rtnl.IFLA_LINKINFO, info)


def new_macvlan(
    plan: Plan, own: Endpoint, lower: int, namespace: int | None = None, name: str = names.TASKS_DEVICE
) -> bytes:
    """A macvlan child (bridge mode) for an endpoint, straight in ``namespace`` or else in the socket's."""
    return rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(),
        rtnl.text(rtnl.IFLA_IFNAME, name),
        rtnl.attribute(rtnl.IFLA_ADDRESS, bytes.fromhex(own.mac.replace(":", ""))),
        rtnl.number(rtnl.IFLA_MTU, plan.mtu),
        rtnl.number(rtnl.IFLA_LINK, lower),
        rtnl.number(rtnl.IFLA_GROUP, names.DEVICE_GROUP),
        b"" if namespace is None else rtnl.number(rtnl.IFLA_NET_NS_FD, namespace),
        link_info("macvlan", rtnl.number(_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE)),
    )


def existing(job: rtnl.Rtnl, name: str) -> Link:
    """The interface of this name, which must be there. Raises NodeError."""
    link = links.find(job, name)
    if link is None:
        raise NodeError(f"the kernel made no {name}")
    return link


def with_mtu(link: Link, plan: Plan) -> Link:
    """The interface, if its MTU is the planned one: the kernel lowers it silently when the uplink carries less."""
    if link.mtu != plan.mtu:
        raise NodeError(
            f"{link.name} of job {plan.job_id} has MTU {link.mtu} on {plan.node}, not {plan.mtu}: "
            f"uplink {plan.uplink} carries less than the job's lease says"
        )
    return link


def set_alias(job: rtnl.Rtnl, plan: Plan, index: int) -> None:
    """Name the lease on the interface; the kernel ignores an ifalias at creation."""
    alias = names.alias(plan.cluster, plan.job_id, plan.lease.serial)
    job.send(
        rtnl.message(
            rtnl.RTM_NEWLINK, 0, rtnl.link_header(index), rtnl.attribute(rtnl.IFLA_IFALIAS, alias.encode())
        )
    )


def up(index: int) -> bytes:
    """The message that brings an interface up."""
    return rtnl.message(rtnl.RTM_NEWLINK, 0, rtnl.link_header(index, rtnl.IFF_UP, rtnl.IFF_UP))


def addresses(plan: Plan, own: Endpoint, index: int) -> Iterator[bytes]:
    """The messages that give an endpoint's interface its addresses."""
    lease = plan.lease
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


def neighbours(plan: Plan, index: int) -> Iterator[bytes]:
    """The messages that give every peer endpoint's addresses their MAC."""
    head4 = rtnl.neighbour_header(socket.AF_INET, index, rtnl.NUD_PERMANENT)
    head6 = rtnl.neighbour_header(socket.AF_INET6, index, rtnl.NUD_PERMANENT)
    for peer in plan.peers:
        yield entry(head4, peer.ipv4.packed, peer.mac)
        yield entry(head6, peer.ipv6.packed, peer.mac)


def entry(head: bytes, destination: bytes, mac: str) -> bytes:
    """One neighbour or forwarding entry."""
    return rtnl.message(
        rtnl.RTM_NEWNEIGH,
        rtnl.CREATE | rtnl.REPLACE,
        head,
        rtnl.attribute(rtnl.NDA_DST, destination),
        rtnl.attribute(rtnl.NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))),
    )


def remove_devices(job_id: int, attached: bool = False) -> None:
    """Delete every device of the job and see that it is gone; no namespace is fine. Raises NodeError.

    With the VXLAN device go its children in containers' namespaces. An IPoIB child whose
    namespace died comes back to the host's, so that is looked through too; and so are all others, when the
    namespace of the job's name does not have what it should, or when containers may hold children of the uplink
    (``attached``).
    """
    found = False
    if netns.exists(job_id):
        with netns.inside(job_id), rtnl.Rtnl() as job:
            found = _delete_inside(job, job_id)
    with rtnl.Rtnl() as host:
        _delete(host, job_id)
        if attached or not found:
            for namespace, _ in stray.elsewhere():
                with netns.inside_fd(namespace), rtnl.Rtnl() as there:
                    _delete(there, job_id)
            # again: a container that ended meanwhile brought its child back
            _delete(host, job_id)


def _delete_inside(job: rtnl.Rtnl, job_id: int) -> bool:
    """Of the job's own namespace all of hpcnet's group; whether there was any."""
    if not _of_group(job):
        return False
    links.delete_group(job, names.DEVICE_GROUP)
    _require_none(_of_group(job), job_id)
    return True


def _of_group(netlink: rtnl.Rtnl) -> list[Link]:
    return [link for link in links.every(netlink) if link.group == names.DEVICE_GROUP]


def _delete(netlink: rtnl.Rtnl, job_id: int) -> None:
    """What is provably the job's: other jobs' devices may be here too."""
    found = [link for link in links.every(netlink) if stray.job_of(link) == job_id]
    for link in sorted(found, key=lambda link: link.kind != "vxlan"):
        links.delete(netlink, link.index)
    if found:
        _require_none([link for link in links.every(netlink) if stray.job_of(link) == job_id], job_id)


def _require_none(left: list[Link], job_id: int) -> None:
    if left:
        raise NodeError(f"job {job_id}: {', '.join(link.name for link in left)} cannot be deleted")


def alias(job_id: int) -> str | None:
    """The ifalias that says which lease the job's devices are of, or None when there are none."""
    found = devices(job_id)
    for name in (names.VXLAN_DEVICE, names.TASKS_DEVICE):
        if name in found and found[name].group == names.DEVICE_GROUP:
            return found[name].alias
    return None


def strangers(job_id: int) -> list[str]:
    """Interfaces in the job's namespace that hpcnet did not make."""
    found = devices(job_id).values()
    return [link.name for link in found if link.name not in netns.BORN and link.group != names.DEVICE_GROUP]


def foreign(job_id: int) -> list[str]:
    """The same of a namespace that is only called as the job's: nothing in it is ours."""
    ours = any(link.group == names.DEVICE_GROUP for link in devices(job_id).values())
    return [] if ours else strangers(job_id)


def devices(job_id: int) -> dict[str, Link]:
    """The interfaces in the job's namespace, by name; none when there is no namespace."""
    if not netns.exists(job_id):
        return {}
    with netns.inside(job_id), rtnl.Rtnl() as job:
        return {link.name: link for link in links.every(job)}
