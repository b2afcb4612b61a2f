# SPDX-License-Identifier: Apache-2.0
"""Devices of jobs that no namespace's name leads to: in the host's own namespace, or in one whose pin is gone.

``ip netns delete`` beside hpcnet leaves a namespace alive for as long as a process is in it, VXLAN device and all;
an IPoIB child whose namespace died comes back to the host's. A device is known by its group and its ifalias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hpcnet import names
from hpcnet.kernel import infiniband, links, netns, rtnl
from hpcnet.kernel.links import Link


def job_of(link: Link) -> int | None:
    """Id of the job whose device this is, or None when it is not provably hpcnet's.

    A link to the node that was not yet told whose it is is known by its name.
    """
    if link.group != names.DEVICE_GROUP:
        return None
    identity = names.parse_alias(link.alias)
    return identity[1] if identity else names.parse_egress_link(link.name)


def on_host() -> list[Link]:
    """Devices of jobs in the namespace that the caller is in."""
    with rtnl.Rtnl() as host:
        return [link for link in links.every(host) if job_of(link)]


def elsewhere() -> Iterator[tuple[int, list[Link]]]:
    """Every other namespace that holds devices of jobs of this host, and these devices.

    The file descriptor is closed after use. Of this host: a machine may run several, in namespaces of their own,
    with jobs of the same names. So one of the devices must hang on an interface of the caller's namespace.
    """
    with netns.own() as home:
        with rtnl.Rtnl() as host:
            ports = _ports(links.every(host))
        for namespace in netns.everywhere():
            with netns.inside_fd(namespace), rtnl.Rtnl() as there:
                found = [link for link in links.every(there) if job_of(link)]
                host_id = links.namespace_id(there, home) if found else -1
            if any(link.link_namespace == host_id != -1 for link in found) or ports & _ports(found):
                yield namespace, found


def tunnels_elsewhere() -> Iterator[tuple[int, Link]]:
    """VXLAN devices in other namespaces whose socket is in the caller's, hpcnet's among them, each with the inode
    number of its namespace.
    """
    with netns.own() as home:
        for namespace in netns.everywhere():
            with netns.inside_fd(namespace), rtnl.Rtnl() as there:
                found = [link for link in links.every(there) if link.kind == "vxlan"]
                host_id = links.namespace_id(there, home) if found else -1
            inode = netns.identity(namespace)[1]
            yield from ((inode, link) for link in found if link.link_namespace == host_id != -1)


def _ports(found: Iterable[Link]) -> set[bytes]:
    """GUIDs of InfiniBand ports: the last 8 of an address's 20 bytes (RFC 4391). An IPoIB child has its parent's,
    and the kernel tells no more about where that is."""
    return {link.address[-8:] for link in found if link.hardware == infiniband.ARPHRD_INFINIBAND}
