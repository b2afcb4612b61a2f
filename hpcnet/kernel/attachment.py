# SPDX-License-Identifier: Apache-2.0
"""The interface of one container: a child of the VXLAN device or of the uplink, in any namespace.

make(plan, endpoint, name, namespace)     a child there, down; Docker moves and configures it
bring_up(plan, endpoint, name, namespace) what Docker does, for a namespace that is not Docker's
"""

from __future__ import annotations

from hpcnet import names
from hpcnet.errors import NodeError
from hpcnet.kernel import child, interior, links, netns, rtnl, stray
from hpcnet.kernel.links import Link
from hpcnet.model import Endpoint, Plan


def make(plan: Plan, endpoint: Endpoint, name: str, namespace: int) -> Link:
    """A child for ``endpoint`` in ``namespace`` (a descriptor), down and without addresses.

    Raises NodeError, OSError; nothing is left then.
    """
    _create(plan, endpoint, name, namespace)  # outside: what has the name already is not ours to remove
    try:
        with netns.inside_fd(namespace), rtnl.Rtnl() as there:
            made = interior.existing(there, name)
            interior.set_alias(there, plan, made.index)
            if plan.ipoib and made.mtu != plan.mtu:
                there.send(_with(made.index, rtnl.number(rtnl.IFLA_MTU, plan.mtu)))
                made = interior.existing(there, name)
            return interior.with_mtu(made, plan)
    except BaseException:
        remove(name, namespace)
        raise


def _create(plan: Plan, endpoint: Endpoint, name: str, namespace: int) -> None:
    if plan.direct:
        with rtnl.Rtnl() as host:
            uplink = interior.existing(host, plan.uplink)
            if plan.ipoib:
                host.send(child.new_ipoib(plan.pkey, plan.ipoib, uplink.index, namespace, name))
            else:
                host.send(interior.new_macvlan(plan, endpoint, uplink.index, namespace, name))
        return
    with netns.inside(plan.job_id), rtnl.Rtnl() as job:
        vxlan = interior.existing(job, names.VXLAN_DEVICE)
        job.send(interior.new_macvlan(plan, endpoint, vxlan.index, namespace, name))


def _with(index: int, attribute: bytes) -> bytes:
    return rtnl.message(rtnl.RTM_NEWLINK, 0, rtnl.link_header(index), attribute)


def bring_up(plan: Plan, endpoint: Endpoint, name: str, namespace: int) -> str:
    """Rename the child to the first free one of hpc0, hpc1, ..., bring it up, with addresses and neighbours.

    Returns the name. Raises NodeError, OSError.
    """
    with netns.inside_fd(namespace), rtnl.Rtnl() as there:
        made = interior.existing(there, name)
        last = _rename(there, made.index)
        interior.setting(f"net/ipv6/conf/{last}/disable_ipv6", "0")
        interior.setting(f"net/ipv6/conf/{last}/addr_gen_mode", "1")  # its link-local address is planned, too
        interior.setting(f"net/ipv6/conf/{last}/accept_ra", "0")
        there.send(interior.up(made.index))
        there.send(*interior.addresses(plan, endpoint, made.index))
        if not plan.ipoib:
            there.send(*interior.neighbours(plan, made.index))
        return last


def _rename(netlink: rtnl.Rtnl, index: int) -> str:
    for number in range(100):
        name = f"hpc{number}"
        if links.find(netlink, name) is None:
            netlink.send(_with(index, rtnl.text(rtnl.IFLA_IFNAME, name)))
            return name
    raise NodeError("hpc0 to hpc99 are all taken there")


def remove(name: str, namespace: int) -> None:
    """Delete an interface of hpcnet's in that namespace; none of that name is fine, one of others' stays."""
    with netns.inside_fd(namespace), rtnl.Rtnl() as there:
        found = links.find(there, name)
        if found is not None and found.group == names.DEVICE_GROUP:
            links.delete(there, found.index)


def of_job(job_id: int, namespace: int) -> list[Link]:
    """The job's interfaces in that namespace."""
    with netns.inside_fd(namespace), rtnl.Rtnl() as there:
        return [link for link in links.every(there) if stray.job_of(link) == job_id]
