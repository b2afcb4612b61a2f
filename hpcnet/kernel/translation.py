# SPDX-License-Identifier: Apache-2.0
"""egress=host: what may pass the links between jobs and this node, and the NAT behind them.

A table of its own, which is there while jobs with a way out are: a rule that looks at connections makes the
kernel track those of the whole node. Packets go out of a job, and only answers come in; nothing goes from a job to
another one. A drop in another table of the node still holds.

What is an answer the kernel tells by addresses and ports, and an address is leased again: a job's connections are
forgotten when it goes. A file says whose they are, so that the next one finds those of a job that just vanished.

The kernel forwards a packet if the interface by which it *came* has ``forwarding``; answers come by the node's
own. Where the node does not forward at all (net.ipv4.ip_forward is 0), these get it one by one, their names are
written to a file first, and what comes in by them and is no answer to a job is dropped, as it was before. The last
job that goes gives it back. Everything here is called under the node's lock.
"""

from __future__ import annotations

import binascii
import contextlib
import os
from collections.abc import Iterable
from ipaddress import IPv4Address

from hpcnet import names
from hpcnet.config import Site
from hpcnet.kernel import conntrack, links, nft, rtnl, sysctl
from hpcnet.names import NFT_EGRESS_TABLE

_FORWARDING = f"{names.STATE_DIR}/forwarding"  # interfaces that forward for jobs only
_TRACKED = f"{names.STATE_DIR}/tracked"  # lines "JOB ADDRESS": connections of these may be known to the kernel

_BASE = """\
add table inet {table}
add set inet {table} links {{ type ifname . ipv4_addr; }}
add set inet {table} lent {{ type ifname; }}
add set inet {table} edition {{ type mark; }}
add chain inet {table} outward
add chain inet {table} inward
add chain inet {table} forward {{ type filter hook forward priority 0; }}
add chain inet {table} input {{ type filter hook input priority 0; }}
add chain inet {table} output {{ type filter hook output priority 0; }}
add chain inet {table} nat {{ type nat hook postrouting priority 100; }}
flush set inet {table} edition
flush chain inet {table} outward
flush chain inet {table} inward
flush chain inet {table} forward
flush chain inet {table} input
flush chain inet {table} output
flush chain inet {table} nat
add rule inet {table} outward meta nfproto != ipv4 drop
add rule inet {table} outward iifname . ip saddr != @links drop
add rule inet {table} outward udp dport {port} drop
add rule inet {table} outward ip daddr {{ {jobs} }} reject with icmp type admin-prohibited
add rule inet {table} inward ct direction reply ct state established,related accept
add rule inet {table} inward drop
add rule inet {table} forward iifname "{link}*" oifname "{link}*" drop
add rule inet {table} forward iifname "{link}*" jump outward
add rule inet {table} forward oifname "{link}*" jump inward
add rule inet {table} forward iifname @lent drop
add rule inet {table} input iifname "{link}*" jump outward
add rule inet {table} output oifname "{link}*" jump inward
add rule inet {table} nat oifname != "{link}*" ip saddr {{ {jobs} }} masquerade
"""


def ruleset(site: Site) -> str:
    """The table as input of ``nft -f``. Sets keep their elements, but the one that says which rules these are."""
    rules = _rules(site)
    return f"{rules}add element inet {NFT_EGRESS_TABLE} edition {{ {_edition(rules)} }}\n"


def _rules(site: Site) -> str:
    return _BASE.format(
        table=NFT_EGRESS_TABLE,
        link=names.EGRESS_LINK,
        port=site.fabric.vxlan_port,
        jobs=f"{site.pool.ipv4}, {site.direct.ipv4}",
    )


def _edition(rules: str) -> str:
    return f"0x{binascii.crc32(rules.encode()):08x}"


def _unless_same(site: Site) -> str:
    """Fails, as for a missing table, if the rules that are loaded came of other settings or another hpcnet."""
    return f"get element inet {NFT_EGRESS_TABLE} edition {{ {_edition(_rules(site))} }}\n"


def load(site: Site) -> None:
    """Load the rules anew where the table is there. Raises NodeError."""
    nft.apply(f"flush table inet {NFT_EGRESS_TABLE}\n" + ruleset(site), may_miss=True)


def admit(job_id: int, address: IPv4Address, site: Site) -> None:
    """Let packets of this address out by the job's link, which need not be there yet. Raises NodeError.

    The table is loaded where it is missing or not of these settings.
    """
    _take_over(job_id, address)
    lent = _lend()
    elements = f'add element inet {NFT_EGRESS_TABLE} links {{ "{names.egress_link(job_id)}" . {address} }}\n'
    elements += _guard("add", lent)
    if nft.apply(_unless_same(site) + elements, may_miss=True):
        nft.apply(ruleset(site) + elements)
    for name in lent:  # not before the guard stands
        _forward(name, "1")


