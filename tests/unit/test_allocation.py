# SPDX-License-Identifier: Apache-2.0
"""PrologSlurmctld and EpilogSlurmctld, with a real lease file and a slurmctld that is a dictionary."""

from __future__ import annotations

import dataclasses
import os
import time
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hpcnet import allocation, record
from hpcnet.config import Pool, Site
from hpcnet.leasestore import LeaseStore
from hpcnet.model import Lease, Request
from hpcnet.slurm import jobs
from hpcnet.slurm.environment import Job

ASKED = "hpcnet:asked:"
START = 1_700_000_000.0


class Slurmctld:
    """What the real one is asked, and time."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.records: dict[str, str] = {}
        self.states: dict[int, str] = {}
        self.nodelists: dict[int, str] = {}
        self.hosts: dict[str, jobs.Host] = {}
        self.now = START
        self.calls: list[str] = []
        self.silent_until = 0.0
        self.log: list[str] = []
        self.said = ""

    def answer(self, call: str) -> None:
        self.calls.append(call)
        if self.now < self.silent_until:
            self.now += 1
            raise jobs.ControllerUnreachable("scontrol: Unable to contact slurm controller")

    def stamp(self, job: Job, text: str, timeout: float) -> None:
        self.answer("stamp")
        if self.states.get(job.id) == "GONE":
            raise jobs.JobUnknown("scontrol: Invalid job id specified")
        self.records[job.array or str(job.id)] = text

    def occupying(self) -> dict[int, frozenset[str]]:
        self.answer("occupying")
        gone = ("GONE", "PENDING", "COMPLETED")
        return {job: frozenset({state}) for job, state in self.states.items() if state not in gone}

    def nodes(self, names: frozenset[str]) -> dict[str, jobs.Host]:
        self.answer("hosts")
        return {name: self.hosts[name] for name in names if name in self.hosts}

    def jobs(self) -> list[jobs.SlurmJob]:
        self.answer("jobs")
        return [
            jobs.SlurmJob(
                id=job,
                array="",
                states=frozenset(state.split("+")),
                uid=0,
                user="",
                account="",
                partition="",
                nodelist=self.nodelists.get(job, ""),
                comment=self.records.get(str(job), ""),
                extra="",
                start=0,
                end=0,
            )
            for job, state in self.states.items()
        ]

    # What happens to jobs.

    def job(self, number: int, nodelist: str = "n1", text: str | None = None, array: str = "") -> Job:
        old = self.records.get(array or str(number), ASKED)
        return Job(number, 0, "", "", "", "c", nodelist, "", array, "comment", old if text is None else text)

    def start(self, number: int, nodelist: str = "n1", text: str | None = None, array: str = "") -> record.Record:
        self.states[number], self.nodelists[number] = "RUNNING", nodelist
        self.said, _ = allocation.prolog_slurmctld(
            self.job(number, nodelist, text, array), self.site, self.log.append
        )
        stamped = record.find(self.records.get(array or str(number), ""))
        assert stamped is not None
        return stamped

    def lease(self, number: int, nodelist: str = "n1") -> Lease:
        stamped = self.start(number, nodelist)
        assert stamped.lease is not None, stamped.reason
        return stamped.lease

    def end(self, number: int, text: str | None = None) -> None:
        self.states[number] = "COMPLETING"
        allocation.epilog_slurmctld(self.job(number, text=text), self.site, self.log.append)

    def held(self) -> dict[int, str]:
        with LeaseStore(self.site.pool.store, lambda: ()) as store:
            return {entry.lease.serial: entry.state for entry in store.entries()}

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def slurmctld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurmctld:
    """Two networks in all, a cooldown of 10 s, and 20 s of patience."""
    pool = Pool(vni=(5000, 5001), ipv4=IPv4Network("10.0.0.0/24"), store=str(tmp_path / "store"))
    controller = Slurmctld(Site(pool=pool))
    monkeypatch.setattr(jobs, "stamp", controller.stamp)
    monkeypatch.setattr(jobs, "occupying", controller.occupying)
    monkeypatch.setattr(jobs, "hosts", controller.nodes)
    monkeypatch.setattr(jobs, "jobs", controller.jobs)
    monkeypatch.setattr(time, "time", lambda: controller.now)
    monkeypatch.setattr(time, "monotonic", lambda: controller.now)
    monkeypatch.setattr(time, "sleep", controller.sleep)
    for name in ("n1", "n2"):
        controller.hosts[name] = jobs.Host(name, frozenset({"IDLE"}), int(START) - 1000)
    LeaseStore(pool.store, lambda: (), clock=lambda: START).close()
    return controller


def test_a_job_that_asked_for_nothing_costs_nothing(slurmctld: Slurmctld) -> None:
    allocation.prolog_slurmctld(slurmctld.job(1, text="only mine"), slurmctld.site, slurmctld.log.append)
    allocation.epilog_slurmctld(slurmctld.job(1, text="only mine"), slurmctld.site, slurmctld.log.append)
    allocation.refuse(slurmctld.job(1, text="only mine"), "why")
    assert slurmctld.calls == []


def test_a_job_is_leased_and_stamped_by_one_call(slurmctld: Slurmctld) -> None:
    stamped = slurmctld.start(1, "n[1-2]", 'my "own" a=b hpcnet:asked:mtu=9000')
    assert stamped.state == "lease"
    assert stamped.request == Request(mtu=9000)
    assert stamped.lease is not None
    assert (stamped.lease.serial, stamped.lease.vni, stamped.lease.mtu) == (int(START), 5000, 9000)
    assert slurmctld.records["1"].startswith('my "own" a=b hpcnet:lease:')
    assert slurmctld.calls == ["stamp"]


def test_an_array_task_stamps_its_own_record(slurmctld: Slurmctld) -> None:
    slurmctld.start(8, array="5_3")
    assert list(slurmctld.records) == ["5_3"]


def test_asked_again_for_the_same_run(slurmctld: Slurmctld) -> None:
    first = slurmctld.lease(1)
    slurmctld.now += 100
    assert slurmctld.lease(1) == first
    assert len(slurmctld.held()) == 1


def test_a_requeued_run_has_a_lease_of_its_own_and_a_late_epilog_spares_it(slurmctld: Slurmctld) -> None:
    old = slurmctld.lease(1, "n1")
    old_text = slurmctld.records["1"]
    new = slurmctld.lease(1, "n2")  # the record still has the old lease when this starts
    assert new.serial > old.serial
    slurmctld.end(1, text=old_text)
    assert slurmctld.held() == {old.serial: "ending", new.serial: "live"}


def test_a_refused_run_that_is_requeued_is_leased(slurmctld: Slurmctld) -> None:
    stamped = slurmctld.start(1, text="mine hpcnet:refused:mtu=2000:all_3_networks_held")
    assert stamped.state == "lease"
    assert stamped.request == Request(mtu=2000)
    assert slurmctld.records["1"].startswith("mine hpcnet:lease:")


def test_epilog_names_another_jobs_lease(slurmctld: Slurmctld) -> None:
    """A user may have edited the record."""
    lease = slurmctld.lease(1)
    slurmctld.end(2, text=slurmctld.records["1"])
    assert slurmctld.held() == {lease.serial: "live"}


def test_epilog_again_and_without_a_lease(slurmctld: Slurmctld) -> None:
    lease = slurmctld.lease(1)
    slurmctld.end(1)
    slurmctld.end(1)
    slurmctld.end(2)
    slurmctld.end(3, text="mine hpcnet:refused::why")
    assert slurmctld.held() == {lease.serial: "ending"}


def full(slurmctld: Slurmctld) -> tuple[Lease, Lease]:
    return slurmctld.lease(1), slurmctld.lease(2)


def test_a_full_pool_waits_then_refuses(slurmctld: Slurmctld) -> None:
    full(slurmctld)
    stamped = slurmctld.start(3)
    assert stamped.state == "refused"
    assert "all 2 networks of the pool are held" in stamped.reason
    assert 20 <= slurmctld.now - START < 22
    assert "occupying" not in slurmctld.calls  # nothing had ended, so there was nothing to ask


def test_a_waiting_job_gets_what_ended_once_it_has_cooled_down(slurmctld: Slurmctld) -> None:
    full(slurmctld)
    slurmctld.end(2)
    slurmctld.states[2] = "COMPLETED"
    assert slurmctld.lease(3).vni == 5001
    assert 10 <= slurmctld.now - START < 12
    assert slurmctld.calls.count("occupying") == slurmctld.calls.count("hosts") == 1


@pytest.mark.parametrize("state", ["COMPLETING", "RUNNING", "CONFIGURING", "STAGE_OUT"])
def test_what_still_has_nodes_is_kept(slurmctld: Slurmctld, state: str) -> None:
    """RUNNING with an ending lease: a stamp whose answer was lost, or an EpilogSlurmctld that came late."""
    full(slurmctld)
    slurmctld.end(2)
    slurmctld.states[2] = state
    assert slurmctld.start(3).state == "refused"


def test_the_old_lease_of_a_running_job_is_freed(slurmctld: Slurmctld) -> None:
    old = slurmctld.lease(1, "n1")
    slurmctld.end(1)
    slurmctld.lease(1, "n2")
    slurmctld.now += 11
    assert slurmctld.lease(2).vni == old.vni


def test_a_waiting_sweep_asks_slurmctld_once_a_second_at_most(slurmctld: Slurmctld) -> None:
    full(slurmctld)
    slurmctld.end(2)
    slurmctld.start(3)
    assert slurmctld.calls.count("occupying") <= 11  # from the tenth to the twentieth second


def test_no_answer_means_keep(slurmctld: Slurmctld) -> None:
    _, second = full(slurmctld)
    slurmctld.end(2)
    slurmctld.states[2] = "COMPLETED"
    slurmctld.now += 11
    slurmctld.silent_until = slurmctld.now + 1
    with LeaseStore(slurmctld.site.pool.store, lambda: ()) as store:
        assert allocation.sweep(store, 10, slurmctld.log.append) == 0
    assert slurmctld.held()[second.serial] == "ending"
    assert "kept" in slurmctld.log[-1]


def test_a_lost_node_puts_the_lease_in_quarantine_until_it_reboots(slurmctld: Slurmctld) -> None:
    slurmctld.lease(1)
    lease = slurmctld.lease(2, "n[1-2]")
    slurmctld.end(2)
    slurmctld.states[2] = "COMPLETED"
    slurmctld.hosts["n2"] = jobs.Host("n2", frozenset({"DOWN", "NOT_RESPONDING"}), int(START) - 9)
    slurmctld.now += 11
    assert slurmctld.start(3).state == "refused"
    assert slurmctld.held()[lease.serial] == "quarantined"
    assert "in quarantine until n2 reboots" in "".join(slurmctld.log)

    slurmctld.hosts["n2"] = jobs.Host("n2", frozenset({"IDLE"}), int(START) - 9)  # back, but the same boot
    assert slurmctld.start(4).state == "refused"
    slurmctld.hosts["n2"] = jobs.Host("n2", frozenset({"IDLE"}), int(START) + 30)
    assert slurmctld.start(5).state == "lease"


def test_a_node_that_failed_its_epilog_keeps_the_lease(slurmctld: Slurmctld) -> None:
    full(slurmctld)
    slurmctld.end(2)
    slurmctld.states[2] = "COMPLETED"
    slurmctld.hosts["n1"] = jobs.Host("n1", frozenset({"IDLE", "DRAIN"}), 5, "Epilog error [slurm@...]")
    slurmctld.now += 11
    assert slurmctld.start(3).state == "refused"
    with LeaseStore(slurmctld.site.pool.store, lambda: ()) as store:
        store.cleaned("n1", store.quarantined())
    assert slurmctld.start(4).state == "lease"


@pytest.mark.parametrize("states", ["IDLE DRAIN", "IDLE FAIL", "ALLOCATED DRAIN"])
def test_a_node_that_was_drained_before_keeps_the_lease_until_it_is_cleaned_or_boots(
    slurmctld: Slurmctld, states: str
) -> None:
    """A failed Epilog changes neither its state nor the admin's reason: nobody can tell."""
    full(slurmctld)
    slurmctld.end(2)
    slurmctld.states[2] = "COMPLETED"
    slurmctld.hosts["n1"] = jobs.Host("n1", frozenset(states.split()), 5, "new memory [root@...]")
    slurmctld.now += 11
    assert slurmctld.start(3).state == "refused"
    slurmctld.hosts["n1"] = jobs.Host("n1", frozenset({"IDLE"}), 5)  # resumed, and the same boot
    assert slurmctld.start(3).state == "refused"
    assert "in quarantine until n1 reboots or is cleaned" in "".join(slurmctld.log)
    slurmctld.hosts["n1"] = jobs.Host("n1", frozenset({"IDLE", "DRAIN"}), int(slurmctld.now))
    assert slurmctld.start(4).state == "lease"


