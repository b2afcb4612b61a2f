# SPDX-License-Identifier: Apache-2.0
"""Cleanup in a real cluster: what a job without an Epilog leaves goes, and no live job notices."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, eventually

pytestmark = pytest.mark.cluster

FIRST = 6815744


def cleanup(cluster: Cluster, on: str, *options: str, code: int = 0) -> dict[str, Any]:
    """The JSON report; no network is too young."""
    command = ["hpcnet", "cleanup", "--json", "--min-age", "0", *options]
    done = cluster.lab.run(on, command, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def verdicts(report: dict[str, Any]) -> dict[int, tuple[str, str]]:
    return {network["job_id"]: (network["kind"], network["done"]) for network in report["networks"]}


def kill_steps(cluster: Cluster, node: str, job: int) -> None:
    """End the job's slurmstepds there, and wait until they are gone."""
    find = f"cd /proc; grep -la '^slurmstepd: .{job}[.]' [0-9]*/cmdline | cut -d/ -f1"
    cluster.root(node, "sh", "-c", f"kill -9 $({find})")
    eventually("the job's slurmstepds are gone", lambda: not cluster.root(node, "sh", "-c", find, check=False))


@pytest.fixture
def without_epilog(cluster: Cluster) -> Iterator[Cluster]:
    """Nodes that do not run hpcnet's Epilog."""
    cluster.lab.configure(slurm={"Epilog": "/bin/true"})
    yield cluster
    cluster.settle()
    cluster.lab.configure()


def test_what_a_job_without_an_epilog_leaves(without_epilog: Cluster) -> None:
    cluster = without_epilog
    job = cluster.sbatch("srun -N2 true", "--network=ib", "-N2", "-w", "n[1-2]")
    assert cluster.finished(job) == "COMPLETED"
    live = cluster.hold("--network=ib", "-w", "n[1-2]", "-N2")
    before = cluster.state("n1")
    planned = cleanup(cluster, "n1", "--dry-run", code=1)
    assert cluster.state("n1") == before
    assert verdicts(planned) == {job: ("dead", "found"), live: ("live", "kept")}
    for node in ("n1", "n2"):
        assert verdicts(cleanup(cluster, node)) == {job: ("dead", "removed"), live: ("live", "kept")}
        assert verdicts(cleanup(cluster, node)) == {live: ("live", "kept")}
        said = cluster.root(node, "hpcnet", "check", str(live))
        assert said == f"job {live}: ok\n"
    cluster.root("ctl", "scancel", str(live))
    cluster.finished(live)
    for node in ("n1", "n2"):
        assert verdicts(cleanup(cluster, node)) == {live: ("dead", "removed")}
    cluster.assert_pristine()


