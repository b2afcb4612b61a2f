# SPDX-License-Identifier: Apache-2.0
"""The owner's way to the counters: one step in the job (``srun --overlap``), with a sampler on each node.

Slurm lets a job's owner start a step and nobody else, so it is Slurm that keeps users apart. Root starts the step
in the owner's name. One step a job for as long as it is watched; it ends with the viewer, however that ends.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterable, Mapping
from functools import partial

from hpcnet import nodelist
from hpcnet.counters.model import JobInfo
from hpcnet.counters.streams import Streams, Target
from hpcnet.slurm.joblist import Remembered
from hpcnet.slurm.jobs import ControllerUnreachable, hosts
from hpcnet.slurm.networks import JobList, Network, networks, silently

STEP_NAME = "hpcnet-stats"

_RUNNING = frozenset({"RUNNING", "SUSPENDED"})


def sampler(of: str, interval: float) -> tuple[str, ...]:
    """The command line of hpcnet.counters.sampler, by the path that this program has."""
    return (sys.executable, "-I", "-m", "hpcnet", "sample", of, str(interval))


def job_info(network: Network) -> JobInfo:
    """What the record says of a job's network."""
    job, lease = network.job, network.record.lease
    return JobInfo(
        job_id=job.id,
        task=job.array,
        user=job.user,
        account=job.account,
        partition=job.partition,
        state="+".join(sorted(job.states)),
        mode=lease.mode if lease else "",
        vni=lease.vni or None if lease else None,
        pkey=lease.pkey if lease and lease.pkey != "none" else "",
        nodes=tuple(nodelist.expand(job.nodelist)) if job.nodelist else (),
        subnet=str(lease.ipv4) if lease else "",
        subnet6=str(lease.ipv6) if lease else "",
        mtu=lease.mtu or None if lease else None,
        started=job.start or None,
    )


def running(network: Network) -> bool:
    """Whether the job has a network that can be watched now."""
    return bool(network.record.lease and network.job.states & _RUNNING and "COMPLETING" not in network.job.states)


class StepSource:
    """Samples by steps; see hpcnet.counters.source.Source."""

    everybodys = False

    def __init__(self) -> None:
        self.ask = Remembered()
        self._watches: list[Streams] = []

    def _targets(
        self, interval: float, wanted: frozenset[int], lost: Mapping[str, frozenset[str]]
    ) -> dict[str, Target]:
        """A step for each job; and beside it one on those of its nodes that it has lost, and Slurm has not."""
        targets = {}
        for network in watched(wanted, self.ask):
            name, nodes = f"job {network.job.id}", frozenset(nodelist.expand(network.job.nodelist))
            while nodes:
                targets[name] = _target(network, nodes, interval)
                nodes = _up(lost.get(name, frozenset()))
                name += " again"
        return targets

    def jobs(self) -> list[JobInfo]:
        """The running jobs with a network: one's own, root's are all. Raises ControllerUnreachable."""
        found = (network for network in networks(silently, ask=self.ask) if running(network))
        return [job_info(network) for network in found if may_watch(network)]

    def watch(self, job_ids: Iterable[int], interval: float) -> Streams:
        """What it takes to sample these jobs."""
        watch = Streams(partial(self._targets, interval), job_ids, interval, self.ask.next)
        self._watches.append(watch)
        return watch

    def close(self) -> None:
        """Close every watch."""
        for watch in self._watches:
            watch.close()


def may_watch(network: Network) -> bool:
    """Whether the step would be allowed: Slurm decides; this only saves asking."""
    return os.geteuid() in (0, network.job.uid)


def watched(wanted: frozenset[int], ask: JobList) -> list[Network]:
    """Those of these jobs that run now. Raises ControllerUnreachable."""
    return [each for each in networks(silently, wanted, ask) if each.job.id in wanted and running(each)]


def _up(nodes: frozenset[str]) -> frozenset[str]:
    """Those that Slurm reaches: to start a step on another one would end the step on all."""
    try:
        return frozenset(host.name for host in hosts(nodes).values() if not host.suspect) if nodes else nodes
    except ControllerUnreachable:
        return frozenset()


def refusal(network: Network) -> str:
    """Why the caller may not watch a job; empty: he may."""
    if may_watch(network):
        return ""
    return f"job {network.job.id} is {network.job.user}'s; only its owner and root see it"


def _target(network: Network, nodes: frozenset[str], interval: float) -> Target:
    job_id, uid = network.job.id, network.job.uid
    jobs = frozenset({job_id})
    if refusal(network):
        return Target(jobs, nodes, problem=refusal(network))
    command = (
        "srun",
        f"--jobid={job_id}",
        "--overlap",
        f"--nodes={len(nodes)}",
        f"--nodelist={nodelist.fold(sorted(nodes))}",
        f"--ntasks={len(nodes)}",
        "--ntasks-per-node=1",
        "--no-kill",
        "--kill-on-bad-exit=0",
        "--mpi=none",
        "--chdir=/",
        f"--job-name={STEP_NAME}",
        *sampler(str(job_id), interval),
    )
    if os.geteuid() == uid:
        return Target(jobs, nodes, command)
    try:
        owner = pwd.getpwuid(uid)
    except KeyError:
        return Target(jobs, nodes, problem=f"job {job_id} is uid {uid}'s, whom this host does not know")
    groups = tuple(os.getgrouplist(owner.pw_name, owner.pw_gid))
    return Target(jobs, nodes, command, uid=uid, gid=owner.pw_gid, groups=groups)
