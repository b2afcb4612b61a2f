# SPDX-License-Identifier: Apache-2.0
"""Which networks on this node are without a live job, and their removal: what ``hpcnet cleanup`` does.

    decide(remains, known, terms) -> Verdict    pure; what is not known is never removed
    run(site, terms, dry_run) -> Report         this node: look, ask, remove

The node is looked at first and Slurm asked after that: a job that starts meanwhile was not seen, and is not
judged. What else a job may leave is one place more for remains.found() to look at, and for lifecycle to remove.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

from hpcnet import admission, lifecycle, remains
from hpcnet.config import Site
from hpcnet.errors import HpcnetError
from hpcnet.kernel import filter as packet_filter
from hpcnet.kernel import translation
from hpcnet.remains import Remains
from hpcnet.runtimes import docker
from hpcnet.runtimes.engine import Engine
from hpcnet.slurm import jobs, steps

MIN_AGE = 60.0
"""Seconds: younger networks are left alone when nothing else is asked for."""

LOCK_SECONDS = 5.0
"""How long a running Prolog or Epilog of the job is waited for."""

DEAD, LIVE, YOUNG, FOREIGN, UNKNOWN = "dead", "live", "young", "foreign", "unknown"


@dataclass(frozen=True)
class Terms:
    """What may be removed here and now."""

    boot_id: str
    now: float
    """Seconds since the epoch."""
    min_age: float = MIN_AGE
    job: int = 0
    """Only this one; 0: all."""
    boot: bool = False
    """Only what an earlier boot left."""


@dataclass(frozen=True)
class Known:
    """What was found out about jobs. slurmctld not asked, or without an answer: ``holders`` is None."""

    steps: frozenset[int] = frozenset()
    """Jobs with a slurmstepd here."""
    holders: Mapping[int, jobs.Holder] | None = None
    cluster: str = ""
    silence: str = ""
    """Why slurmctld gave no answer."""


@dataclass(frozen=True)
class Verdict:
    """``kind`` is one of dead (to be removed), live, young, foreign, unknown (kept)."""

    kind: str
    reason: str


def decide(left: Remains, known: Known, terms: Terms) -> Verdict:
    """Whether what is left of a job here is without a live job. Anything that is not known keeps it."""
    return _by_itself(left, terms) or _by_steps(left, known) or _by_age(left, terms) or _by_slurmctld(left, known)


def _by_itself(left: Remains, terms: Terms) -> Verdict | None:
    if left.foreign:
        return Verdict(FOREIGN, f"its namespace holds {', '.join(left.foreign)}, which are not this job's")
    if not left.owned:
        return Verdict(FOREIGN, "only its name says that it is hpcnet's; if it is: ip netns delete")
    if left.boot_id and left.boot_id != terms.boot_id and not left.in_kernel:
        return Verdict(DEAD, "built before this node was booted")
    return Verdict(YOUNG, "it is of this boot, or does not say of which (--boot)") if terms.boot else None


def _by_steps(left: Remains, known: Known) -> Verdict | None:
    return Verdict(LIVE, "slurmstepd runs steps of it here") if left.job_id in known.steps else None


def _by_age(left: Remains, terms: Terms) -> Verdict | None:
    if not terms.min_age or left.changed is None or terms.now - left.changed >= terms.min_age:
        return None
    if left.changed > terms.now:
        return Verdict(YOUNG, "its time lies ahead of this node's clock; --min-age 0 removes it all the same")
    return Verdict(YOUNG, f"it is younger than {terms.min_age:g} s (--min-age)")


def _by_slurmctld(left: Remains, known: Known) -> Verdict:
    if known.holders is None:
        return Verdict(UNKNOWN, f"cannot reach slurmctld, so it stays: {known.silence or 'it was not asked'}")
    if left.cluster and left.cluster != known.cluster:
        return Verdict(UNKNOWN, f"it is of cluster {left.cluster}, and slurmctld here is of {known.cluster}")
    holder = known.holders.get(left.job_id)
    if holder is None:
        return Verdict(DEAD, "Slurm has the job on no node (any more)")
    states = "+".join(sorted(holder.states))
    if left.node and holder.nodes and left.node not in holder.nodes:
        return Verdict(DEAD, f"Slurm has the job on other nodes ({states}), on {left.node} no more")
    return Verdict(LIVE, f"Slurm has the job on its nodes ({states})")


@dataclass(frozen=True)
class Network:
    """What became of what was left of one job: ``done`` is removed, kept, failed or (dry run) found."""

    left: Remains
    verdict: Verdict
    done: str = "kept"
    complaints: tuple[str, ...] = ()


@dataclass
class Report:
    """What a run on this node found and did."""

    dry_run: bool
    networks: list[Network] = field(default_factory=list)
    entries: dict[int, list[str]] = field(default_factory=dict)
    """Of the packet filter, by VNI: peers of no network here."""
    filter_problem: str = ""
    """Why the packet filter could not be looked at, or entries of it not be removed."""
    docker_problem: str = ""
    """Why dockerd did not tell what networks it has of jobs: those without a journal are not seen then."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        networks = [
            {
                **{key: value for key, value in asdict(network.left).items() if key not in ("vnis", "owned")},
                **asdict(network.verdict),
                "done": network.done,
                "complaints": list(network.complaints),
            }
            for network in self.networks
        ]
        entries = [{"vni": vni, "peers": peers} for vni, peers in self.entries.items()]
        return {
            "dry_run": self.dry_run,
            "networks": networks,
            "filter": entries,
            "filter_problem": self.filter_problem or None,
            "docker_problem": self.docker_problem or None,
        }


