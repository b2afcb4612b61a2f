# SPDX-License-Identifier: Apache-2.0
"""``srun --mpi=pmix`` in a job's network: Open MPI over three nodes, and what its relays leave: nothing."""

from __future__ import annotations

import re
import time
from functools import partial

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually

pytestmark = pytest.mark.cluster

_LISTENERS = "ss -Hltn src 127.0.0.1"
_SERVER = 'for uri in $(env | sed -n "s/^PMIX_SERVER_URI[0-9]*=//p"); do echo "port ${uri##*:}"; done'

# rank 0 sends 4 MiB to rank 1 and has them back; then all ranks add 4 MiB
_PROGRAM = r"""
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum { COUNT = 1 << 20 };
static int in[COUNT], out[COUNT];
int main(int argc, char **argv)
{
    int rank, size, i, length;
    char name[MPI_MAX_PROCESSOR_NAME];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(name, &length);
    for (i = 0; i < COUNT; i++) in[i] = rank;
    if (rank == 0) {
        MPI_Send(in, COUNT, MPI_INT, 1, 0, MPI_COMM_WORLD);
        MPI_Recv(out, COUNT, MPI_INT, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (memcmp(in, out, sizeof in)) MPI_Abort(MPI_COMM_WORLD, 1);
    } else if (rank == 1) {
        MPI_Recv(out, COUNT, MPI_INT, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Send(out, COUNT, MPI_INT, 0, 0, MPI_COMM_WORLD);
    }
    MPI_Allreduce(in, out, COUNT, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    for (i = 0; i < COUNT; i++) if (out[i] != size * (size - 1) / 2) MPI_Abort(MPI_COMM_WORLD, 1);
    printf("rank %d of %d on %s sum %d\n", rank, size, name, out[0]);
    MPI_Finalize();
    return rank == 1 && argc > 1 ? atoi(argv[1]) : 0;
}
"""
_RANKS = [f"rank {rank} of 3 on n{rank + 1} sum 3" for rank in range(3)]


def build(cluster: Cluster, user: str = "alice") -> None:
    """Put the program ``pingpong`` into the user's home."""
    (cluster.lab.layout.home(user) / "pingpong.c").write_text(_PROGRAM)
    cluster.run("sh", "-c", "cd; mpicc.openmpi -O2 -o pingpong pingpong.c", user=user)


def relays(cluster: Cluster, node: str = "n1") -> list[int]:
    """Process ids of the node's relays."""
    return [int(pid) for pid in cluster.root(node, "pgrep", "-x", "hpcnet-relay", check=False).split()]


def nothing_left(cluster: Cluster, node: str) -> bool:
    """Whether the node has no relay, not even a zombie, and neither a relay nor a PMIx server listens."""
    left = cluster.root(node, "ps", "-eo", "comm=") + cluster.root(node, "sh", "-c", _LISTENERS)
    return "hpcnet-relay" not in left and "127.0.0.1:" not in left


def results(text: str) -> list[str]:
    """What the ranks say of themselves, sorted."""
    return sorted(line for line in text.splitlines() if line.startswith("rank "))


def running_step(cluster: Cluster, *options: str, user: str = "alice") -> int:
    """A job on three nodes whose step under mpi/pmix runs; returns the job id."""
    script = f"srun --mpi=pmix --kill-on-bad-exit sh -c '{_SERVER}; echo started; exec sleep 300'"
    job = cluster.sbatch(script, "-N3", *options, user=user)
    eventually("three tasks run", lambda: cluster.output(job, user=user).count("started") == 3)
    return job


def assert_nothing_is_left(cluster: Cluster) -> None:
    """On any node; slurmstepd with the server may end a moment later than its job."""
    for node in NODES:
        eventually(f"nothing is left on {node}", partial(nothing_left, cluster, node))


def test_the_fence_is_the_one_that_waits_for_all(cluster: Cluster) -> None:
    """Not over the user's own choice, and not where tasks do not join."""
    ask = "echo $SLURM_PMIX_FENCE"
    for network, own, wanted in (("ib", "", "ring"), ("ib", "tree", "tree"), ("ib,join=none", "", "")):
        given = ("env", f"SLURM_PMIX_FENCE={own}") if own else ("env",)
        done = cluster.run(*given, "srun", "-N1", "--mpi=pmix", f"--network={network}", "sh", "-c", ask)
        assert done.stdout.strip() == wanted


def test_the_relay_has_no_privilege_and_two_descriptors(cluster: Cluster) -> None:
    running_step(cluster, "--network=ib")
    [relay] = relays(cluster)
    status = cluster.root("n1", "cat", f"/proc/{relay}/status")
    for line in (r"Uid:(\t20001){4}", r"Gid:(\t20001){4}", r"Groups:\s*", r"CapPrm:\t0+", r"NoNewPrivs:\t1"):
        assert re.search(f"^{line}$", status, re.MULTILINE), status
    assert len(cluster.root("n1", "ls", f"/proc/{relay}/fd").split()) == 2
    # not even its own user looks into it, and a signal of scancel's does not end it
    assert cluster.run("ls", f"/proc/{relay}/fd", on="n1", check=False).returncode != 0
    cluster.run("kill", "-TERM", str(relay), on="n1")
    time.sleep(0.2)
    assert relays(cluster) == [relay]


