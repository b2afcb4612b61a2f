# SPDX-License-Identifier: Apache-2.0
"""What the controller does for a job: PrologSlurmctld leases a network, EpilogSlurmctld begins its end.

    prolog_slurmctld(job, site)     the job's record carries a lease, or a refusal with the reason
    epilog_slurmctld(job, site)     the lease on the record is ending
    refuse(job, reason)             when there is not even a Site: hpcnet.toml is broken

A job that asked costs slurmctld one RPC, the stamp. Only when the pool has no room are ended leases looked
through, with one squeue and one ``scontrol show nodes`` for all of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Callable, NamedTuple

from hpcnet import lease as leases
from hpcnet import nodelist, phases, record
from hpcnet.config import Site
from hpcnet.errors import HpcnetError, SiteError, UserError
from hpcnet.leaserows import Entry
from hpcnet.leasestore import Due, LeaseStore
from hpcnet.model import Lease, Request
from hpcnet.slurm import jobs
from hpcnet.slurm.environment import Job

POLL_SECONDS = 0.3
"""How often a job that waits for a lease looks at the store."""

SWEEP_SECONDS = 1.0
"""How often at most slurmctld is asked about ended leases, by all waiting jobs together."""

STAMP_SECONDS = 12.0
"""How long slurmctld is tried for the stamp."""

YOUNG_SECONDS = 60.0
"""A live lease is not taken for a lost job's before this age."""

SWEEP_LIMIT = 1000
"""How many leases one sweep frees at most, while a job waits for it."""

_YEAR_SECONDS = 366 * 86400  # a serial grows with the time: one of far ahead is not one of ours

Log = Callable[[str], None]


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def prolog_slurmctld(job: Job, site: Site, log: Log = _to_stderr) -> tuple[str, int]:
    """Leases the job's network and stamps it on the record; returns what came of it in words, and the serial.

    A bad request, a full pool or a passed deadline is stamped as a refusal, and no error here. Raises
    SiteError when nothing can be stamped: the record still says ``asked``, and no node builds anything.
    ``log`` hears of other jobs' leases and of the store.
    """
    try:
        found = record.find(job.record_text)
        if found is None:
            return "asked for no network", 0
        return _lease_and_stamp(job, found.request, site, log)
    except jobs.JobUnknown:
        return "is gone before it had its network", 0
    except HpcnetError as error:
        silent = isinstance(error, jobs.ControllerUnreachable)
        return refuse(job, str(error), patience=3.0 if silent else STAMP_SECONDS), 0


def epilog_slurmctld(job: Job, site: Site, log: Log = _to_stderr) -> str:
    """Marks the lease on the job's record as ending; returns in words whether it was held. Raises SiteError.

    By its serial, never as "the job's lease": after a requeue this may run when the next run has its own.
    """
    found = record.find(job.record_text)
    if found is None or found.lease is None:
        return "had no lease"
    with LeaseStore(site.pool.store, from_job_records, log) as store:
        known = store.end(found.lease.serial, job.id, time.time())
    return f"lease {'is ending' if known else 'is not held any more'}"


def refuse(job: Job, reason: str, patience: float = STAMP_SECONDS) -> str:
    """Stamps a refusal on the record of a job that asked for a network, trying for ``patience`` seconds.

    Returns what came of it in words. Raises SiteError, also as ControllerUnreachable and JobUnknown.
    """
    try:
        found = record.find(job.record_text)
        if found is None:
            return "asked for no network"
        request = found.request
    except (UserError, SiteError):
        request = Request()  # the token itself is broken
    refused = record.Record("refused", request, reason=reason)
    try:
        _stamp(job, record.replace(job.record_text, refused), patience)
    except SiteError as error:
        raise type(error)(f"refused: {reason}; but its record does not say so: {error}") from None
    return f"refused: {reason}"


def _lease_and_stamp(job: Job, request: Request, site: Site, log: Log) -> tuple[str, int]:
    terms = leases.terms_of(request, site)
    size = len(nodelist.expand(job.nodelist))
    with LeaseStore(site.pool.store, from_job_records, log) as store:
        lease, new = _wait_for_lease(store, job, size, terms, site, log)
        phases.passed("lease")
        try:
            stamped = record.Record("lease", request, lease, account=job.account)
            _stamp(job, record.replace(job.record_text, stamped), STAMP_SECONDS)
        except HpcnetError:
            store.end(lease.serial, job.id, time.time())
            raise
    phases.passed("stamp")
    what = f"{leases.separation(lease)}, {lease.ipv4}, {lease.ipv6}"
    return f"{'leased' if new else 'keeps'} {what} for {size} nodes", lease.serial


