# SPDX-License-Identifier: Apache-2.0
"""Leases as rows of the store's tables: read, written, and looked for by their numbers."""

from __future__ import annotations

import sqlite3
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from hpcnet import lease as leases
from hpcnet.frozen import frozen, replace
from hpcnet.model import NONE, Lease

_COLUMNS = (
    "serial, job, array, nodelist, state, ended, vni, ipv4, bits, ipv6, "
    "mode, endpoints, mtu, tasks, egress, docker, pkey, ipoib, shared"
)


@frozen
class Entry:
    """One lease and whose it is."""

    job: int
    array: str
    """``ARRAYID_TASKID`` of an array task, else empty."""
    nodelist: str
    """Slurm's own text: the same nodes of the same job are the same run."""
    state: str
    """live, ending or quarantined."""
    ended: float
    """When it began ending, seconds since the epoch; 0 while live."""
    lease: Lease


def state(sql: sqlite3.Connection) -> leases.State:
    """All that the allocator may know."""
    rows = sql.execute("SELECT coalesce(vni, 0), ipv4, bits, ipv6, pkey, shared FROM lease")
    held = tuple(leases.Held._make((*row[:4], NONE if row[5] else row[4])) for row in rows)
    return replace(cursor(sql), held=held)


def cursor(sql: sqlite3.Connection) -> leases.State:
    """Where the allocator gave last, as if nothing were held."""
    last = sql.execute("SELECT vni, ipv4, serial, subnet, direct_ipv4 FROM last").fetchone()
    return leases.State((), *last)


def taken(sql: sqlite3.Connection, lease: Lease) -> bool:
    """Whether a lease shares a number with one that is held: by the indices, however many there are."""
    own = leases.held(lease)
    same = (own.vni or None, own.ipv6, own.pkey)
    query = "SELECT 1 FROM lease WHERE vni = ? OR ipv6 = ? OR (pkey = ? AND pkey != 'none' AND NOT shared)"
    if sql.execute(query, same).fetchone():
        return True
    # Prefixes do not overlap each other: of those that begin below this one's end only the last can meet it.
    below = "SELECT ipv4 + (1 << bits) > ? FROM lease WHERE ipv4 < ? ORDER BY ipv4 DESC LIMIT 1"
    found = sql.execute(below, (own.ipv4, own.ipv4 + (1 << own.bits))).fetchone()
    return bool(found and found[0])


def set_last(sql: sqlite3.Connection, state: leases.State) -> None:
    """Where the allocator gave last."""
    values = (state.last_vni, state.last_ipv4, state.last_serial, state.last_subnet, state.last_direct_ipv4)
    sql.execute("UPDATE last SET vni = ?, ipv4 = ?, serial = ?, subnet = ?, direct_ipv4 = ?", values)


def entries(sql: sqlite3.Connection, where: str, *values: object) -> list[Entry]:
    """The leases for which ``where`` holds, by serial."""
    rows = sql.execute(f"SELECT {_COLUMNS} FROM lease WHERE {where} ORDER BY serial", values)
    return [_entry(*row) for row in rows]


def _entry(serial: int, job: int, array: str, nodelist: str, state: str, ended: float, *numbers: Any) -> Entry:
    vni, ipv4, bits, ipv6, mode, endpoints, mtu, join, egress, docker, pkey, ipoib, shared = numbers
    lease = Lease(
        serial, mode, vni or 0, IPv4Network((ipv4, 32 - bits)), IPv6Network(ipv6), endpoints, mtu,
        join, egress, bool(docker), pkey, ipoib, bool(shared),
    )  # fmt: skip
    return Entry(job, array, nodelist, state, ended, lease)


def insert(sql: sqlite3.Connection, entry: Entry) -> None:
    """Add a lease."""
    lease = entry.lease
    values = (
        *(lease.serial, entry.job, entry.array, entry.nodelist, entry.state, entry.ended),
        *(lease.vni or None, *leases.held(lease)[1:4], lease.mode, lease.endpoints, lease.mtu),
        *(lease.join, lease.egress, lease.docker, lease.pkey, lease.ipoib, lease.shared),
    )
    sql.execute(f"INSERT INTO lease ({_COLUMNS}) VALUES ({','.join('?' * len(values))})", values)
