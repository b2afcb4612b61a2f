# SPDX-License-Identifier: Apache-2.0
"""What the kernel holds of a job's network, as sorted lines of text, and what it should hold.

The kernel is read through pyroute2, not through the encoder that built: an error of one would show here.
Not for hooks: the import alone costs more than they do.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from hpcnet import names
from hpcnet.kernel import egress, netns, rtnl, translation
from hpcnet.kernel import filter as packet_filter
from hpcnet.model import Plan

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_RTPROT_KERNEL = 2


def planned(plan: Plan) -> set[str]:
    """The lines that the kernel of this node should hold."""
    own, lease, alias = plan.tasks, plan.lease, names.alias(plan.cluster, plan.job_id, plan.lease.serial)
    what = f"ipoib pkey {plan.pkey} {plan.ipoib}" if plan.ipoib else f"macvlan mac {own.mac}"
    lines = {
        f"device {names.TASKS_DEVICE} {what} mtu {plan.mtu} up alias {alias}",
        f"address {own.ipv4}/{lease.ipv4.prefixlen} on {names.TASKS_DEVICE}",
        f"address {own.ipv6}/64 on {names.TASKS_DEVICE}",
        f"address {own.link_local}/64 on {names.TASKS_DEVICE}",
    }
    if not plan.ipoib:
        for peer in plan.peers:
            lines.add(f"neighbour {peer.ipv4} has {peer.mac}")
            lines.add(f"neighbour {peer.ipv6} has {peer.mac}")
    if plan.egress:
        lines |= _planned_egress(plan, alias)
    return lines if plan.direct else lines | _planned_segment(plan, alias)


def _planned_egress(plan: Plan, alias: str) -> set[str]:
    own, link = plan.tasks.ipv4, names.egress_link(plan.job_id)
    return {
        f"device {names.EGRESS_DEVICE} veth mac {egress.JOB_MAC} mtu {egress.MTU} up alias {alias}",
        f"neighbour {egress.GATEWAY} has {egress.NODE_MAC}",
        f"route default by {egress.GATEWAY} on {names.EGRESS_DEVICE} from {own}",
        f"on the node: device {link} veth mac {egress.NODE_MAC} mtu {egress.MTU} up alias {alias}",
        f"on the node: neighbour {own} has {egress.JOB_MAC}",
        f"on the node: route {own} on {link}",
        f"filter lets out {own} by {link}",
    }


def _planned_segment(plan: Plan, alias: str) -> set[str]:
    own, lease = plan.tasks, plan.lease
    lines = {
        f"device {names.VXLAN_DEVICE} vxlan id {lease.vni} local {own.underlay} port {plan.vxlan_port} "
        f"{'proxy ' if lease.docker else ''}mtu {plan.mtu} up alias {alias}",
    }
    if lease.docker:
        lines |= {f"proxy {ip} has {peer.mac}" for peer in plan.peers for ip in (peer.ipv4, peer.ipv6)}
    lines |= {f"forwarding {peer.mac} to {peer.underlay}" for peer in plan.peers}
    return lines | {f"filter admits VNI {lease.vni} from {vtep}" for vtep in plan.vteps}


def observed(job_id: int, vni: int) -> set[str]:
    """The lines that it holds; ``vni`` 0: the job has none. What it learned by itself (dynamic entries) is not
    listed.
    """
    lines = {f"filter admits VNI {vni} from {vtep}" for vtep in packet_filter.admitted(vni)} if vni else set()
    if netns.exists(job_id):
        with netns.inside(job_id), _reader() as route:
            lines |= _namespace(route)
    return lines | _link_on_node(names.egress_link(job_id)) | _let_out(job_id)


def _reader() -> IPRoute:
    """Imported when it is needed: it takes more time than all else of a command that reads no kernel."""
    from pyroute2 import IPRoute

    return IPRoute()


def _let_out(job_id: int) -> set[str]:
    return {
        f"filter lets out {address} by {names.egress_link(job_id)}" for address in translation.admitted(job_id)
    }


def _link_on_node(name: str) -> set[str]:
    """What the node's own namespace holds of the job's link to it."""
    lines = set()
    with _reader() as route:
        for link in route.get_links():
            if link.get("ifname") == name:
                lines.add(_device(link))
                lines |= {f"route {entry.get('dst')} on {name}" for entry in _routes(route, link["index"])}
                for entry in route.get_neighbours(ifindex=link["index"]):
                    if entry["state"] & rtnl.NUD_PERMANENT:
                        lines.add(f"neighbour {entry.get('dst')} has {entry.get('lladdr')}")
                for address in route.get_addr(index=link["index"]):
                    lines.add(f"address {address.get('address')}/{address['prefixlen']} on {name}")
    return {f"on the node: {line}" for line in lines}


def _routes(route: IPRoute, index: int) -> list[Any]:
    """The main table's IPv4 routes by an interface that the kernel did not make of its addresses."""
    found = route.get_routes(family=socket.AF_INET, table=254)
    return [entry for entry in found if entry.get("oif") == index and entry["proto"] != _RTPROT_KERNEL]


def _namespace(route: IPRoute) -> set[str]:
    links = {link["index"]: link for link in route.get_links()}
    lines = {_device(link) for link in links.values() if link.get("ifname") not in netns.BORN}
    for address in route.get_addr():
        device = links[address["index"]].get("ifname")
        if device not in netns.BORN:
            lines.add(f"address {address.get('address')}/{address['prefixlen']} on {device}")
    for index, link in links.items():
        if link.get(("linkinfo", "kind")) == "vxlan":
            for entry in route.fdb("dump", ifindex=index):
                if entry["state"] & rtnl.NUD_PERMANENT and entry.get("dst"):
                    lines.add(f"forwarding {entry.get('lladdr')} to {entry.get('dst')}")
    for index, link in links.items():
        for entry in _routes(route, index):
            target = entry.get("dst") or "default"
            by = f"{entry.get('gateway')} on {link.get('ifname')} from {entry.get('prefsrc')}"
            lines.add(f"route {target} by {by}")
    for entry in route.get_neighbours():
        if entry["state"] & rtnl.NUD_PERMANENT and entry.get("lladdr"):
            segment = links[entry["ifindex"]].get(("linkinfo", "kind")) == "vxlan"
            what = "proxy" if segment else "neighbour"
            lines.add(f"{what} {entry.get('dst')} has {entry.get('lladdr')}")
    return lines


def _device(link: dict[str, object]) -> str:
    get = link.get
    kind = get(("linkinfo", "kind"))  # type: ignore[call-overload]
    what = f"mac {get('address')}"
    if kind == "vxlan":
        data = get(("linkinfo", "data"))  # type: ignore[call-overload]
        what = f"id {data.get('vxlan_id')} local {data.get('vxlan_local')} port {data.get('vxlan_port')}"
        what += " proxy" if data.get("vxlan_proxy") else ""
    if kind == "ipoib":
        data = get(("linkinfo", "data"))  # type: ignore[call-overload]
        what = f"pkey 0x{data.get('pkey'):04x} {data.get('mode')}"
    state = "up" if int(str(link["flags"])) & rtnl.IFF_UP else "down"
    alias = f" alias {get('ifalias')}" if get("ifalias") else ""
    return f"device {get('ifname')} {kind} {what} mtu {get('mtu')} {state}{alias}"