def test_a_node_that_is_powered_down_has_no_network_however_it_was_drained(slurmctld: Slurmctld) -> None:
    full(slurmctld)
    slurmctld.end(2)
    slurmctld.states[2] = "COMPLETED"
    slurmctld.hosts["n1"] = jobs.Host("n1", frozenset({"IDLE", "DRAIN", "POWERED_DOWN"}), 5, "saves power")
    slurmctld.now += 11
    assert slurmctld.start(3).state == "lease"


def test_a_lease_whose_epilog_never_came_ends_when_its_job_is_gone(slurmctld: Slurmctld) -> None:
    full(slurmctld)
    slurmctld.states[2] = "GONE"
    slurmctld.now += 61
    assert slurmctld.start(3).state == "lease"
    assert "gone without an EpilogSlurmctld" in "".join(slurmctld.log)


def test_a_stamp_is_tried_again(slurmctld: Slurmctld) -> None:
    slurmctld.silent_until = START + 5
    assert slurmctld.start(1).state == "lease"


def test_a_stamp_that_never_arrives_gives_the_lease_back(slurmctld: Slurmctld) -> None:
    slurmctld.silent_until = START + 1000
    with pytest.raises(jobs.ControllerUnreachable):
        slurmctld.start(1)
    assert list(slurmctld.held().values()) == ["ending"]
    assert slurmctld.now < START + 25  # under the hooks' deadline of 30 s