def _wait_for_lease(
    store: LeaseStore, job: Job, size: int, terms: leases.Terms, site: Site, log: Log
) -> tuple[Lease, bool]:
    """A lease, after a sweep and a wait of ``site.pool.wait`` seconds when the pool is full."""
    deadline = time.monotonic() + site.pool.wait
    while True:
        try:
            pool = leases.pool_of(terms, site)
            return store.lease(job.id, job.array, job.nodelist, size, terms, pool, time.time())
        except leases.PoolFull:
            if store.claim_sweep(time.time(), SWEEP_SECONDS) and sweep(store, site.pool.cooldown, log):
                continue
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


def _stamp(job: Job, text: str, patience: float) -> None:
    """Writes the record; a slurmctld that does not answer is tried again for ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return jobs.stamp(job, text, timeout=max(deadline - time.monotonic(), 1.0))
        except jobs.ControllerUnreachable:
            if time.monotonic() + POLL_SECONDS >= deadline:
                raise
        time.sleep(POLL_SECONDS)


class Sweep(NamedTuple):
    """Leases without a job, as they were seen."""

    lost: list[Due]
    """Live, but their EpilogSlurmctld never came: they begin to end."""
    over: list[tuple[Due, list[str]]]
    """Ended, each with the nodes that may still hold its network: none means free."""


def sweep(store: LeaseStore, cooldown: float, log: Log = _to_stderr) -> int:
    """Frees ended leases whose job has left its nodes, quarantines those with a lost node; returns how many
    were freed. When slurmctld gives no answer everything is kept.
    """
    try:
        return carry_out(store, find_over(store, cooldown), log)
    except jobs.ControllerUnreachable as error:
        log(f"ended leases are kept: {error}")
        return 0


def find_over(store: LeaseStore, cooldown: float) -> Sweep:
    """What a sweep would do; nothing is changed. Raises ControllerUnreachable."""
    due = store.due(cooldown, YOUNG_SECONDS, time.time())  # first: what comes later is not judged
    if not due:
        return Sweep([], [])
    occupying = jobs.occupying()
    newest = store.newest()
    over = [seen for seen in due if _is_over(seen, occupying, newest)]
    ended = [seen for seen in over if seen.state != "live"][:SWEEP_LIMIT]
    return Sweep([seen for seen in over if seen.state == "live"], _with_lost_nodes(store, ended))


def carry_out(store: LeaseStore, found: Sweep, log: Log = _to_stderr) -> int:
    """Ends, frees or quarantines what :func:`find_over` found; returns how many were freed."""
    store.end_lost(found.lost, time.time())
    for seen in found.lost:
        log(f"job {seen.job} is gone without an EpilogSlurmctld: lease {seen.serial} is ending")
    store.settle(found.over)
    for seen, lost in found.over:
        if lost and seen.state == "ending":
            names = nodelist.fold(lost)
            log(f"lease {seen.serial} of job {seen.job} is in quarantine until {names} reboots or is cleaned")
    return sum(not lost for _, lost in found.over)


def _is_over(seen: Due, occupying: Mapping[int, frozenset[str]], newest: Mapping[int, int]) -> bool:
    """Whether the lease's run holds no node any more. With a newer lease, only COMPLETING may be this run."""
    states = occupying.get(seen.job, frozenset())
    if newest.get(seen.job, 0) > seen.serial:
        return "COMPLETING" not in states
    return not states


def _with_lost_nodes(store: LeaseStore, over: list[Due]) -> list[tuple[Due, list[str]]]:
    if not over:
        return []
    waiting = store.quarantined()
    nodes = {seen.serial: waiting.get(seen.serial) or frozenset(nodelist.expand(seen.nodelist)) for seen in over}
    hosts = jobs.hosts(frozenset().union(*nodes.values()))
    return [
        (seen, sorted(node for node in nodes[seen.serial] if _may_hold_network(seen, hosts.get(node))))
        for seen in over
    ]


def _may_hold_network(seen: Due, host: jobs.Host | None) -> bool:
    """Whether a node may still have the ended job's network. A boot since its end removed it for certain;
    without one, a quarantined lease waits for ``cleaned`` even when the node is back.
    """
    if host is None:
        return seen.state == "quarantined"
    return host.boot <= seen.ended and (seen.state == "quarantined" or host.suspect)


def from_job_records() -> list[Entry]:
    """The leases on job records, for a store that was lost. Raises ControllerUnreachable."""
    now = time.time()
    found = (_entry(job, now) for job in jobs.jobs())
    return [entry for entry in found if entry is not None]


def _entry(job: jobs.SlurmJob, now: float) -> Entry | None:
    for text in (job.extra, job.comment):
        try:
            stamped = record.find(text)
        except HpcnetError:
            continue
        if stamped is None or stamped.lease is None or stamped.lease.serial > now + _YEAR_SECONDS:
            continue
        if not job.nodelist or ("PENDING" in job.states and "COMPLETING" not in job.states):
            return None
        live = bool(job.states & set(jobs.OCCUPYING.split(","))) and "COMPLETING" not in job.states
        state, ended = ("live", 0.0) if live else ("ending", now)
        return Entry(job.id, job.array, job.nodelist, state, ended, stamped.lease)
    return None