def expel(job_id: int, more: str = "") -> bool:
    """Let nothing of the job out any more; with the last job the table goes, and the node forwards as before.

    ``more``: what nft is to do in the same transaction, since each one waits for the kernel. Returns whether that
    is done: it is not where something was missing.
    """
    link = names.egress_link(job_id)
    found = nft.elements(NFT_EGRESS_TABLE, "links")
    own = [f'"{name}" . {address}' for name, address in found if name == link]
    if len(own) < len(found):
        gone = f"delete element inet {NFT_EGRESS_TABLE} links {{ {', '.join(own)} }}\n" if own else ""
        expelled = _apply(gone, more)
    else:
        expelled = _close(more)
    _release(job_id)
    return expelled


def _close(more: str) -> bool:
    """No job has a way out any more. As :func:`_apply`."""
    if not _forwards_anyway():
        for name in _lines(_FORWARDING):
            _forward(name, "0")
    expelled = _apply(f"delete table inet {NFT_EGRESS_TABLE}\n", more)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_FORWARDING)
    return expelled


def _apply(own: str, more: str) -> bool:
    """Both in one transaction, or else ``own`` alone. Whether ``more`` is done."""
    missing = nft.apply(own + more, may_miss=True)
    if missing and more:
        nft.apply(own, may_miss=True)
    return bool(more) and not missing


def _take_over(job_id: int, address: IPv4Address) -> None:
    """Write down that connections of the address are this job's; forget those of a job that has left without."""
    tracked = _tracked()
    if tracked.get(address) not in (None, job_id):
        conntrack.forget(address)
    # Also what is written already: an Epilog that was killed in writing has left half a file beside.
    _write_tracked({**tracked, address: job_id})


def _release(job_id: int) -> None:
    tracked = _tracked()
    own = [address for address, job in tracked.items() if job == job_id]
    for address in own:
        conntrack.forget(address)
    if own:
        _write_tracked({address: job for address, job in tracked.items() if job != job_id})
    with contextlib.suppress(FileNotFoundError):  # of a Prolog that was killed
        os.unlink(f"{_TRACKED}.new")


def _tracked() -> dict[IPv4Address, int]:
    """Of which job's the connections of an address are."""
    pairs = (line.split() for line in _lines(_TRACKED))
    return {IPv4Address(address): int(job) for job, address in pairs}


def _write_tracked(tracked: dict[IPv4Address, int]) -> None:
    if not tracked:
        os.unlink(_TRACKED)
        return
    with open(f"{_TRACKED}.new", "w", encoding="utf-8") as file:
        file.write("".join(f"{job} {address}\n" for address, job in tracked.items()))
    os.rename(f"{_TRACKED}.new", _TRACKED)


def jobs() -> set[int]:
    """All of which anything is here: an address that may go out, or connections. Raises NodeError."""
    found = {names.parse_egress_link(name) for name, _ in nft.elements(NFT_EGRESS_TABLE, "links")}
    return {job for job in found if job} | set(_tracked().values())


def admitted(job_id: int) -> list[str]:
    """The addresses that may go out by the job's link."""
    found = nft.elements(NFT_EGRESS_TABLE, "links")
    return [str(address) for name, address in found if name == names.egress_link(job_id)]


def _lend() -> list[str]:
    """The node's interfaces that are to forward for jobs only, written down; none where it forwards anyway."""
    lent = _lines(_FORWARDING)
    if _forwards_anyway():
        if lent:
            nft.apply(_guard("delete", lent), may_miss=True)
            os.unlink(_FORWARDING)
        return []
    with rtnl.Rtnl() as host:
        found = [
            link for link in links.every(host) if link.flags & rtnl.IFF_UP and link.group != names.DEVICE_GROUP
        ]
    new = [link.name for link in found if link.name != "lo" and link.name not in lent and not _forwards(link.name)]
    if new:
        with open(_FORWARDING, "a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in new))
    return lent + new


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _guard(verb: str, interfaces: Iterable[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in interfaces)
    return f"{verb} element inet {NFT_EGRESS_TABLE} lent {{ {quoted} }}\n" if quoted else ""


def _forwards_anyway() -> bool:
    return sysctl.read("net/ipv4/ip_forward") != "0"


def _forwards(interface: str) -> bool:
    return sysctl.read(f"net/ipv4/conf/{interface}/forwarding") != "0"  # None: it has gone since, or has no IPv4


def _forward(interface: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        sysctl.write(f"net/ipv4/conf/{interface}/forwarding", value)