def run(site: Site, terms: Terms, dry_run: bool) -> Report:
    """Look at this node, ask Slurm where that decides, and remove what is dead."""
    report = Report(dry_run)
    seen = {} if terms.boot else _filter_entries(report, site)  # first, see remains.unclaimed
    dockers = {} if terms.boot else _docker_networks(report, site)
    ways = () if terms.boot else _ways(report, site)
    here = remains.found(dockers, ways)
    wanted = [left for left in here if terms.job in (0, left.job_id)]
    known = _ask(wanted, terms)
    for left in wanted:
        network = Network(left, decide(left, known, terms))
        if network.verdict.kind == DEAD:
            network = replace(network, done="found") if dry_run else _removed(network, site, dockers, ways, terms)
        report.networks.append(network)
    gone = {network.left for network in report.networks if network.done == "removed"}
    entries = remains.unclaimed(seen, (left for left in here if left not in gone))
    if terms.job:
        entries = {vni: entries[vni] for left in gone for vni in left.vnis if vni in entries}
    try:
        _expel(report, entries)
    except (HpcnetError, OSError) as error:
        report.filter_problem = str(error)
    return report


def _filter_entries(report: Report, site: Site) -> dict[int, set[IPv4Address]]:
    if "vxlan" not in site.offer.modes:
        return {}
    try:
        return packet_filter.elements()
    except HpcnetError as error:
        report.filter_problem = str(error)
        return {}


def _ways(report: Report, site: Site) -> remains.Ways:
    if "host" not in site.offer.egress:
        return ()
    try:
        return translation.jobs()
    except HpcnetError as error:
        report.filter_problem = str(error)
        return ()


def _docker_networks(report: Report, site: Site) -> remains.Networks:
    if not site.offer.docker:
        return {}
    try:
        return docker.by_job(Engine(site.docker.socket, site.docker.deadline))
    except HpcnetError as error:
        report.docker_problem = str(error)
        return {}


def _ask(wanted: list[Remains], terms: Terms) -> Known:
    """slurmctld only where what this node knows does not decide: a quiet node costs the controller nothing."""
    if terms.boot:
        return Known()
    known = Known(steps.jobs())
    if all(decide(left, known, terms).kind != UNKNOWN for left in wanted):
        return known
    try:
        return replace(known, cluster=jobs.cluster(), holders=jobs.holders())
    except HpcnetError as error:
        return replace(known, silence=str(error))


def _removed(network: Network, site: Site, dockers: remains.Networks, ways: remains.Ways, terms: Terms) -> Network:
    """dockerd is not asked again whether it has changed: a Prolog that built since shows in the kernel and the
    journal, and a dockerd that does not answer must keep nothing else. Nor is the filter of jobs' way out."""
    left = network.left
    asks = False if terms.boot else (left.job_id in dockers or None)
    try:
        complaints = lifecycle.reap(
            left.job_id, site, LOCK_SECONDS, lambda: remains.of_job(left.job_id, dockers, ways) == left, asks
        )
    except BlockingIOError:
        busy = Verdict(LIVE, f"its Prolog or Epilog is at work, for {LOCK_SECONDS:g} s already")
        return replace(network, verdict=busy)
    except (HpcnetError, OSError) as error:
        return replace(network, done="failed", complaints=(str(error),))
    if complaints is None:
        return replace(network, verdict=Verdict(LIVE, "it has changed since it was judged"))
    return replace(network, done="failed" if complaints else "removed", complaints=tuple(complaints))


def _expel(report: Report, found: Mapping[int, set[IPv4Address]]) -> None:
    left = packet_filter.elements() if found else {}  # most went with their network
    for vni in sorted(found.keys() & left.keys()):
        peers = found[vni] & left[vni]
        report.entries[vni] = [str(peer) for peer in sorted(peers)]
        if not report.dry_run:
            admission.expel(vni, peers)
