# SPDX-License-Identifier: Apache-2.0
"""Prolog and Epilog broken at every step: an error or SIGKILL before and after each; then nothing may be left.

``make test-faults`` runs every fault with each recovery; without HPCNET_FAULTS=all each fault of a share has one.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from tests.faults.points import Fault, faults
from tests.faults.trials import AGAIN, BESIDE, EPILOG, RECOVERIES, Scenario, Trials
from tests.kernel.hosts import Fabric, job_environment, lease_of, require_root
from tests.kernel.test_direct import direct_lease
from tests.kernel.test_reap import Slurmctld

require_root()
pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

ALL = os.environ.get("HPCNET_FAULTS") == "all"
SITE = '[offer]\nmodes = ["vxlan", "direct"]\n[direct]\nallow_shared = true\n'
NODES = "n[1-4]"
SHARE = 3
"""Without HPCNET_FAULTS=all every so many-th fault is tried, another one in each scenario."""

VXLAN = job_environment(lease_of(egress="host"), NODES)
CLOSED = job_environment(lease_of(egress="none"), NODES)
DIRECT = job_environment(direct_lease(egress="host"), NODES)
BARE = job_environment(direct_lease(egress="none"), NODES)
OLDER = job_environment(lease_of(7, egress="host"), NODES)
OTHER = job_environment(lease_of(3, egress="host"), NODES, BESIDE)

# name: hook, its job, Prologs before it, other jobs, least number of faults
SCENARIOS = {
    "the only job": ("prolog", VXLAN, (), (), 240),
    "the only job ends": ("epilog", VXLAN, (VXLAN,), (), 110),
    "direct beside another": ("prolog", DIRECT, (), (OTHER,), 200),
    "direct ends beside another": ("epilog", DIRECT, (DIRECT,), (OTHER,), 90),
    "no way out, beside another": ("prolog", CLOSED, (), (OTHER,), 160),
    "no way out ends": ("epilog", CLOSED, (CLOSED,), (), 80),
    "direct without a way out": ("prolog", BARE, (), (), 140),
    "direct without a way out ends": ("epilog", BARE, (BARE,), (), 60),
    "over its older run": ("prolog", VXLAN, (OLDER,), (OTHER,), 300),
    "again over its own": ("prolog", VXLAN, (VXLAN,), (), 200),
}
IN_SHORT = ("the only job", "the only job ends", "direct beside another", "direct ends beside another")


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """Four nodes, each in a process table of its own: a hook makes the same calls each time."""
    made = Fabric(4, own_processes=True)
    for host in made.hosts:
        Slurmctld(host).has(f"{BESIDE} RUNNING {NODES}")
    yield made
    made.close()


@pytest.mark.parametrize("name", SCENARIOS if ALL else IN_SHORT)
def test_every_step_of(fabric: Fabric, capsys: pytest.CaptureFixture[str], name: str) -> None:
    hook, environment, before, beside, least = SCENARIOS[name]
    scenario = Scenario(name, hook, environment, before, beside, SITE)
    with ThreadPoolExecutor(len(fabric.hosts)) as pool:
        benches = list(pool.map(lambda host: Trials(host, scenario), fabric.hosts))
        points = benches[0].points()
        found = faults(points)
        todo = list(in_turn(found, list(SCENARIOS).index(name)))
        wrong = tried(pool, benches, todo)
        for bench in benches:
            bench.close()
    kills = sum(fault.kills for fault in found)
    with capsys.disabled():
        print(f"\n{name}: {len(points)} points, {len(found)} faults ({kills} kills), {len(todo)} trials")
    assert not wrong, "\n".join(wrong)
    assert len(found) >= least and kills >= least // 5


def in_turn(found: list[Fault], first: int, share: int = SHARE) -> Iterator[tuple[Fault, str]]:
    """Which faults are tried, each with a recovery; ``first``: where a share begins, of every ``share``-th."""
    if ALL:
        for fault in found:
            # Prolog takes an error back by itself: one recovery shows that
            for recovery in RECOVERIES if fault.kills else (AGAIN, EPILOG):
                yield fault, recovery
        return
    for number in range(first % share, len(found), share):
        yield found[number], RECOVERIES[number // share % len(RECOVERIES)]


def tried(pool: Executor, benches: list[Trials], todo: list[tuple[Fault, str]]) -> list[str]:
    """The complaints of all these trials, which the benches share."""
    waiting: queue.SimpleQueue[tuple[Fault, str]] = queue.SimpleQueue()
    for trial in todo:
        waiting.put(trial)

    def work(bench: Trials) -> list[str]:
        wrong: list[str] = []
        while True:
            try:
                fault, recovery = waiting.get_nowait()
            except queue.Empty:
                return wrong
            wrong += bench.run(fault, recovery)

    return [words for each in pool.map(work, benches) for words in each]