def test_a_job_that_ended_while_slurmd_was_dead(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-w", "n1", "--no-requeue")
    cluster.lab.stop_daemon("n1", "slurmd", signal.SIGKILL)
    try:
        assert verdicts(cleanup(cluster, "n1")) == {job: ("live", "kept")}
        cluster.root("ctl", "scontrol", "update", "nodename=n1", "state=down", "reason=test")
        cluster.finished(job)
        kept = cleanup(cluster, "n1")
        assert verdicts(kept) == {job: ("live", "kept")}
        assert kept["networks"][0]["reason"] == "slurmstepd runs steps of it here"
        kill_steps(cluster, "n1", job)
        assert verdicts(cleanup(cluster, "n1")) == {job: ("dead", "removed")}
        cluster.assert_pristine(("n1",))
    finally:
        bring_back(cluster, "n1")


def test_without_slurmctld_nothing_goes_and_the_message_says_why(without_epilog: Cluster) -> None:
    cluster = without_epilog
    job = cluster.sbatch("true", "--network=ib", "-w", "n1")
    cluster.finished(job)
    cluster.lab.stop_daemon("ctl", "slurmctld")
    try:
        report = cleanup(cluster, "n1", code=3)
        done = cluster.lab.run("n1", ["hpcnet", "cleanup", "--min-age", "0"], check=False)
    finally:
        cluster.lab.start_daemon("ctl", "slurmctld")
        cluster.lab.await_idle()
    assert verdicts(report) == {job: ("unknown", "kept")}
    assert done.returncode == 3
    assert f"job {job}, lease" in done.stdout and "cannot reach slurmctld, so it stays" in done.stdout
    assert verdicts(cleanup(cluster, "n1")) == {job: ("dead", "removed")}


def test_a_lease_in_quarantine_is_freed_when_its_node_was_cleaned(without_epilog: Cluster) -> None:
    cluster = without_epilog
    pool = {"vni": [FIRST, FIRST + 1], "wait": 1, "cooldown": 0}
    cluster.lab.configure(slurm={"Epilog": "/bin/true"}, hpcnet={"pool": pool, "submit": {"licence": ""}})
    lost = cluster.hold("--network=ib", "-w", "n3", "--no-requeue")
    serial = cluster.lease(lost)["serial"]
    cluster.lab.stop_daemon("n3", "slurmd", signal.SIGKILL)
    cluster.root("ctl", "scontrol", "update", "nodename=n3", "state=down", "reason=test")
    try:
        cluster.finished(lost)
        eventually("quarantine", lambda: quarantined(cluster, serial))
        kill_steps(cluster, "n3", lost)
    finally:
        bring_back(cluster, "n3")
    nodes = ("--nodes", "n3", "--rsh", "srun --quiet --nodes=1 --nodelist")
    assert cleanup(cluster, "ctl", *nodes, "--dry-run", code=1)["freed"] == 0
    assert quarantined(cluster, serial)
    answer = cleanup(cluster, "ctl", *nodes)
    assert verdicts(answer["nodes"]["n3"]) == {lost: ("dead", "removed")}
    assert answer["freed"] == 1
    assert not quarantined(cluster, serial)


@pytest.fixture
def without_epilog_slurmctld(cluster: Cluster) -> Iterator[Cluster]:
    """A controller that tells nobody when a job ends; leases need no rest."""
    cluster.lab.configure(slurm={"EpilogSlurmctld": "/bin/true"}, hpcnet={"pool": {"cooldown": 0}})
    yield cluster
    cluster.lab.configure()


def store(cluster: Cluster, sql: str) -> list[list[Any]]:
    """Rows of the lease store."""
    script = (
        "import json, sqlite3, sys\n"
        "with sqlite3.connect(sys.argv[1]) as store: print(json.dumps(list(store.execute(sys.argv[2]))))"
    )
    path = "/var/spool/slurmctld/hpcnet.sqlite"
    rows: list[list[Any]] = json.loads(cluster.root("ctl", "python3", "-c", script, path, sql))
    return rows


def leases(report: dict[str, Any]) -> dict[int, str]:
    """By job: what became of its lease."""
    return {lease["job"]: lease["verdict"] for lease in report["leases"]["leases"]}


def test_leases_whose_epilog_slurmctld_never_came(without_epilog_slurmctld: Cluster) -> None:
    cluster = without_epilog_slurmctld
    first, second = (cluster.sbatch("true", "--network=ib", "-w", "n1") for _ in range(2))
    for job in (first, second):
        assert cluster.finished(job) == "COMPLETED"
    both = f"job IN ({first}, {second})"
    store(cluster, f"UPDATE lease SET serial = serial - 100 WHERE {both}")  # too young ones are let alone
    states = f"SELECT job, state FROM lease WHERE {both} ORDER BY job"
    everything = "SELECT * FROM lease, last"
    before = store(cluster, everything)
    assert store(cluster, states) == [[first, "live"], [second, "live"]]

    ended = "ended: its EpilogSlurmctld never came"
    assert leases(cleanup(cluster, "ctl", "--dry-run", code=1)) == dict.fromkeys(
        (first, second), f"would be {ended}"
    )
    cluster.lab.stop_daemon("ctl", "slurmctld")
    try:
        silent = cleanup(cluster, "ctl", code=3)
        said = cluster.lab.run("ctl", ["hpcnet", "cleanup"], check=False).stdout
    finally:
        cluster.lab.start_daemon("ctl", "slurmctld")
        cluster.lab.await_idle()
    assert silent["leases"]["leases"] == [] and "slurm" in silent["leases"]["silence"]
    assert said.startswith("leases are kept: ")
    assert store(cluster, everything) == before

    assert leases(cleanup(cluster, "ctl", "--job", str(first))) == {first: ended}
    assert store(cluster, states) == [[first, "ending"], [second, "live"]]
    assert leases(cleanup(cluster, "ctl", "--job", str(first), "--dry-run", code=1)) == {first: "would be freed"}
    assert leases(cleanup(cluster, "ctl", "--job", str(first))) == {first: "freed"}
    assert leases(cleanup(cluster, "ctl")) == {second: ended}
    cluster.root("ctl", "scontrol", "update", "nodename=n1", "state=drain", "reason=new memory")
    try:
        waits = "put in quarantine until n1 reboots or is cleaned"
        assert leases(cleanup(cluster, "ctl", "--dry-run", code=1)) == {second: f"would be {waits}"}
        serial = store(cluster, f"SELECT serial FROM lease WHERE job = {second}")[0][0]
        said = cluster.root("ctl", "hpcnet", "cleanup")
        assert said == f"lease {serial} of job {second}: {waits}\n"
    finally:
        cluster.root("ctl", "scontrol", "update", "nodename=n1", "state=resume")
    assert leases(cleanup(cluster, "ctl")) == {}, "it has waited for n1 before"
    assert store(cluster, states) == [[second, "quarantined"]]
    over = cleanup(cluster, "ctl", "--nodes", "n1", "--rsh", "srun --quiet --nodes=1 --nodelist")
    assert over["freed"] == 1
    assert store(cluster, states) == []


def bring_back(cluster: Cluster, node: str) -> None:
    """slurmd again, and the node in service; it may be so by itself."""
    cluster.lab.start_daemon(node, "slurmd")
    cluster.root("ctl", "scontrol", "update", f"nodename={node}", "state=resume", check=False)
    cluster.lab.await_idle((node,))


def quarantined(cluster: Cluster, serial: int) -> bool:
    """Whether the lease waits for a node; a cleanup on the controller puts it there."""
    cleanup(cluster, "ctl")
    return bool(store(cluster, f"SELECT node FROM quarantine WHERE serial = {serial}"))


def test_the_controllers_log_tells_a_leases_whole_life(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-w", "n1")
    serial = cluster.lease(job)["serial"]
    cluster.settle()
    leased = rf"hpcnet prolog-slurmctld: job {job}: leased VNI .*; serial {serial}, "
    assert re.search(leased, cluster.log("ctl"))
    ending = f"hpcnet epilog-slurmctld: job {job}: lease is ending; serial {serial}, "
    eventually("its end is logged", lambda: ending in cluster.log("ctl"))


def test_cleanup_beside_jobs_that_start_and_end(cluster: Cluster) -> None:
    script = "srun -N2 ping -c1 -W5 -q $(hostname) > /dev/null && echo reached"
    jobs = [cluster.sbatch(script, "--network=ib", "-N2", "--no-requeue") for _ in range(20)]
    runs = 0
    while any(cluster.state_of(job) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING") for job in jobs):
        for node in ("n1", "n2", "n3"):
            report = cleanup(cluster, node)
            assert not [n for n in report["networks"] if n["kind"] not in ("live", "dead")]
            runs += 1
    assert [cluster.state_of(job) for job in jobs] == ["COMPLETED"] * 20
    assert [cluster.output(job) for job in jobs] == ["reached\n"] * 20
    assert runs >= 3
    assert set(cluster.node_states().values()) == {"idle"}
