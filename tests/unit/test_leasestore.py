# SPDX-License-Identifier: Apache-2.0
"""The lease file: one lease a run, the life of a lease, many processes at once, loss and damage."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from ipaddress import IPv4Network, IPv6Network
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hpcnet import lease as leases
from hpcnet.config import Pool
from hpcnet.errors import SiteError
from hpcnet.leasestore import Due, Entry, LeaseStore, peek
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
        assert peek(path) == leases.State(
            (leases.held(lease),), lease.vni, int(lease.ipv4.broadcast_address), lease.serial
        )


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


class Controller(RuleBasedStateMachine):
    """Leases, ends, sweeps, restarts and losses of the file in any order: what lives never overlaps."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "store")
        self.records: dict[int, Entry] = {}  # what slurmctld would tell, by job
        self.serials: list[int] = []
        self.job, self.now = 0, NOW
        self.store = self.opened()

    def opened(self) -> LeaseStore:
        return LeaseStore(self.path, lambda: list(self.records.values()), lambda text: None, lambda: self.now)

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()

    def one(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.records)))

    @rule(nodes=st.integers(1, 30), again=st.booleans(), data=st.data())
    def lease(self, nodes: int, again: bool, data: st.DataObject) -> None:
        self.job += 1
        job = self.one(data) if again and self.records else self.job
        nodelist = f"n{data.draw(st.integers(1, 3))}"
        before = self.records.get(job)
        same = before is not None and before.state == "live" and before.nodelist == nodelist
        try:
            lease, new = self.store.lease(job, "", nodelist, nodes, PLAIN, POOL, self.now)
        except leases.PoolFull:
            if before is not None:
                self.records.pop(job)  # the run that was is over, and the new one has no lease
            return
        assert new is not same
        if new:
            assert lease.serial > max(self.serials, default=0)
            self.serials.append(lease.serial)
        self.records[job] = Entry(job, "", nodelist, "live", 0.0, lease)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        job = self.one(data)
        seen = self.records[job]
        self.store.end(seen.lease.serial, job, self.now)
        self.records[job] = Entry(job, "", seen.nodelist, "ending", self.now, seen.lease)

    @rule(lost=st.lists(st.sampled_from(["n1", "n2"]), unique=True))
    def sweep(self, lost: list[str]) -> None:
        self.store.settle(
            (seen, [node for node in lost if node == seen.nodelist])
            for seen in due(self.store)
            if seen.state != "live"
        )
        held = {entry.lease.serial for entry in self.store.entries()}
        for job, seen in list(self.records.items()):
            if seen.lease.serial not in held:
                del self.records[job]

    @rule(node=st.sampled_from(["n1", "n2"]))
    def clean(self, node: str) -> None:
        self.store.cleaned(node, self.store.quarantined())

    @rule(seconds=st.integers(-5, 5))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = LeaseStore(self.path, self.not_asked, lambda text: None)

    def not_asked(self) -> list[Entry]:
        raise AssertionError("the file is there")

    @rule()
    def lose(self) -> None:
        """Found again from the records; that takes a while, and serials keep growing."""
        self.store.close()
        os.unlink(self.path)
        self.now = max(self.now, *self.serials, 0) + 1
        self.store = self.opened()

    @invariant()
    def nothing_overlaps(self) -> None:
        held = [leases.held(entry.lease) for entry in self.store.entries()]
        assert not any(leases.overlap(one, other) for one, other in combinations(held, 2))

    @invariant()
    def what_lives_is_held(self) -> None:
        held = {entry.lease.serial for entry in self.store.entries() if entry.state == "live"}
        assert held == {entry.lease.serial for entry in self.records.values() if entry.state == "live"}


TestController = Controller.TestCase
TestController.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
