# SPDX-License-Identifier: Apache-2.0
"""The lease file under any order of leases, ends, sweeps, restarts and losses (hypothesis)."""

from __future__ import annotations

import os
from itertools import combinations
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hpcnet import lease as leases
from hpcnet.leaserows import Entry
from hpcnet.leasestore import LeaseStore
from tests.unit.test_leasestore import NOW, PLAIN, POOL, due


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
