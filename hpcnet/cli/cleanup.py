# SPDX-License-Identifier: Apache-2.0
"""``hpcnet cleanup``: networks without a job, here or on other nodes; leases without a job where the store is."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcnet import allocation, config, leasestore, lifecycle, nodelist, reap
from hpcnet.allocation import Sweep
from hpcnet.cli.node import as_root
from hpcnet.cli.nodes import DONE, LEFT, UNKNOWN, ask, print_lines
from hpcnet.cli.table import print_json
from hpcnet.config import Site
from hpcnet.errors import HpcnetError, UserError
from hpcnet.leasestore import LeaseStore


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: nothing is left; 1: something could not be (dry run: would be) removed; 3: nobody can tell."""
    as_root("cleanup")
    site = config.load(arguments.config)
    if arguments.nodes:
        if arguments.boot:
            raise UserError("--boot is for the node itself, before its slurmd starts; leave out --nodes")
        return _over_nodes(arguments, site)
    terms = reap.Terms(lifecycle.boot_id(), time.time(), arguments.min_age, arguments.job, arguments.boot)
    report = reap.run(site, terms, arguments.dry_run)
    leases = None if arguments.boot else _leases(site, arguments)
    document = {"node": os.uname().nodename, **report.document(), "leases": leases.document() if leases else None}
    if arguments.json:
        print_json(document)
    else:
        for line in lines(document):
            print(line)
    return code_of(document)


def code_of(document: Mapping[str, Any]) -> int:
    """What the report of one host comes to."""
    networks, leases = document["networks"], document["leases"] or {}
    found = document["filter"] or leases.get("leases")
    undone = any(network["done"] in ("failed", "found") for network in networks)
    if undone or document["filter_problem"] or document["docker_problem"] or (document["dry_run"] and found):
        return LEFT
    unknown = any(network["kind"] == reap.UNKNOWN for network in networks)
    return UNKNOWN if unknown or leases.get("silence") else DONE


def lines(document: Mapping[str, Any]) -> list[str]:
    """The report of one host for a person; live jobs' networks only in a dry run."""
    dry_run, found = document["dry_run"], []
    verbs = {"found": "would be removed", "failed": "CANNOT BE REMOVED"}
    for network in document["networks"]:
        if network["kind"] == reap.LIVE and not dry_run:
            continue
        identity = f", lease {network['serial']} of cluster {network['cluster']}" if network["serial"] else ""
        done = verbs.get(network["done"], network["done"])
        found.append(f"job {network['job_id']}{identity}: {done}: {network['reason']}")
        found += [f"  {line}" for line in (*network["what"], *network["complaints"])]
    for entry in document["filter"]:
        done = "would be removed" if dry_run else "removed"
        peers = ", ".join(entry["peers"])
        found.append(f"packet filter: VNI {entry['vni']} from {peers} {done}: no network here has it")
    if document["filter_problem"]:
        found.append(f"packet filter: {document['filter_problem']}")
    if document["docker_problem"]:
        found.append(f"Docker: {document['docker_problem']}")
    for lease in (document["leases"] or {}).get("leases", ()):
        found.append(f"lease {lease['serial']} of job {lease['job']}: {lease['verdict']}")
    if (document["leases"] or {}).get("silence"):
        found.append(f"leases are kept: {document['leases']['silence']}")
    return found or ["nothing of a dead job is here"]


# On the controller.


