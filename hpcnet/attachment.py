# SPDX-License-Identifier: Apache-2.0
"""Containers in a job's network on this node: which address each has, and its interface.

For Docker's containers (through ``hpcnet agent``) and for those that root attaches by hand. What this makes, the
job's Epilog removes with the job's network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

from hpcnet import journal, lifecycle, names, slots
from hpcnet.config import Site
from hpcnet.errors import NodeError, UserError
from hpcnet.jobfiles import host_name
from hpcnet.kernel import attachment, netns
from hpcnet.model import Endpoint, Plan


def plan_here(job_id: int, site: Site, with_peers: bool = False) -> Plan:
    """The plan of a job that has a network on this node. Raises UserError when it has none, or none any more.

    Without peers unless asked: a container's start wants this node's endpoints several times.
    """
    entry = journal.read(job_id)
    if entry is None or not journal.published(job_id):
        raise UserError(f"job {job_id} has no network on this node; hpcnet check lists the jobs that have one")
    return lifecycle.plan_of(entry, site, with_peers)


@contextlib.contextmanager
def _job(job_id: int, site: Site, with_peers: bool = False) -> Iterator[Plan]:
    """The job's plan, with its removal kept waiting until the block ends."""
    with journal.locked(job_id, journal.ATTACHMENTS):
        yield plan_here(job_id, site, with_peers)


def take(job_id: int, wanted: IPv4Address | None, owner: str, site: Site) -> Endpoint:
    """Take a container address of the job on this node, a given one or the first free one. Raises UserError."""
    with _job(job_id, site) as plan:
        free = [endpoint.slot for endpoint in plan.own[1:] if wanted in (None, endpoint.ipv4)]
        if not plan.own[1:]:
            raise UserError(f"job {job_id} has no container addresses; ask for them: --network=ib,endpoints=8")
        if not free:
            raise UserError(f"{wanted} is not an address for containers of job {job_id} here; {_range(plan)}")
        slot = slots.take(job_id, free, owner)
        if slot is None and wanted is not None:
            raise UserError(f"{wanted} is taken by another container of job {job_id}; leave it out for a free one")
        if slot is None:
            raise UserError(
                f"all {len(free)} container addresses of job {job_id} on this node are taken; "
                f"ask for more: --network=ib,endpoints={2 * len(free)}"
            )
        return plan.own[slot]


def _range(plan: Plan) -> str:
    return f"they are {plan.own[1].ipv4} to {plan.own[-1].ipv4}"


def give_back(job_id: int, address: IPv4Address, site: Site) -> None:
    """Free a container address; one that is no container's is let be."""
    entry = journal.read(job_id)
    if entry is None:
        return
    for endpoint in lifecycle.plan_of(entry, site, with_peers=False).own[1:]:
        if endpoint.ipv4 == address:
            slots.release(job_id, endpoint.slot)


def make(job_id: int, slot: int, name: str, namespace: int, site: Site) -> Endpoint:
    """The interface for a taken slot in ``namespace``, down, for somebody else to configure as its endpoint.

    Raises UserError, NodeError, OSError; nothing is left then.
    """
    with _job(job_id, site) as plan:
        attachment.make(plan, plan.own[slot], name, namespace)
        return plan.own[slot]


def attach(job_id: int, target: str, wanted: IPv4Address | None, site: Site) -> tuple[str, Endpoint, Plan]:
    """Give the namespace that a file stands for an interface in the job's network.

    Returns the interface's name, its endpoint and the plan. Raises UserError, NodeError; nothing is left then.
    """
    plan_here(job_id, site)
    with _foreign(job_id, target) as namespace:
        identity = str(netns.identity(namespace)[1])
        endpoint = take(job_id, wanted, f"namespace {identity}", site)
        name = names.handover(identity)
        try:
            with _job(job_id, site, with_peers=True) as plan:
                attachment.make(plan, endpoint, name, namespace)
                try:
                    return attachment.bring_up(plan, endpoint, name, namespace), endpoint, plan
                except BaseException:
                    attachment.remove(name, namespace)
                    raise
        except BaseException as error:
            slots.release(job_id, endpoint.slot)
            if isinstance(error, OSError):
                raise NodeError(f"the kernel refused an interface there: {error.strerror}") from None
            raise


def detach(job_id: int, target: str, site: Site) -> list[str]:
    """Take what was attached by hand out of that namespace; returns the interfaces' names.

    Raises UserError when nothing was, also for an interface that Docker gave its container.
    """
    plan_here(job_id, site)
    with _foreign(job_id, target) as namespace:
        owner = f"namespace {netns.identity(namespace)[1]}"
        own = [slot for slot, who in slots.taken(job_id).items() if who == owner]
        if not own:
            raise UserError(f"nothing of job {job_id} is attached there")
        found = [link.name for link in attachment.of_job(job_id, namespace)]
        for name in found:
            attachment.remove(name, namespace)
        for slot in own:
            slots.release(job_id, slot)
        return found


@contextlib.contextmanager
def _foreign(job_id: int, target: str) -> Iterator[int]:
    """The namespace of a container: neither the node's own nor the job's."""
    with contextlib.ExitStack() as stack:
        try:
            namespace = stack.enter_context(netns.opened(target))
        except OSError as error:
            raise UserError(f"{target}: {error.strerror}") from None
        if not netns.is_network(namespace):
            raise UserError(f"{target} is not a network namespace")
        with netns.own() as own, netns.opened(names.netns_path(job_id)) as job:
            if netns.identity(namespace) == netns.identity(own):
                raise UserError(f"{target} is in the node's own network, which gets no interface of a job")
            if netns.identity(namespace) == netns.identity(job):
                raise UserError(f"{target} is in the network of job {job_id} already, as its tasks are")
        yield namespace


def describe(endpoint: Endpoint, plan: Plan) -> str:
    """``10.128.0.9/27 fd68:.../64, n2-1``."""
    address = IPv4Interface((endpoint.ipv4, plan.lease.ipv4.prefixlen))
    return f"{address} {endpoint.ipv6}/{plan.lease.ipv6.prefixlen}, known as {host_name(endpoint)}"
