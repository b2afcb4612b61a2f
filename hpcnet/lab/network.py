# SPDX-License-Identifier: Apache-2.0
"""The lab's two networks: bridges on the switch, a veth pair from each to every host.

With a fabric of InfiniBand the second one is hpcnet.lab.infiniband's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from hpcnet.errors import LabError
from hpcnet.lab.layout import addresses

_BRIDGES = {"eth0": "mgmt", "ib0": "fabric"}
_MANAGEMENT_MTU = 1500


def make_switch(switch: int) -> None:
    """Make the two bridges in the switch, whose pid 1 is process ``switch``."""
    lines = ["link set lo up"]
    for bridge in _BRIDGES.values():
        # No snooping: nobody here is a multicast querier, and IPoIB has no such filter.
        lines += [f"link add {bridge} type bridge stp_state 0 mcast_snooping 0", f"link set {bridge} up"]
    _ip(switch, lines)


def plug(switch: int, hosts: Mapping[str, int], fabric_mtu: int | None) -> None:
    """Wire hosts (name -> process id of pid 1) to both networks and give them their addresses.

    Without an MTU of the fabric only to the management network. Each end of a pair is made where it belongs:
    moving a link between namespaces costs twenty times as much.
    """
    mtu = {"eth0": _MANAGEMENT_MTU}
    if fabric_mtu is not None:
        mtu["ib0"] = fabric_mtu
    lines = []
    for host, init in hosts.items():
        for interface, size in mtu.items():
            port, bridge, mac = f"{host}-{interface}", _BRIDGES[interface], _mac(addresses(host)[interface])
            lines += [
                f"link add name {port} mtu {size} type veth "
                f"peer name {interface} address {mac} mtu {size} netns {init}",
                f"link set {port} master {bridge} up",
            ]
    _ip(switch, lines)
    for host, init in hosts.items():
        lines = ["link set lo up"]
        for interface in mtu:
            lines += [f"address add {addresses(host)[interface]}/16 dev {interface}", f"link set {interface} up"]
        _ip(init, lines)


def _mac(address: str) -> str:
    """A host keeps its MACs over a reboot, as real ones do: its neighbours remember them."""
    return "02:4c:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _ip(init: int, lines: list[str]) -> None:
    """Run ``ip`` commands in the network namespace of a process; process ids in them are the machine's."""
    command = ["nsenter", "-t", str(init), "-n", "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"ip failed: {done.stderr.strip()}")
