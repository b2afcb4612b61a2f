# SPDX-License-Identifier: Apache-2.0
"""The lease file: one lease a run, the life of a lease, many processes at once, loss and damage."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from hpcnet import lease as leases
from hpcnet.config import Direct, Pool
from hpcnet.errors import SiteError
from hpcnet.leaserows import Entry
from hpcnet.leasestore import Due, LeaseStore, peek
from hpcnet.model import Lease

PLAIN = leases.Terms("vxlan", 0, 0, "tasks", "none", False)
POOL = Pool(vni=(5000, 5007), ipv4=IPv4Network("10.0.0.0/24"), ipv6=IPv6Network("fd00::/48"))
NOW = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "hpcnet.sqlite")


def opened(path: str, *entries: Entry, log: list[str] | None = None) -> LeaseStore:
    return LeaseStore(path, lambda: entries, (log if log is not None else []).append, lambda: NOW)


def give(store: LeaseStore, job: int, nodelist: str = "n1", now: float = NOW) -> Lease:
    return store.lease(job, "", nodelist, 1, PLAIN, POOL, now)[0]


def due(store: LeaseStore) -> list[Due]:
    return store.due(0.0, 60.0, NOW + 10**6)


def states(store: LeaseStore) -> dict[int, str]:
    return {entry.lease.serial: entry.state for entry in store.entries()}


def test_the_same_run_is_given_the_same_lease_again(path: str) -> None:
    with opened(path) as store:
        first = store.lease(7, "3_1", "n[1-2]", 2, PLAIN, POOL, NOW)
        again = store.lease(7, "3_1", "n[1-2]", 2, PLAIN, POOL, NOW + 50)
        assert first == (again[0], True)
        assert again[1] is False
        assert store.entries() == [Entry(7, "3_1", "n[1-2]", "live", 0.0, first[0])]


def test_the_job_on_other_nodes_is_another_run(path: str) -> None:
    with opened(path) as store:
        old, new = give(store, 7, "n1"), give(store, 7, "n2", NOW + 9)
        assert states(store) == {old.serial: "ending", new.serial: "live"}
        assert store.entries()[0].ended == NOW + 9


def test_a_run_on_other_nodes_ends_the_old_lease_even_when_the_pool_is_full(path: str) -> None:
    with opened(path) as store:
        old = [give(store, job) for job in range(8, 0, -1)].pop()
        with pytest.raises(leases.PoolFull):
            give(store, 1, "n2")
        assert states(store)[old.serial] == "ending"


def test_a_late_epilog_ends_the_old_runs_lease_only(path: str) -> None:
    with opened(path) as store:
        old = give(store, 7, "n1")
        store.end(old.serial, 7, NOW)
        new = give(store, 7, "n1")
        assert store.end(old.serial, 7, NOW + 1)
        assert states(store) == {old.serial: "ending", new.serial: "live"}


def test_end_twice_and_of_what_is_not_there(path: str) -> None:
    with opened(path) as store:
        lease = give(store, 7)
        assert not store.end(lease.serial, 8, NOW)  # another job's record names this serial
        assert not store.end(lease.serial + 1, 7, NOW)
        assert states(store) == {lease.serial: "live"}
        assert store.end(lease.serial, 7, NOW)
        assert store.end(lease.serial, 7, NOW)


def test_settle_frees_or_quarantines(path: str) -> None:
    with opened(path) as store:
        one, two = give(store, 1), give(store, 2)
        for lease, job in ((one, 1), (two, 2)):
            store.end(lease.serial, job, NOW)
        first, second = due(store)
        store.settle([(first, []), (second, ["n1", "n2"])])
        assert states(store) == {two.serial: "quarantined"}
        assert store.quarantined() == {two.serial: {"n1", "n2"}}
        store.settle([(due(store)[0], ["n2"])])
        assert store.quarantined() == {two.serial: {"n2"}}
        assert store.cleaned("n1", store.quarantined()) == 0
        assert store.cleaned("n2", store.quarantined()) == 1
        assert store.entries() == []
        assert store.quarantined() == {}


def test_settle_leaves_alone_what_has_changed_since_it_was_seen(path: str) -> None:
    with opened(path) as store:
        lease = give(store, 1)
        store.end(lease.serial, 1, NOW)
        seen = due(store)[0]
        store.end(lease.serial, 1, NOW + 5)
        store.settle([(seen, []), (seen, ["n1"])])
        assert states(store) == {lease.serial: "ending"}


def test_what_is_due_by_the_clock(path: str) -> None:
    with opened(path) as store:
        ended, live = give(store, 1), give(store, 2, now=NOW + 100)
        store.end(ended.serial, 1, NOW + 100)
        assert store.due(10, 60, NOW + 109) == []
        assert [seen.serial for seen in store.due(10, 60, NOW + 110)] == [ended.serial]
        assert [seen.serial for seen in store.due(10, 60, NOW + 160)] == [ended.serial, live.serial]
        assert store.newest() == {1: ended.serial, 2: live.serial}
        assert [seen.serial for seen in store.due(10, 60, NOW - 5000)] == [ended.serial]  # clock set back


def test_a_live_lease_whose_epilog_never_came(path: str) -> None:
    with opened(path) as store:
        lease = give(store, 1)
        store.end_lost(due(store), NOW + 70)
        assert store.entries()[0].ended == NOW + 70
        store.end_lost(due(store), NOW + 99)  # ending already
        assert store.entries() == [Entry(1, "", "n1", "ending", NOW + 70, lease)]


def test_one_sweep_an_interval(path: str) -> None:
    with opened(path) as store:
        assert store.claim_sweep(NOW, 1.0)
        assert not store.claim_sweep(NOW + 0.5, 1.0)
        assert store.claim_sweep(NOW + 1.0, 1.0)
        assert store.claim_sweep(NOW - 500, 1.0)  # the clock was set back


def test_the_file_survives_and_is_private(path: str) -> None:
    with opened(path) as store:
        lease = give(store, 1)
    with opened(path) as store:
        assert states(store) == {lease.serial: "live"}
        assert give(store, 2).serial == lease.serial + 1
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def entry(job: int, state: str, lease: Lease) -> Entry:
    return Entry(job, "", f"n{job}", state, 0.0 if state == "live" else NOW, lease)


def test_a_lost_file_is_made_from_the_records(path: str) -> None:
    with opened(path) as store:
        one, two = give(store, 1), give(store, 2)
    os.unlink(path)
    log: list[str] = []
    with opened(path, entry(1, "live", one), entry(2, "ending", two), log=log) as store:
        assert states(store) == {one.serial: "live", two.serial: "ending"}
        three = give(store, 3)
        assert (three.serial, three.vni) == (two.serial + 1, 5002)
    assert "leases restored from job records: 2" in log[-1]


@pytest.mark.parametrize("running", [1, 2])
def test_of_records_that_overlap_the_live_one_is_restored(path: str, running: int) -> None:
    state, one = leases.allocate(leases.State(), PLAIN, 1, POOL, NOW)
    _, again = leases.allocate(leases.State(last_serial=state.last_serial), PLAIN, 1, POOL, NOW)
    assert one.vni == again.vni
    both = [entry(job, "live" if job == running else "ending", lease) for job, lease in ((1, one), (2, again))]
    with opened(path, *both) as store:
        assert states(store) == {(one, again)[running - 1].serial: "live"}


def test_nothing_is_made_while_the_records_cannot_be_read(path: str) -> None:
    """An empty pool would give again what running jobs hold."""

    def unreachable() -> list[Entry]:
        raise SiteError("no answer from slurmctld")

    with pytest.raises(SiteError, match="no answer"):
        LeaseStore(path, unreachable)
    _, lease = leases.allocate(leases.State(), PLAIN, 1, POOL, NOW)
    with opened(path, entry(1, "live", lease)) as store:
        assert states(store) == {lease.serial: "live"}


@pytest.mark.parametrize("damage", ["text", "page", "tables"])
def test_a_damaged_file_is_kept_aside_and_made_anew(path: str, damage: str) -> None:
    with opened(path) as store:
        lease = give(store, 1)
    if damage == "text":
        Path(path).write_bytes(b"not a database, but long enough to be taken for one " * 10)
    elif damage == "page":
        with open(path, "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(4096))
    else:
        raw = sqlite3.connect(path)
        raw.execute("DROP TABLE last")
        raw.close()
    broken = Path(path).read_bytes()
    log: list[str] = []
    with opened(path, entry(1, "live", lease), log=log) as store:
        assert states(store) == {lease.serial: "live"}
    kept = [name for name in os.listdir(os.path.dirname(path)) if ".corrupt-" in name]
    assert [Path(os.path.dirname(path), name).read_bytes() for name in kept] == [broken]
    assert "is corrupt; kept as" in log[0]


def test_a_file_moved_away_under_an_open_store_takes_no_lease(path: str) -> None:
    with opened(path) as store:
        os.rename(path, path + ".aside")
        with pytest.raises(SiteError, match="readonly"):
            give(store, 1)


def test_peek_reads_and_makes_nothing(path: str) -> None:
    with pytest.raises(SiteError, match="unable to open"):
        peek(path)
    assert not os.path.exists(path)
    with opened(path) as store:
        lease = give(store, 1)
        held = (leases.held(lease),)
        state = leases.State(held, lease.vni, int(lease.ipv4.broadcast_address), lease.serial)
        assert peek(path) == (state, {"live": 1})


def test_a_newer_schema_is_not_touched(path: str) -> None:
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(SiteError, match="schema 99"):
        opened(path)


def test_no_directory_names_it(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"no/such/hpcnet\.sqlite cannot be made: No such file or directory"):
        opened(str(tmp_path / "no/such/hpcnet.sqlite"))


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives the file away")
def test_made_by_root_it_belongs_to_the_directorys_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    opened(str(tmp_path / "s")).close()
    assert os.stat(tmp_path / "s").st_uid == 12345


_CHILD = """
import sys
from test_leasestore import POOL, PLAIN, Pool, IPv4Network, IPv6Network
from hpcnet.leasestore import LeaseStore
wide = Pool(vni=(1, 4000), ipv4=IPv4Network("10.0.0.0/16"), ipv6=POOL.ipv6)
first = int(sys.argv[2])
for job in range(first, first + 25):
    with LeaseStore(sys.argv[1], lambda: (), lambda text: None) as store:
        store.lease(job, "", "n1", 1, PLAIN, wide, 1.7e9)
