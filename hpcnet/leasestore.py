# SPDX-License-Identifier: Apache-2.0
"""Leases in one SQLite file, shared by all PrologSlurmctlds at once and by both controllers.

    with LeaseStore(path, rebuild) as store:
        lease = store.lease(job_id, array, nodelist, nodes, terms, pool, now)
        store.end(lease.serial, job_id, now)

A lease is *live*, then *ending*, perhaps *quarantined* (a node of it was down), then deleted: free.
A missing or corrupt file is made anew out of ``rebuild()``: what the job records say.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Callable, NamedTuple

from hpcnet import lease as leases
from hpcnet import leaserows as rows
from hpcnet.config import AnyPool
from hpcnet.errors import SiteError
from hpcnet.leaserows import Entry
from hpcnet.model import Lease

SCHEMA = 1
"""Version of the tables, kept in SQLite's user_version; 0 is a file that has none yet."""

BUSY_SECONDS = 10.0
"""How long one controller waits while another writes."""

_TABLES = """
CREATE TABLE lease (
  serial INTEGER PRIMARY KEY, job INTEGER NOT NULL, array TEXT NOT NULL, nodelist TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('live', 'ending', 'quarantined')), ended REAL NOT NULL,
  vni INTEGER UNIQUE, ipv4 INTEGER NOT NULL UNIQUE, bits INTEGER NOT NULL, ipv6 TEXT NOT NULL UNIQUE,
  mode TEXT NOT NULL, endpoints INTEGER NOT NULL, mtu INTEGER NOT NULL, tasks TEXT NOT NULL,
  egress TEXT NOT NULL, docker INTEGER NOT NULL, pkey TEXT NOT NULL, ipoib TEXT NOT NULL, shared INTEGER NOT NULL);
CREATE UNIQUE INDEX lease_pkey ON lease (pkey) WHERE NOT shared AND pkey != 'none';
CREATE INDEX lease_job ON lease (job);
CREATE TABLE quarantine (
  serial INTEGER NOT NULL REFERENCES lease ON DELETE CASCADE, node TEXT NOT NULL, PRIMARY KEY (serial, node));
CREATE TABLE last (
  vni INTEGER NOT NULL, ipv4 INTEGER NOT NULL, serial INTEGER NOT NULL, subnet TEXT NOT NULL,
  direct_ipv4 INTEGER NOT NULL, swept REAL NOT NULL);
INSERT INTO last VALUES (-1, -1, 0, '', -1, 0);
"""
_END = "UPDATE lease SET state = 'ending', ended = ? WHERE serial = ?"


class Due(NamedTuple):
    """A lease that may be over, with as much of it as tells whether it is."""

    serial: int
    job: int
    nodelist: str
    state: str
    ended: float


Rebuild = Callable[[], Iterable[Entry]]


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