def test_a_job_that_is_gone_before_it_is_stamped(slurmctld: Slurmctld) -> None:
    slurmctld.start(1)
    slurmctld.states[2] = "GONE"
    job = slurmctld.job(2)
    said, serial = allocation.prolog_slurmctld(job, slurmctld.site, slurmctld.log.append)
    assert list(slurmctld.held().values()) == ["live", "ending"]
    assert (said, serial) == ("is gone before it had its network", 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mine hpcnet:asked:mtu=65520", "mtu=65520 is too large for mode=vxlan here; at most 65470"),
        ("mine hpcnet:asked:docker=yes", "docker=yes is not offered here"),
        ("mine hpcnet:nonsense", "token 'hpcnet:nonsense' is not of a form this version knows"),
    ],
)
def test_a_bad_request_is_refused_on_the_record(slurmctld: Slurmctld, text: str, reason: str) -> None:
    stamped = slurmctld.start(1, text=text)
    assert stamped.state == "refused"
    assert reason in stamped.reason
    assert slurmctld.records["1"].startswith("mine hpcnet:refused:")
    assert slurmctld.held() == {}
    assert slurmctld.said == f"refused: {stamped.reason}"
    assert slurmctld.log == []


def test_a_job_too_large_is_refused_at_once(slurmctld: Slurmctld) -> None:
    stamped = slurmctld.start(1, "n[1-1000]")
    assert stamped.state == "refused"
    assert "the pool is 10.0.0.0/24 in all" in stamped.reason
    assert slurmctld.now == START


