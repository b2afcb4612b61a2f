# SPDX-License-Identifier: Apache-2.0
"""Prolog and Epilog broken at every step: an error or SIGKILL before and after each; then nothing may be left.

``make test-faults`` runs every fault with each recovery; without HPCNET_FAULTS=all every kill and a share of the
errors have one of them each.
"""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from tests.faults.points import Fault, Point, faults
from tests.faults.trials import BESIDE, RECOVERIES, Scenario, Trials
from tests.kernel.hosts import Fabric, Host, job_environment, lease_of, require_root
from tests.kernel.test_direct import direct_lease
from tests.kernel.test_reap import Slurmctld

require_root()
pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

ALL = os.environ.get("HPCNET_FAULTS") == "all"
SITE = '[offer]\nmodes = ["vxlan", "direct"]\n[direct]\nallow_shared = true\n'
NODES = "n[1-4]"
SHARE = 5
"""Without HPCNET_FAULTS=all every so many-th error is tried: a hook takes most of them back by itself."""

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


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """Four nodes, each in a process table of its own: a hook makes the same calls each time."""
    made = Fabric(4, own_processes=True)
    for host in made.hosts:
        Slurmctld(host).has(f"{BESIDE} RUNNING {NODES}")
    yield made
    made.close()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_step_of(fabric: Fabric, capsys: pytest.CaptureFixture[str], name: str) -> None:
    hook, environment, before, beside, least = SCENARIOS[name]
    scenario = Scenario(name, hook, environment, before, beside, SITE)
    with on_each(fabric.hosts, scenario) as (pool, benches):
        points = benches[0].points()
        found = faults(points)
        todo = list(in_turn(found, list(SCENARIOS).index(name)))
        wrong = tried(pool, benches, todo)
    kills = sum(fault.kills for fault in found)
    with capsys.disabled():
        print(f"\n{name}: {told(points, found, todo)}")
    assert not wrong, "\n".join(wrong)
    assert len(found) >= least and kills >= least // 5


@contextlib.contextmanager
def on_each(hosts: Sequence[Host], scenario: Scenario) -> Iterator[tuple[Executor, list[Trials]]]:
    """The scenario on all hosts at once, with a thread for each."""
    with ThreadPoolExecutor(len(hosts)) as pool, contextlib.ExitStack() as ends:
        benches = [Trials(host, scenario) for host in hosts]
        for bench in benches:
            ends.callback(bench.close)
        list(pool.map(Trials.begin, benches))
        yield pool, benches


def in_turn(found: list[Fault], first: int, errors: int = SHARE, kills: int = 1) -> Iterator[tuple[Fault, str]]:
    """Which faults are tried, each with a recovery: all with all, or else a share with the next one of them.

    ``errors``, ``kills``: every so many-th of them; ``first``: where counting begins, so that scenarios differ.
    """
    if ALL:
        yield from ((fault, recovery) for fault in found for recovery in RECOVERIES)
        return
    for killing, share in ((True, kills), (False, errors)):
        of_kind = [fault for fault in found if fault.kills == killing]
        for number, fault in enumerate(of_kind[first % share :: share], first):
            yield fault, RECOVERIES[number % len(RECOVERIES)]


def told(points: list[Point], found: list[Fault], todo: list[tuple[Fault, str]]) -> str:
    """The figures of a scenario."""
    kills, tried = sum(fault.kills for fault in found), len({fault for fault, _ in todo})
    recoveries = "each of 3 recoveries" if ALL else "one of 3 recoveries each"
    return f"{len(points)} points, {len(found)} faults ({kills} kills); {tried} tried, with {recoveries}"


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