class LeaseStore:
    """The open file. Each method is one transaction; all raise SiteError when the file cannot be used."""

    def __init__(
        self,
        path: str,
        rebuild: Rebuild,
        log: Callable[[str], None] = _to_stderr,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens ``path``; missing or corrupt (kept aside, logged), it is made from ``rebuild()``.

        ``clock`` gives the seconds since the epoch from which the serials of a new file grow.
        """
        self._path, self._rebuild, self._log, self._clock = path, rebuild, log, clock
        self._connection = self._opened()

    def __enter__(self) -> LeaseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def lease(
        self, job: int, array: str, nodelist: str, nodes: int, terms: leases.Terms, pool: AnyPool, now: float
    ) -> tuple[Lease, bool]:
        """The lease of this run, and whether it is a new one. Raises lease.PoolFull, SiteError.

        A live lease of the same job on the same nodes is this run's: slurmctld was restarted and asks again.
        One on other nodes is of a run whose end nobody told; it begins to end.
        What is next in the pools is nearly always free: all that is held is read only when it is not.
        """
        with self._transaction() as sql:
            for entry in rows.entries(sql, "job = ? AND state = 'live'", job):
                if entry.nodelist == nodelist:
                    return entry.lease, False
                sql.execute(_END, (now, entry.lease.serial))
            try:
                after, lease = leases.allocate(rows.cursor(sql), terms, nodes, pool, now)
                if rows.taken(sql, lease):
                    after, lease = leases.allocate(rows.state(sql), terms, nodes, pool, now)
            except SiteError as error:
                refusal = error  # what was marked above stays so
            else:
                rows.insert(sql, Entry(job, array, nodelist, "live", 0.0, lease))
                rows.set_last(sql, after)
                return lease, True
        raise refusal

    def end(self, serial: int, job: int, now: float) -> bool:
        """Marks the job's lease as ending; again is fine. False: the job has no lease of this serial."""
        with self._transaction() as sql:
            changed = sql.execute(f"{_END} AND job = ? AND state != 'quarantined'", (now, serial, job))
            return changed.rowcount == 1

    def entries(self) -> list[Entry]:
        """All leases that are not free, by serial."""
        with self._transaction() as sql:
            return rows.entries(sql, "1")

    def quarantined(self) -> dict[int, frozenset[str]]:
        """By serial: the nodes that a quarantined lease still waits for."""
        with self._transaction() as sql:
            found: dict[int, frozenset[str]] = {}
            for serial, node in sql.execute("SELECT serial, node FROM quarantine"):
                found[serial] = found.get(serial, frozenset()) | {node}
            return found

    def claim_sweep(self, now: float, interval: float) -> bool:
        """Whether the caller is to sweep now: one of all who wait, once in ``interval`` seconds."""
        with self._transaction() as sql:
            due = (now, now - interval, now + interval)  # a time in the future is of a clock set back
            claimed = sql.execute("UPDATE last SET swept = ? WHERE swept <= ? OR swept > ?", due)
            return claimed.rowcount == 1

    def due(self, cooldown: float, young: float, now: float) -> list[Due]:
        """What may be over by the clock alone: ended ``cooldown`` seconds ago, or live for ``young`` seconds.

        Ending ones first, quarantined ones last. A serial is no less than its lease's time, by which a live
        one's age is taken.
        """
        with self._transaction() as sql:
            rows = sql.execute(
                "SELECT serial, job, nodelist, state, ended FROM lease "
                "WHERE CASE state WHEN 'live' THEN serial + :young <= :now "
                "ELSE ended + :cooldown <= :now OR ended > :now + :cooldown END "
                "ORDER BY CASE state WHEN 'ending' THEN 0 WHEN 'live' THEN 1 ELSE 2 END, ended",
                {"cooldown": cooldown, "young": young, "now": now},
            )
            return list(map(Due._make, rows))

    def newest(self) -> dict[int, int]:
        """The largest serial that each job holds."""
        with self._transaction() as sql:
            return dict(sql.execute("SELECT job, max(serial) FROM lease GROUP BY job"))

    def end_lost(self, lost: Iterable[Due], now: float) -> None:
        """Marks live leases as ending whose EpilogSlurmctld never came."""
        with self._transaction() as sql:
            sql.executemany(f"{_END} AND state = 'live'", [(now, seen.serial) for seen in lost])

    def settle(self, verdicts: Iterable[tuple[Due, Iterable[str]]]) -> None:
        """Frees each lease, or quarantines it for the nodes it waits for, all in one transaction.

        Nothing happens to one that is not any more as it was seen.
        """
        with self._transaction() as sql:
            for seen, waits_for in verdicts:
                same = (seen.serial, seen.state, seen.ended)
                nodes = [(seen.serial, node) for node in waits_for]
                change = "UPDATE lease SET state = 'quarantined'" if nodes else "DELETE FROM lease"
                changed = sql.execute(f"{change} WHERE serial = ? AND state = ? AND ended = ?", same)
                if changed.rowcount and nodes:
                    sql.execute("DELETE FROM quarantine WHERE serial = ?", (seen.serial,))
                    sql.executemany("INSERT INTO quarantine VALUES (?, ?)", nodes)

    def cleaned(self, node: str, serials: Iterable[int]) -> int:
        """Nothing of these leases is left on ``node``: frees what waited only for it; returns how many."""
        with self._transaction() as sql:
            sql.executemany("DELETE FROM quarantine WHERE node = ? AND serial = ?", [(node, s) for s in serials])
            return sql.execute(
                "DELETE FROM lease WHERE state = 'quarantined' AND serial NOT IN (SELECT serial FROM quarantine)"
            ).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Read, decide and write as one, alone among all processes.

        SQLite writes nothing to a file that was moved away meanwhile (SQLITE_READONLY_DBMOVED).
        """
        sql = self._connection
        try:
            sql.execute("BEGIN IMMEDIATE")
            try:
                yield sql
                sql.execute("COMMIT")
            except BaseException:
                if sql.in_transaction:
                    sql.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> SiteError:
        return SiteError(
            f"lease store {self._path}: {error}; [pool] store needs a directory that SlurmUser may write"
        )

    # Opening, and making the file anew.

    def _opened(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise self._unusable(error) from error
        self._move_aside()
        try:
            return self._connect()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _connect(self) -> sqlite3.Connection:
        self._create(self._path)
        sql = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            sql.execute("PRAGMA synchronous = FULL")
            sql.execute("PRAGMA foreign_keys = ON")
            version = sql.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                version = self._build(sql)
            if version != SCHEMA:
                raise SiteError(f"lease store {self._path} has schema {version}, not {SCHEMA}; update hpcnet")
            health = sql.execute("PRAGMA quick_check(1)").fetchone()[0]
            if health != "ok" or sql.execute("SELECT vni FROM last").fetchone() is None:
                raise sqlite3.DatabaseError(f"malformed: {health}")
            return sql
        except BaseException:
            sql.close()
            raise

    def _create(self, path: str) -> None:
        """An empty file only its owner reads; root gives it to the directory's owner, who is SlurmUser."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return
        except OSError as error:
            raise SiteError(
                f"lease store {path} cannot be made: {error.strerror}; [pool] store needs a directory "
                "that SlurmUser may write"
            ) from None
        try:
            if os.geteuid() == 0:
                owner = os.stat(os.path.dirname(path))
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            os.close(descriptor)

    def _build(self, sql: sqlite3.Connection) -> int:
        """Tables and what the job records say in one transaction, so that nobody sees an empty pool."""
        sql.execute("BEGIN IMMEDIATE")
        try:
            version: int = sql.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _TABLES.split(";\n"):
                    sql.execute(statement)
                self._restore(sql, self._rebuild())
                sql.execute(f"PRAGMA user_version = {SCHEMA}")
                version = SCHEMA
            sql.execute("COMMIT")
            return version
        except BaseException:
            if sql.in_transaction:
                sql.execute("ROLLBACK")
            raise

    def _restore(self, sql: sqlite3.Connection, found: Iterable[Entry]) -> None:
        """Live leases first, then the newest: what shares a number with them was given again since."""
        entries = sorted(found, key=lambda entry: (entry.state != "live", -entry.lease.serial))
        serials: set[int] = set()
        for entry, (_, alone) in zip(entries, leases.disjoint(entry.lease for entry in entries)):
            if alone and entry.lease.serial not in serials:
                serials.add(entry.lease.serial)
                rows.insert(sql, entry)
            elif entry.state == "live":
                self._log(f"job {entry.job}: lease {entry.lease.serial} overlaps another job's; not restored")
        last = leases.State(last_serial=int(self._clock()) - 1)  # though the clock be set back later
        for lease in sorted((entry.lease for entry in entries), key=lambda lease: lease.serial):
            last = leases.after(last, lease)
        rows.set_last(sql, last)
        self._log(f"lease store {self._path} made anew; leases restored from job records: {len(serials)}")

    def _move_aside(self) -> None:
        """Keeps a corrupt file under another name; locked, so that nobody moves the good one after it."""
        import fcntl

        self._create(f"{self._path}.lock")
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            try:
                self._connect().close()
                return
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise self._unusable(error) from error
            kept = f"{self._path}.corrupt-{time.time_ns()}"
            for suffix in ("-journal", ""):
                if os.path.exists(self._path + suffix):
                    os.rename(self._path + suffix, kept + suffix)
            self._log(f"lease store {self._path} is corrupt; kept as {kept}")
        finally:
            os.close(lock)


def _is_corrupt(error: sqlite3.Error) -> bool:
    return any(sign in str(error) for sign in ("not a database", "malformed", "no such table"))


def peek(path: str) -> tuple[leases.State, dict[str, int]]:
    """What the allocator would start from, and how many leases are live, ending, quarantined. Raises SiteError.

    Nothing is made or changed.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as sql:
            return rows.state(sql), dict(sql.execute("SELECT state, count(*) FROM lease GROUP BY state"))
    except (sqlite3.Error, TypeError) as error:
        raise SiteError(f"lease store {path}: {error}") from None