def test_a_store_that_cannot_be_used_is_a_refusal(slurmctld: Slurmctld) -> None:
    pool = dataclasses.replace(slurmctld.site.pool, store="/no/such/directory/store")
    slurmctld.site = dataclasses.replace(slurmctld.site, pool=pool)
    assert "cannot be made" in slurmctld.start(1).reason


def test_refuse_needs_no_site(slurmctld: Slurmctld) -> None:
    allocation.refuse(slurmctld.job(1, text="mine hpcnet:asked:mtu=9000"), "hpcnet.toml: unknown key 'x'")
    assert slurmctld.records["1"] == "mine hpcnet:refused:mtu=9000:hpcnet.toml:_unknown_key_'x'"


def test_a_lost_store_is_made_from_the_records(slurmctld: Slurmctld) -> None:
    running, completing = full(slurmctld)
    slurmctld.end(2)
    os.unlink(slurmctld.site.pool.store)
    slurmctld.states[3] = "PENDING"  # requeued: its record has the lease of the run that was
    slurmctld.records["3"] = slurmctld.records["1"]
    slurmctld.states[4], slurmctld.nodelists[4] = "RUNNING", "n1"
    forged = record.Record("lease", Request(), dataclasses.replace(running, serial=2**62, vni=7))
    slurmctld.records["4"] = record.token(forged)
    assert slurmctld.start(5).state == "refused"  # both are still held: the second until it leaves COMPLETING
    assert slurmctld.held() == {running.serial: "live", completing.serial: "ending"}


def test_a_lost_store_and_no_slurmctld_give_no_lease(slurmctld: Slurmctld) -> None:
    full(slurmctld)
    os.unlink(slurmctld.site.pool.store)
    slurmctld.silent_until = slurmctld.now + 1
    assert slurmctld.start(3).state == "refused"
    assert slurmctld.start(1).state == "lease"  # found again
    assert len(slurmctld.held()) == 2
