# SPDX-License-Identifier: Apache-2.0
"""What dead jobs have left: networks on a node, leases on a controller; and how full the pool is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping

from hpcnet import lifecycle, reap
from hpcnet.config import Site
from hpcnet.doctor.model import Finding, Host, fail, ok, raised, warn
from hpcnet.errors import SiteError
from hpcnet.leasestore import peek
from hpcnet.reap import Report

_NEARLY_FULL = 0.9


def check_remains(host: Host) -> Iterable[Finding]:
    """What "hpcnet cleanup" would do here; nothing is changed."""
    terms = reap.Terms(lifecycle.boot_id(), time.time())
    return judge_remains(reap.run(host.site, terms, dry_run=True))


def judge_remains(report: Report) -> list[Finding]:
    """One finding for each network that should not be here, or that nobody can tell of."""
    found = []
    for network in report.networks:
        job, verdict = network.left.job_id, network.verdict
        if network.done == "found":
            what = f"job {job} has left {', '.join(network.left.what)}: {verdict.reason}"
            found.append(warn(what, f"hpcnet cleanup --job {job}; and see why its Epilog did not"))
        elif verdict.kind == reap.UNKNOWN:
            found.append(
                warn(f"nobody can tell whether job {job} lives: {verdict.reason}", "hpcnet cleanup --dry-run")
            )
        elif network.left.foreign:
            what = f"namespace of job {job}'s name is not hpcnet's: {verdict.reason}"
            found.append(fail(what, f"rename or remove it: job {job} would fail its Prolog on this node"))
        elif verdict.kind == reap.FOREIGN:
            found.append(warn(f"namespace of job {job}'s name: {verdict.reason}", "find out who made it"))
    for vni, peers in report.entries.items():
        what = f"the packet filter lets in VNI {vni} from {len(peers)} peers, and no network here has it"
        found.append(warn(what, "hpcnet cleanup"))
    found += [raised(SiteError(why)) for why in (report.filter_problem, report.docker_problem) if why]
    live = sum(network.verdict.kind == reap.LIVE for network in report.networks)
    young = sum(network.verdict.kind == reap.YOUNG for network in report.networks)
    return found or [ok(f"nothing of a dead job; {live} of live ones, {young} too young to tell")]


def check_leases(host: Host) -> Iterable[Finding]:
    """The lease store, read without changing it."""
    store = host.site.pool.store
    if not os.path.exists(store):
        return [ok(f"{store} is made with the first job")]
    try:
        return judge_leases(peek(store)[1], host.site)
    except SiteError as error:
        remedy = "keep a copy for a report; the next job makes it anew from the job records"
        return [fail(str(error), remedy)]


def judge_leases(states: Mapping[str, int], site: Site) -> list[Finding]:
    """``states``: how many leases are live, ending, quarantined."""
    held, size = sum(states.values()), site.pool.vni[1] - site.pool.vni[0] + 1
    text = ", ".join(f"{count} {state}" for state, count in states.items() if count) or "none held"
    if states.get("quarantined"):
        remedy = "let those nodes boot, or: hpcnet cleanup --nodes LIST (hpcnet's log names them)"
        return [warn(f"leases wait for nodes that were down or drained: {text}", remedy)]
    if "vxlan" in site.offer.modes and held > _NEARLY_FULL * size:
        return [
            warn(f"the pool is nearly full: {text}, of {size}", "enlarge [pool] vni, ipv4 and ipv6; see Licenses")
        ]
    return [ok(f"leases: {text}; the pool has {size} networks")]
