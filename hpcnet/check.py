# SPDX-License-Identifier: Apache-2.0
"""``hpcnet check``: a job's network on this node, the kernel against the journal."""

from __future__ import annotations

from dataclasses import dataclass

from hpcnet import journal, lifecycle, names
from hpcnet.config import Site
from hpcnet.errors import NodeError
from hpcnet.kernel import netns, observe, probe, trial
from hpcnet.model import Plan
from hpcnet.runtimes import docker
from hpcnet.runtimes.engine import Engine

PROBED = 1000
"""Most peers that get a full-size packet, so that a check stays short on a large job."""


@dataclass(frozen=True)
class Report:
    """How a job's network here differs from its plan; all empty: it does not."""

    job_id: int
    missing: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    """Nodes that do not answer a packet of full size."""
    problem: str = ""
    """Why it could not be compared, or that it is refused."""

    @property
    def clean(self) -> bool:
        """Whether nothing is missing, foreign, silent or refused."""
        return not (self.missing or self.foreign or self.silent or self.problem)


def check(job_id: int, site: Site) -> Report:
    """Compare what the kernel holds with what the journal says, and try the way to each peer."""
    refusal = journal.refusal(job_id)
    if refusal:
        return Report(job_id, problem=f"refused: {refusal}")
    entry = journal.read(job_id)
    if entry is None:
        return Report(job_id, problem="no journal of this job on this node")
    if entry.boot_id != lifecycle.boot_id():
        return Report(job_id, problem="built before this node was booted; nothing of it is left but its journal")
    plan = lifecycle.plan_of(entry, site)
    wanted, found = observe.planned(plan), observe.observed(job_id, entry.vni)
    silent: list[str] = []
    if netns.exists(job_id) and not wanted - found:
        peers = {peer.ipv4: peer.node for peer in plan.peers if peer.slot == 0}
        asked = list(peers)[:PROBED]
        silent = [peers[address] for address in probe.silent(job_id, asked, plan.mtu)]
    lost, strange = _filter_differs(plan, site)
    missing, foreign, problem = sorted(wanted - found) + lost, sorted(found - wanted) + strange, ""
    try:
        missing += _docker_missing(plan, site)
    except NodeError as error:
        problem = str(error)
    return Report(job_id, tuple(missing), tuple(foreign), tuple(silent), problem)


def _filter_differs(plan: Plan, site: Site) -> tuple[list[str], list[str]]:
    """Rules that the node's tables lack, and those that they have beyond hpcnet.toml's. Raises NodeError."""
    tables = {} if plan.direct else {names.NFT_TABLE: trial.filter_difference(site)}
    if plan.egress:
        tables[names.NFT_EGRESS_TABLE] = trial.translation_difference(site)
    lost, strange = [], []
    for table, difference in tables.items():
        if any(line.startswith("- table") for line in difference):
            lost.append(f"filter table inet {table}")
            continue
        lost += [f"filter rule {line[2:]}" for line in difference if line.startswith("-")]
        strange += [f"filter rule {line[2:]}" for line in difference if line.startswith("+")]
    return lost, strange


def _docker_missing(plan: Plan, site: Site) -> list[str]:
    """The Docker network of a job that has docker=yes, if dockerd lacks it. Raises NodeError: it does not say."""
    if not plan.lease.docker or plan.job_id in docker.by_job(Engine(site.docker.socket, site.docker.deadline)):
        return []
    return [f"Docker network {names.docker_network(plan.job_id)}"]


def jobs() -> list[int]:
    """Jobs that have anything on this node: a directory, or a namespace."""
    return sorted({*journal.jobs(), *netns.pinned()})