"""


def test_many_controllers_at_once(path: str) -> None:
    """Also the making of the file is raced for."""
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    children = [
        subprocess.Popen([sys.executable, "-c", _CHILD, path, str(first)], env=environment)
        for first in range(100, 500, 100)
    ]
    assert [child.wait(60) for child in children] == [0] * 4
    with opened(path) as store:
        entries = store.entries()
    assert len(entries) == 100
    assert all(alone for _, alone in leases.disjoint(entry.lease for entry in entries))


@pytest.mark.parametrize("terms", [PLAIN, leases.Terms("direct", 0, 0, "tasks", "none", False, "auto")])
def test_a_lease_is_what_the_allocator_gives_who_knows_all_that_is_held(path: str, terms: leases.Terms) -> None:
    """However little of it the store reads: leases of several sizes, round and round a small pool."""
    pool = POOL if terms is PLAIN else Direct(True, ("0x8001", "0x8002", "0x8003"), POOL.ipv4, POOL.ipv6)
    chance = random.Random(8)
    held: list[Lease] = []
    fulls = 0
    with opened(path) as store:
        for job in range(1, 120):
            nodes = chance.choice((1, 3, 20, 60))
            try:
                _, wanted = leases.allocate(peek(path)[0], terms, nodes, pool, NOW)
            except leases.PoolFull:
                fulls += 1
                with pytest.raises(leases.PoolFull):
                    store.lease(job, "", "n1", nodes, terms, pool, NOW)
            else:
                assert store.lease(job, "", "n1", nodes, terms, pool, NOW) == (wanted, True)
                held.append(wanted)
            while held and chance.random() < 0.5:
                freed = held.pop(chance.randrange(len(held))).serial
                seen = next(entry for entry in store.entries() if entry.lease.serial == freed)
                store.settle([(Due(freed, seen.job, "n1", "live", 0.0), ())])
    assert fulls
