# SPDX-License-Identifier: Apache-2.0
"""How the cost of a network grows with the job's size, on one node; and that of leases with their number.

    python -m tests.bench.scale [--sizes 2,10,100,1000,10000] [--runs 5] [--leases 100000] [--live 5000] [--json]

Prolog and Epilog of one node, as Slurm starts them; the other nodes need not exist. Their --profile tells the
phases; memory is the process's peak. The largest size is measured again with hpcnet's defaults: the nodes'
addresses from a hosts file of that many lines, and a way out.

The same leases are made and released in an empty store and in one with --live others, both in memory; and some of
them in a file under DISK, which SQLite brings to the disk each time, as on a controller.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from ipaddress import IPv4Network
from typing import Any

from hpcnet import lease as leases
from hpcnet import leasestore
from hpcnet.config import AnyPool, Pool, Site
from hpcnet.model import Request
from tests.bench import measure
from tests.kernel.hosts import Fabric, Host, job_environment, lease_of

_PHASE = re.compile(r"([a-z]+) ([0-9.]+) \((-?[0-9.]+)\)")

# Runs on the host: a command line, once; its wall clock milliseconds, peak memory and what it says.
_ONE = """
import json, os, sys, tempfile, time
said = tempfile.TemporaryFile("w+")
begin = time.perf_counter()
to = [(os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=to)
_, status, used = os.wait4(process, 0)
wall = time.perf_counter() - begin
said.seek(0)
processor = used.ru_utime + used.ru_stime
print(json.dumps([status, 1000 * wall, 1000 * processor, used.ru_maxrss / 1024, said.read()]))
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How costs grow with the size of jobs and the number of leases.")
    parser.add_argument("--sizes", default="2,10,100,1000,10000", help="nodes of the job (default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each size (default 5)")
    parser.add_argument("--leases", type=int, default=100_000, help="made and released (default 100000)")
    parser.add_argument("--live", type=int, default=5000, help="jobs that hold one meanwhile (default 5000)")
    parser.add_argument("--on-disk", type=int, default=300, help="leases on disk (default 300)")
    parser.add_argument("--disk", metavar="DIRECTORY", default="/var/tmp", help="on a disk (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=200, help="networks on one node at once (default 200)")
    parser.add_argument("--json", action="store_true", help="all figures, on stdout")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    fabric = Fabric(1)
    try:
        [host] = fabric.hosts
        document = {
            "what": "growth with the job's size on one node, and with the number of leases",
            "nodes": of_sizes(host, sizes, arguments.runs),
            "jobs": of_jobs(host, arguments.jobs),
            "leases": of_leases(arguments),
            "machine": measure.machine(),
        }
    finally:
        fabric.close()
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    return 0


def of_sizes(host: Host, sizes: list[int], runs: int) -> dict[str, Any]:
    """Prolog and Epilog of one node of jobs of these sizes, in turns."""
    host.configure('[fabric]\npeers = "number"\npeers_base = "172.31.0.0"')
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    for number in range(runs):
        for size in sizes if number % 2 else reversed(sizes):
            found[size].append(_both(host, size))
    document = {str(size): _size(each) for size, each in found.items()}
    largest = max(sizes)
    lines = "".join(f"172.31.{number >> 8}.{number & 255} n{number}-ib\n" for number in range(1, largest + 1))
    host.write("/etc/bench-hosts", lines)
    host.configure('[fabric]\npeers = "hosts"\npeers_file = "/etc/bench-hosts"\npeers_name = "{node}-ib"')
    defaults = [_both(host, largest, egress="host") for _ in range(runs)]
    return {"sizes": document, "growth": _growth(found), "defaults": {str(largest): _size(defaults)}}


def _both(host: Host, size: int, egress: str = "none") -> dict[str, Any]:
    """Prolog and Epilog of a job of that many nodes."""
    lease = lease_of(ipv4=IPv4Network((0x0A800000, 32 - leases.host_bits(size, 0))), egress=egress)
    environment = job_environment(lease, f"n[1-{size}]")
    return {hook: _one(host, hook, environment) for hook in ("prolog", "epilog")}


def _one(host: Host, hook: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-Ic", _ONE, sys.executable, "-I", "-m", "hpcnet", hook, "--profile"]
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SLURMD_NODENAME": host.name}
    status, wall, processor, megabytes, said = json.loads(host.run(*command, env={**path, **environment}).stdout)
    if status or "refused" in said:
        raise SystemExit(f"bench: {hook}: {said}")
    phases: dict[str, float] = {}
    for name, _, processor_ms in _PHASE.findall(said.splitlines()[-1].partition("(of the processor): ")[2]):
        phases[name] = phases.get(name, 0.0) + float(processor_ms)
    return {"wall": wall, "processor": processor, "megabytes": megabytes, "phases": phases}


def _size(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of a size's runs."""
    document: dict[str, Any] = {}
    for hook in ("prolog", "epilog"):
        each = [run[hook] for run in runs]
        document[hook] = {
            key: measure.spread([one[key] for one in each]) for key in ("wall", "processor", "megabytes")
        }
        names = each[0]["phases"]
        document[hook]["phases"] = {
            name: round(statistics.median(one["phases"][name] for one in each), 2)
            for name in names
            if name != "all"
        }
    return document


def _growth(found: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the largest job costs beyond the smallest, and how that grew from the size before: 1 is linear."""
    sizes = sorted(found)
    base, large = sizes[0], sizes[-1]
    document: dict[str, Any] = {"from": base, "to": large}
    for hook in ("prolog", "epilog"):
        for what in ("wall", "processor", "megabytes"):
            # the least: of all that was measured on a busy machine nearest to what the work itself takes
            least = {size: min(run[hook][what] for run in found[size]) for size in sizes}
            more = {size: least[size] - least[base] for size in sizes[1:]}
            document[f"{hook} {what} more"] = round(more[large], 1)
            if len(sizes) > 2 and what != "megabytes" and min(more[sizes[-2]], more[large]) > 0:
                growth = math.log(more[large] / more[sizes[-2]]) / math.log(large / sizes[-2])
                document[f"{hook} {what} exponent"] = round(growth, 2)
    return document


def of_jobs(host: Host, number: int) -> dict[str, Any]:
    """That many jobs on one node at once: the cost of the first and of the last ones."""
    if not number:
        return {}
    host.configure('[fabric]\npeers = "number"\npeers_base = "172.31.0.0"')
    jobs = [job_environment(lease_of(index), "n[1-4]", job_id=1000 + index) for index in range(number)]
    costs = {hook: [_one(host, hook, job) for job in jobs] for hook in ("prolog", "epilog")}
    left = host.jobs()
    if left:
        raise SystemExit(f"bench: left on the node: {left}")
    some = max(1, number // 10)
    document: dict[str, Any] = {"jobs": number}
    for hook, each in costs.items():
        first, last = ([one["processor"] for one in part] for part in (each[:some], each[-some:]))
        walls = [one["wall"] for one in each]
        document[hook] = {
            "wall": measure.spread(walls),
            "first": measure.spread(first),
            "last": measure.spread(last),
        }
        document[f"{hook} last / first"] = round(statistics.median(last) / statistics.median(first), 2)
    return document


def of_leases(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same leases made and released in stores with and without others, in memory; and some on a disk."""
    document: dict[str, Any] = {"made": arguments.leases, "live": arguments.live}
    rows = {}
    for live in (0, arguments.live):
        rows[live] = _store("/dev/shm", arguments.leases, live)
        document[f"{live} live"] = rows[live][1]
    both = (sorted(rows[live][0])[len(rows[live][0]) // 2] for live in (arguments.live, 0))
    document[f"{arguments.live} live / none"] = round(next(both) / next(both), 2)
    document["on disk"] = {
        f"{live} live": _store(arguments.disk, arguments.on_disk, live)[1] for live in (0, arguments.live)
    }
    return document


def _store(where: str, number: int, live: int) -> tuple[list[float], dict[str, Any]]:
    """Microseconds of each lease, all of them and in short."""
    first = Site().pool.vni[0]
    site = Site(pool=Pool(vni=(first, first + 65535)))
    terms = leases.terms_of(Request(), site)
    pool = leases.pool_of(terms, site)
    each = []
    with tempfile.TemporaryDirectory(prefix="hpcnet-bench-", dir="/dev/shm") as memory:
        path = os.path.join(memory, "leases.sqlite")
        with leasestore.LeaseStore(path, list, log=lambda _: None) as store:
            for job in range(1, live + 1):
                _lease_one(store, job, terms, pool)
        with tempfile.TemporaryDirectory(prefix="hpcnet-bench-", dir=where) as directory:
            path = shutil.copy(path, directory)
            begin = time.perf_counter()
            with leasestore.LeaseStore(path, list, log=lambda _: None) as store:
                opened = time.perf_counter() - begin
                for job in range(live + 1, live + 1 + number):
                    seconds, serial = _lease_one(store, job, terms, pool)
                    each.append(1e6 * (seconds + _release(store, job, serial)))
                held = len(store.entries())
    if held != live:
        raise SystemExit(f"bench: {held} leases are held, not {live}")
    some = max(1, number // 20)
    return each, {
        "made": number,
        "microseconds": measure.spread(each),
        "first": measure.spread(each[:some]),
        "last": measure.spread(each[-some:]),
        "last / first": round(statistics.median(each[-some:]) / statistics.median(each[:some]), 2),
        "open ms": round(1000 * opened, 1),
    }


def _lease_one(store: leasestore.LeaseStore, job: int, terms: leases.Terms, pool: AnyPool) -> tuple[float, int]:
    begin = time.perf_counter()
    lease, _ = store.lease(job, "", "n[1-4]", 4, terms, pool, 1_800_000_000.0)
    return time.perf_counter() - begin, lease.serial


def _release(store: leasestore.LeaseStore, job: int, serial: int) -> float:
    """Ended and freed, as EpilogSlurmctld and a sweep do it."""
    begin = time.perf_counter()
    store.end(serial, job, 1_800_000_000.0)
    store.settle([(leasestore.Due(serial, job, "n[1-4]", "ending", 1_800_000_000.0), [])])
    return time.perf_counter() - begin


def show(document: dict[str, Any]) -> None:
    """For people."""
    print("a job's network on one node")
    for size, each in document["nodes"]["sizes"].items():
        for hook in ("prolog", "epilog"):
            found = each[hook]
            phases = ", ".join(f"{name} {clock:.0f}" for name, clock in found["phases"].items() if clock >= 1)
            print(
                f"{size:>6} nodes  {hook}  {found['wall']['median']:7.1f} ms, {found['processor']['median']:.0f} "
                f"of the processor, {found['megabytes']['median']:5.1f} MiB   {phases}"
            )
    for size, each in document["nodes"]["defaults"].items():
        for hook in ("prolog", "epilog"):
            found = each[hook]
            print(f"{size:>6} nodes, with the defaults  {hook}  {found['wall']['median']:7.1f} ms")
    for name, value in document["nodes"]["growth"].items():
        print(f"  {name}: {value}")
    for name in ("jobs", "leases"):
        print(name, json.dumps(document[name]))


if __name__ == "__main__":
    sys.exit(main())
