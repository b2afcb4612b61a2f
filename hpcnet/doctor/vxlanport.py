# SPDX-License-Identifier: Apache-2.0
"""The UDP port of jobs' VXLAN: whether the kernel holds it for them, and who else is on it."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcnet import names
from hpcnet.config import Site
from hpcnet.doctor.model import Finding, Host, fail, ok, warn
from hpcnet.kernel import links, port, rtnl, stray
from hpcnet.kernel.links import Link

_HOLD = "hpcnet filter load; systemctl enable hpcnet-filter does it at boot"
_ANOTHER = "give it another port (dstport), or hpcnet: [fabric] vxlan_port, on all hosts"


@dataclass(frozen=True)
class Socket:
    """A UDP socket of a program, bound to the port."""

    pid: int
    program: str
    address: str


@dataclass(frozen=True)
class Device:
    """A VXLAN device on the port that is not hpcnet's, with its socket in this host's namespace."""

    name: str
    where: str
    vni: int
    shares: bool
    """Whether hpcnet's devices can be up beside it: none of the receive flags that they do not have."""


def check_port(host: Host) -> Iterable[Finding]:
    """Who has the port on this node."""
    if "vxlan" not in host.site.offer.modes:
        return [ok("not needed ([offer] modes)")]
    number = host.site.fabric.vxlan_port
    return judge_port(list(sockets(number)), list(devices(number)), port.held(number), host.site)


def judge_port(found: list[Socket], others: list[Device], held: bool, site: Site) -> list[Finding]:
    """hpcnet's VXLAN needs the port, shared with devices of its own kind only; ``held``: it has it."""
    number, wrong = site.fabric.vxlan_port, []
    for socket in found if not held else ():  # beside the kernel's: one of IPv6 alone, which is in nobody's way
        what = f"{socket.program} (process {socket.pid}) has UDP port {number} ({socket.address})"
        wrong.append(fail(what, f"end it, or give it another port: no job gets a network meanwhile; then {_HOLD}"))
    for device in others:
        what = f"VXLAN device {device.name} in {device.where}, VNI {device.vni}, which hpcnet did not make,"
        if site.pool.vni[0] <= device.vni <= site.pool.vni[1]:
            wrong.append(fail(f"{what} is in [pool] vni", "give it another VNI, or choose another [pool] vni"))
        elif not device.shares and held:
            wrong.append(warn(f"{what} cannot come up: hpcnet holds UDP port {number}, in another form", _ANOTHER))
        elif not device.shares:
            what += f" takes UDP port {number} in a form that hpcnet's cannot share: no job gets a network"
            wrong.append(fail(what, _ANOTHER))
    if not held and not wrong:
        what = f"UDP port {number} is not held for jobs: any user can take it, and the next Prolog fails"
        return [fail(what, _HOLD)]
    beside = f", beside {', '.join(device.name for device in others)}" if others else ""
    return wrong or [ok(f"UDP port {number} is held for jobs' networks{beside}")]


_INODE, _ADDRESS = 9, 1  # columns of /proc/net/udp


def sockets(number: int) -> Iterator[Socket]:
    """Of the caller's namespace, with the program that has it open; the kernel's own have none."""
    wanted = {}
    for table in ("udp", "udp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                columns = line.split()
                if columns[_ADDRESS].endswith(f":{number:04X}"):
                    wanted[f"socket:[{columns[_INODE]}]"] = "IPv6" if table == "udp6" else "IPv4"
    for process in os.listdir("/proc") if wanted else ():
        if process.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile
                open_files = {os.readlink(each.path) for each in os.scandir(f"/proc/{process}/fd")}
                for name in wanted.keys() & open_files:
                    program = Path("/proc", process, "comm").read_text(encoding="utf-8", errors="replace").strip()
                    yield Socket(int(process), program, wanted[name])


# linux/if_link.h, IFLA_VXLAN_*. Of the first, value 1 stands for yes; the others' being there does.
_ID, _PORT = 1, 15
_ZERO_CHECKSUMS, _REMOTE_CHECKSUMS, _EXTERNAL = 20, 22, 25
_GBP, _PARTLY_REMOTE_CHECKSUMS, _GPE = 23, 24, 27


def devices(number: int) -> Iterator[Device]:
    """In this namespace, and in every other one of this host with a socket in this."""
    with rtnl.Rtnl() as netlink:
        here = [("this host", link) for link in links.every(netlink)]
    elsewhere = ((f"net:[{inode}]", link) for inode, link in stray.tunnels_elsewhere())
    for where, link in (*here, *elsewhere):
        if link.name == names.PORT_DEVICE:
            continue  # holds the port for the kernel
        ours = link.kind != "vxlan" or link.group == names.DEVICE_GROUP
        if not ours and link.data.get(_PORT) == struct.pack("!H", number):
            yield Device(link.name, where, struct.unpack("=I", link.data.get(_ID, bytes(4)))[0], _shares(link))


def _shares(link: Link) -> bool:
    """Whether it has no receive flag. One of IPv6 has a socket of its own; external ones have both."""
    flags = (_ZERO_CHECKSUMS, _REMOTE_CHECKSUMS, _EXTERNAL)
    return not any(link.data.get(flag, b"\0")[:1] != b"\0" for flag in flags) and not (
        {_GBP, _PARTLY_REMOTE_CHECKSUMS, _GPE} & link.data.keys()
    )
