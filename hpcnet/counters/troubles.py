# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a job's network on one of its nodes, by what the node's sampler says beside the counters and
by what the job's record says. It takes no privilege, and nothing on the node but the sampler.

judge = Judge(job)                            # one for as long as one watches
judge.look(older, latest, rates)              # once an interval; two samples of one node, the rates between them
                                              # -> (Trouble("error", "hpc0 is DOWN", ...),)

What a packet would show (a peer that does not answer) is ``hpcnet check``'s, on the node and as root.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from operator import attrgetter
from typing import Any, NamedTuple

from hpcnet import names
from hpcnet.counters.model import EGRESS, PORT, SEGMENT, TASKS, JobInfo, NodeSample
from hpcnet.counters.rates import Rates

INFO, WARNING, ERROR = "info", "warning", "error"


class Trouble(NamedTuple):
    """One thing that is wrong; the same one of two nodes is equal."""

    grade: str
    """warning, or error: there the job's traffic stands still, or cannot be told."""
    text: str
    remedy: str
    """What to do."""


SILENT = Trouble(WARNING, "says nothing", "is the node up? sinfo -N -n NODE, and slurmd's log there")

GROWING = Trouble(
    WARNING, "drops and errors grow", "enter on the job and the node: which counter; ethtool -S there"
)

_LOOKS = 15
"""So many looks without one more drop end GROWING."""

_DOWN = ("DOWN", "LOWERLAYERDOWN", "NOTPRESENT")

_fixed = attrgetter("kind", "device", "state", "mtu", "addresses")


def _said(sample: NodeSample) -> Any:
    """What troubles are judged by: all that does not change while all is well."""
    return sample.problem, [*map(_fixed, sample.interfaces)]


class Judge:
    """Of one job. A node that says what it said before is not judged again: there may be 10,000 a second."""

    def __init__(self, job: JobInfo) -> None:
        self.job = job
        self._ranks = {node: rank for rank, node in enumerate(job.nodes)}
        self._networks = [ip_network(each) for each in (job.subnet, job.subnet6) if each]
        self._known: dict[str, tuple[Any, tuple[Trouble, ...]]] = {}
        self._growing: dict[str, int] = {}  # looks that are left
        self._active: set[str] = set()  # nodes that had an active port

    def look(self, older: NodeSample | None, latest: NodeSample | None, rates: Rates) -> tuple[Trouble, ...]:
        """All that is wrong with the node now."""
        if latest is None or older is None:
            return ()
        found, node = self._shown(older, latest), latest.node
        if any(rates[4:]):
            self._growing[node] = _LOOKS
        elif node in self._growing:
            self._growing[node] -= 1
            if not self._growing[node]:
                del self._growing[node]
        return (*found, GROWING) if node in self._growing else found

    def _shown(self, older: NodeSample, latest: NodeSample) -> tuple[Trouble, ...]:
        """What both samples show: while a job ends, one may be taken when half of its network is gone."""
        said = _said(latest)
        known = self._known.get(latest.node)
        if known is None or known[0] != said:
            known = self._known[latest.node] = said, tuple(self._troubles(latest))
        if not known[1] or _said(older) == said:
            return known[1]
        before = set(self._troubles(older))
        return tuple(each for each in known[1] if each in before)

    def _troubles(self, sample: NodeSample) -> Iterator[Trouble]:
        job = self.job
        look = f"an admin: hpcnet check {job.job_id} there; requeue the job without this node"
        if sample.problem:
            yield Trouble(ERROR, sample.problem, look)
            return
        found = {each.kind: each for each in sample.interfaces}
        wanted = {TASKS: names.TASKS_DEVICE, **({SEGMENT: names.VXLAN_DEVICE} if job.mode == "vxlan" else {})}
        for kind, device in wanted.items():
            if kind not in found:
                yield Trouble(ERROR, f"{device} is gone", look)
        down = [found[kind] for kind in (SEGMENT, TASKS, EGRESS) if kind in found and found[kind].state in _DOWN]
        for link in down:
            if not (link.kind == TASKS and down[0].kind == SEGMENT):  # hpc0 stands on it, and is down for that
                yield Trouble(ERROR, f"{link.device} is {link.state}", look)
        tasks = found.get(TASKS)
        if tasks is not None and tasks.mtu is not None:  # one that was read without netlink tells neither
            if job.mtu and tasks.mtu != job.mtu:
                yield Trouble(WARNING, f"{tasks.device} has MTU {tasks.mtu}, the job's is {job.mtu}", look)
            yield from self._addresses(sample.node, tasks.device, tasks.addresses, look)
        ports = [each for each in sample.interfaces if each.kind == PORT]
        if any(each.state == "ACTIVE" for each in ports):
            self._active.add(sample.node)
        elif ports and sample.node in self._active:  # of a node whose fabric is another one no port may ever be
            states = ", ".join(f"{each.device} {each.state}" for each in ports)
            yield Trouble(
                ERROR, f"no port of the fabric is active any more: {states}", "cable, switch; ibstat there"
            )

    def _addresses(self, node: str, device: str, told: tuple[str, ...], look: str) -> Iterator[Trouble]:
        """Those of the node's rank, and no others but link-local ones."""
        if node not in self._ranks or not self._networks:
            return
        from hpcnet import lease  # takes the configuration's modules with it, and somebody waits for the screen

        offset = lease.offsets(self._ranks[node], len(self._ranks), 0)[0]
        own = [str(each.network_address + offset) for each in self._networks]
        on_it = [each.partition("/")[0] for each in told if not each.startswith("fe80:")]
        for address in own:
            if address not in on_it:
                yield Trouble(ERROR, f"{device} lacks its address {address}", look)
        for address in on_it:
            if address not in own:
                yield Trouble(WARNING, f"{device} has {address}, which is not the job's", look)
