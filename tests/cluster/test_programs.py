# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, as they run them: launchers in the batch script, Slurm's commands.

Each runs over three nodes, by names and not by addresses. The bytes must go by the job's interface.
"""

from __future__ import annotations

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually

pytestmark = pytest.mark.cluster

PINGPONG = r"""
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

enum { BYTES = 1 << 20, ROUNDS = 20 };
static char block[BYTES];

int main(int argc, char **argv)
{
	int rank, size, sum, round;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	for (round = 0; round < ROUNDS && rank < 2; round++) {
		if (rank == round % 2)
			MPI_Send(block, BYTES, MPI_CHAR, 1 - rank, 0, MPI_COMM_WORLD);
		else
			MPI_Recv(block, BYTES, MPI_CHAR, 1 - rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	}
	printf("rank %d of %d sum %d\n", rank, size, sum);
	fflush(stdout);
#ifdef OPEN_MPI
	return MPI_Finalize();
#endif
	MPI_Barrier(MPI_COMM_WORLD);
	sleep(1);
	_exit(0);	/* Debian 12's MPICH hangs in MPI_Finalize over three nodes, also without hpcnet */
}
"""
SENT = 10 << 20
"""Bytes that the ping-pong sends each way."""

LAUNCHERS = {"mpich": "mpiexec.hydra -iface eth0 -n 3 -ppn 1", "openmpi": "mpirun -n 3"}

COUNT = """
count() { srun --overlap -N3 -l cat /sys/class/net/$1/statistics/tx_bytes | sort -n; }
"""


def compiled(cluster: Cluster, compiler: str) -> None:
    """Compile the ping-pong into alice's home directory."""
    cluster.run("sh", "-c", "cd; rm -f pingpong.c; cat > pingpong.c", stdin=PINGPONG)
    cluster.run("sh", "-c", f"cd; {compiler} -O2 -o pingpong pingpong.c")


def sent(cluster: Cluster, node: str, device: str) -> int:
    """Bytes that a device of the node's own has sent."""
    return int(cluster.root(node, "cat", f"/sys/class/net/{device}/statistics/tx_bytes"))


def counted(lines: list[str]) -> list[int]:
    """Bytes by node, of lines "task: bytes"."""
    return [int(line.partition(": ")[2]) for line in sorted(lines)]


def nothing_runs(cluster: Cluster, command: str) -> None:
    """No node has a process with these words in its command line."""
    for node in NODES:
        assert command not in cluster.root(node, "ps", "-eo", "args=")


@pytest.mark.parametrize("mpi", LAUNCHERS)
def test_a_launcher_in_a_batch_script(cluster: Cluster, mpi: str) -> None:
    """It is in the node's network, and what it starts in the job's, on its own node too."""
    compiled(cluster, f"mpicc.{mpi}")
    host = {node: sent(cluster, node, "eth0") for node in NODES}
    script = f"{COUNT}\n{LAUNCHERS[mpi]} $HOME/pingpong\necho == hpc0; count hpc0\necho == hpcout; count hpcout\n"
    job = cluster.sbatch(script, "--network=ib", "-N3", "--ntasks-per-node=1")
    assert cluster.finished(job, 120) == "COMPLETED", cluster.output(job)
    said, _, rest = cluster.output(job).partition("== hpc0\n")
    assert sorted(line for line in said.splitlines() if line.startswith("rank")) == [
        f"rank {rank} of 3 sum 3" for rank in range(3)
    ]
    fabric, _, outward = rest.partition("== hpcout\n")
    own, link = counted(fabric.splitlines()), counted(outward.splitlines())
    assert sorted(count > SENT for count in own) == [False, True, True], own
    assert max(link) < SENT / 10, link
    for node in NODES:
        assert sent(cluster, node, "eth0") - host[node] < SENT / 10


@pytest.mark.parametrize("mpi", LAUNCHERS)
def test_nothing_is_left_of_a_launcher_that_was_cancelled(cluster: Cluster, mpi: str) -> None:
    script = f"{LAUNCHERS[mpi]} sh -c 'echo started; exec sleep 299'"
    job = cluster.sbatch(script, "--network=ib", "-N3", "--ntasks-per-node=1")
    eventually("all three run", lambda: cluster.output(job).count("started") == 3, 60)
    cluster.run("scancel", str(job))
    assert cluster.finished(job) == "CANCELLED"
    nothing_runs(cluster, "sleep 299")


def test_mpirun_is_told_to_start_its_own_nodes_ranks_by_srun(cluster: Cluster) -> None:
    """In the batch script of a job whose tasks join; never over a value of the user's."""
    ompi, prte = (f"{prefix}_MCA_ras_base_launch_orted_on_hn" for prefix in ("OMPI", "PRTE"))
    expected = {
        ("--network=ib",): f"{ompi}=1 {prte}=1",
        ("--network=ib", f"--export=ALL,{ompi}=0"): f"{ompi}=0 {prte}=1",
        ("--network=ib,join=none",): "",
        (): "",
    }
    script = "echo $(env | grep ^...._MCA_ | sort)"
    for job, line in [(cluster.sbatch(script, *options), line) for options, line in expected.items()]:
        assert cluster.finished(job) == "COMPLETED"
        assert cluster.output(job).strip() == line


@pytest.mark.parametrize("egress", ["host", "none"])
def test_srun_and_salloc_in_a_task_fail_at_once_and_say_why(cluster: Cluster, egress: str) -> None:
    """Slurm cannot connect back to them. Not so in the batch script and the shell of salloc."""
    tried = "for c in 'srun true' 'salloc true' 'srun --jobid=1 --overlap true'; do timeout 20 $c; echo $?; done"
    done = cluster.run("salloc", f"--network=ib,egress={egress}", "srun", "sh", "-c", tried)
    assert done.stdout.split() == ["1"] * 3
    said = [line for line in done.stderr.splitlines() if "hpcnet" in line]
    assert said == [
        f"{command}: error: hpcnet: {command} does not work in a task of a job with a network: Slurm could not "
        "connect back to it; call it in the batch script, or outside of the job"
        for command in ("srun", "salloc", "srun")
    ]


def test_sbatch_in_a_task(cluster: Cluster) -> None:
    submitted = cluster.srun("--network=ib", "sbatch", "--parsable", "--output=/dev/null", "--wrap=true")
    assert cluster.finished(int(submitted[0])) == "COMPLETED"


TOLD = r"""
cat > ~/server.py <<'END'
import socket
server = socket.create_server(("", 8123))
while True: server.accept()[0].sendall(b"here")
END
cat > ~/ask.py <<'END'
import os, socket
print(socket.create_connection((os.environ["SLURM_LAUNCH_NODE_IPADDR"], 8123)).recv(9).decode())
END
python3 ~/server.py &
until ss -Hltn sport = :8123 | grep -q .; do sleep 0.1; done
srun -l sh -c 'echo $(hostname) $SLURMD_NODENAME $SLURM_JOB_NODELIST $(python3 ~/ask.py)'
kill %1; squeue -h -o %N -j $SLURM_JOB_ID
"""


def test_what_slurm_tells_a_task_are_the_nodes_names_and_addresses(cluster: Cluster) -> None:
    """A server in the batch script is in the node's network: tasks find it where Slurm says that srun is."""
    job = cluster.sbatch(TOLD, "--network=ib", "-N3", "--ntasks-per-node=1")
    assert cluster.finished(job) == "COMPLETED"
    wanted = [f"{rank}: {node} {node} n[1-3] here" for rank, node in enumerate(NODES)]
    assert sorted(cluster.output(job).splitlines()) == [*wanted, "n[1-3]"]


def test_a_step_from_another_host_is_in_the_jobs_network(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N2", "-w", "n[1-2]")
    step = ("--overlap", f"--jobid={job}", "-N1", "-n1", "-w")
    show = ("sh", "-c", "ping -c1 -W2 -q n2 > /dev/null && echo $(hostname) $HPCNET_JOB_ID")
    assert cluster.srun(*step, "n1", *show) == [f"n1 {job}"]
    assert cluster.run("srun", *step, "n1", *show, on="n3").stdout == f"n1 {job}\n"