@dataclass
class Leases:
    """What became of the leases without a job."""

    found: list[dict[str, Any]] = field(default_factory=list)
    silence: str = ""
    """Why slurmctld gave no answer."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"leases": self.found, "silence": self.silence or None}


def _leases(site: Site, arguments: argparse.Namespace) -> Leases | None:
    """Only where the store is: the controllers."""
    if not os.path.exists(site.pool.store):
        return None
    leases = Leases()
    with _store(site, arguments.dry_run) as store:
        try:
            over = _of_job(allocation.find_over(store, site.pool.cooldown), arguments.job)
        except HpcnetError as error:
            leases.silence = str(error)
            return leases
        would = "would be " if arguments.dry_run else ""
        for seen in over.lost:
            verdict = f"{would}ended: its EpilogSlurmctld never came"
            leases.found.append({"serial": seen.serial, "job": seen.job, "verdict": verdict})
        for seen, nodes in over.over:
            if nodes and seen.state == "quarantined":
                continue  # it has waited for them before
            waits = f"{would}put in quarantine until {nodelist.fold(nodes)} reboots or is cleaned" if nodes else ""
            verdict = waits or f"{would}freed"
            leases.found.append({"serial": seen.serial, "job": seen.job, "verdict": verdict})
        if not arguments.dry_run:
            allocation.carry_out(store, over, lambda line: None)
    return leases


def _store(site: Site, dry_run: bool) -> LeaseStore:
    if dry_run:
        leasestore.peek(site.pool.store)  # one that is damaged would be made anew
    return LeaseStore(site.pool.store, allocation.from_job_records)


def _of_job(found: Sweep, job: int) -> Sweep:
    lost = [seen for seen in found.lost if job in (0, seen.job)]
    return Sweep(lost, [(seen, nodes) for seen, nodes in found.over if job in (0, seen.job)])


# Over nodes.


def _over_nodes(arguments: argparse.Namespace, site: Site) -> int:
    nodes = nodelist.expand(arguments.nodes)
    keep_store = arguments.dry_run or not os.path.exists(site.pool.store)
    waiting = {} if keep_store else _quarantined(site, arguments.job)
    words = ["cleanup", "--json", "--min-age", f"{arguments.min_age:.0f}", "--config", arguments.config]
    words += ["--dry-run"] if arguments.dry_run else []
    words += ["--job", str(arguments.job)] if arguments.job else []
    code, answers = ask(nodes, words, arguments.rsh, code_of, _summary)
    freed = _tell_store(site, waiting, answers)
    if arguments.json:
        print_json({"nodes": answers, "freed": freed})
        return code
    print_lines(nodes, answers, lines)
    if freed:
        print(f"leases freed from quarantine: {freed}")
    return code


def _summary(document: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for network in document["networks"]:
        done = "live" if network["kind"] == reap.LIVE else network["done"]
        counts[done] = counts.get(done, 0) + 1
    said = [f"{count} {done}" for done, count in counts.items()]
    said += [why for why in (document["filter_problem"], document["docker_problem"]) if why]
    return ", ".join(said) or "nothing"


def _quarantined(site: Site, job: int) -> dict[str, set[int]]:
    """By node: serials of leases in quarantine that wait for it, before the node is looked at."""
    found: dict[str, set[int]] = {}
    with _store(site, dry_run=False) as store:
        job_of = {entry.lease.serial: entry.job for entry in store.entries()}
        for serial, nodes in store.quarantined().items():
            for node in nodes if job in (0, job_of.get(serial)) else ():
                found.setdefault(node, set()).add(serial)
    return found


def _tell_store(site: Site, waiting: Mapping[str, set[int]], answers: Mapping[str, Mapping[str, Any]]) -> int:
    """Frees leases that wait for nodes that have nothing of them any more; returns how many."""
    if not waiting:
        return 0
    with _store(site, dry_run=False) as store:
        job_of = {entry.lease.serial: entry.job for entry in store.entries()}
        freed = 0
        for node, serials in waiting.items():
            answer = answers.get(node, {"error": "not asked"})
            if "error" in answer or answer["filter_problem"] or answer["docker_problem"]:
                continue
            here = [network for network in answer["networks"] if network["done"] != "removed"]
            gone = {serial for serial in serials if not any(_has(network, serial, job_of) for network in here)}
            freed += store.cleaned(node, gone)
    return freed


def _has(network: Mapping[str, Any], serial: int, job_of: Mapping[int, int]) -> bool:
    """Whether something kept on a node may be of this lease."""
    return network["serial"] == serial or (not network["serial"] and network["job_id"] == job_of.get(serial))