def test_it_listens_on_the_servers_port_in_the_jobs_network_alone(cluster: Cluster) -> None:
    job = running_step(cluster, "--network=ib")
    ports = set(re.findall(r"^port (\d+)$", cluster.output(job), re.MULTILINE))
    inside = cluster.root("n1", "ip", "netns", "exec", f"hpcnet-{job}", "sh", "-c", _LISTENERS)
    [port] = re.findall(r"127\.0\.0\.1:(\d+) ", inside)
    assert port in ports
    assert f"127.0.0.1:{port} " in cluster.root("n1", "sh", "-c", _LISTENERS)
    attempt = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo in || echo out"
    own = cluster.run("srun", "--overlap", f"--jobid={job}", "-w", "n1", "-N1", "bash", "-c", attempt)
    other = cluster.run("srun", "-w", "n1", "-N1", "--network=ib", "bash", "-c", attempt, user="bob")
    assert (own.stdout, other.stdout) == ("in\n", "out\n")


def test_another_port_is_taken_when_a_program_of_the_job_has_it(cluster: Cluster) -> None:
    build(cluster)
    before = cluster.root("n1", "cat", "/proc/sys/net/ipv4/ip_local_port_range").split()
    taken = "import socket, time\nkept = [socket.create_server(('127.0.0.1', p)) for p in range(45000, 45200)]\n"
    taken += "print('taken', flush=True)\ntime.sleep(60)"
    script = f'srun --overlap -N1 -n1 -w n1 python3 -c "{taken}" &\n'
    script += "until grep -q taken ~/$SLURM_JOB_ID_*.out; do sleep 0.1; done\n".replace(
        "$SLURM_JOB_ID_", "${SLURM_JOB_ID}_"
    )
    script += (
        f"srun --overlap -N1 -n1 -w n1 --mpi=pmix sh -c '{_SERVER}'\nsrun --overlap --mpi=pmix ~/pingpong\nkill %1"
    )
    try:
        cluster.root("n1", "sh", "-c", 'echo "45000 45199" >/proc/sys/net/ipv4/ip_local_port_range')
        job = cluster.sbatch(script, "--network=ib", "-N3")
        cluster.finished(job)
    finally:
        cluster.root("n1", "sh", "-c", f'echo "{" ".join(before)}" >/proc/sys/net/ipv4/ip_local_port_range')
    ports = re.findall(r"^port (\d+)$", cluster.output(job), re.MULTILINE)
    assert ports and not any(45000 <= int(port) < 45200 for port in ports)
    assert results(cluster.output(job)) == _RANKS


def test_the_exit_code_of_a_failing_task_is_passed_on(cluster: Cluster) -> None:
    build(cluster)
    done = cluster.run("sh", "-c", "cd; exec srun -N3 --network=ib --mpi=pmix ./pingpong 37", check=False)
    assert done.returncode == 37, done.stderr
    assert_nothing_is_left(cluster)


def test_steps_at_once_in_jobs_of_two_users_at_once(cluster: Cluster) -> None:
    script = "for step in 1 2 3; do srun --overlap --mpi=pmix ~/pingpong & done; wait"
    jobs = {}
    for user in ("alice", "bob"):
        build(cluster, user)
        jobs[user] = cluster.sbatch(script, "--network=ib", "-N3", user=user)
    for user, job in jobs.items():
        assert cluster.finished(job, 120) == "COMPLETED", cluster.output(job, user=user)
        assert results(cluster.output(job, user=user)) == sorted(3 * _RANKS)
    assert_nothing_is_left(cluster)


@pytest.mark.parametrize("end", ["scancel", "task", "slurmstepd"])
def test_nothing_is_left_when_a_step_ends_in_the_middle(cluster: Cluster, end: str) -> None:
    job = running_step(cluster, "--network=ib")
    [relay] = relays(cluster)
    if end == "scancel":
        cluster.run("scancel", str(job))
    elif end == "task":
        cluster.root("n1", "pkill", "-KILL", "-x", "sleep", "-U", "20001")
    else:
        stepd = cluster.root("n1", "ps", "-o", "ppid=", "-p", str(relay)).strip()
        cluster.root("n1", "kill", "-KILL", stepd)
        eventually("the relay of a killed slurmstepd ends", lambda: not relays(cluster))
        cluster.run("scancel", str(job))
        cluster.root("n1", "pkill", "-KILL", "-x", "sleep", "-U", "20001")  # its task, which nobody else ends
    cluster.finished(job)
    assert_nothing_is_left(cluster)


@pytest.mark.parametrize(
    "options",
    [
        ("--mpi=none", "--network=ib"),
        ("--mpi=pmi2", "--network=ib"),
        ("--mpi=pmix", "--network=ib,join=none"),
        ("--mpi=pmix",),
    ],
)
def test_a_step_that_needs_no_relay_has_none(cluster: Cluster, options: tuple[str, ...]) -> None:
    mpi, *network = options
    job = cluster.sbatch(f"srun {mpi} sh -c 'echo started; sleep 60'", "-N3", *network)
    eventually("its tasks run", lambda: cluster.output(job).count("started") == 3)
    assert [relays(cluster, node) for node in NODES] == [[], [], []]


def test_without_a_network_open_mpi_runs_as_ever(cluster: Cluster) -> None:
    build(cluster)
    assert results(cluster.run("sh", "-c", "cd; srun -N3 --mpi=pmix ./pingpong").stdout) == _RANKS
