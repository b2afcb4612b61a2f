# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, as they run them: launchers in the batch script, servers started by srun.

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
	MPI_Barrier(MPI_COMM_WORLD);
	sleep(1);
	_exit(0);	/* Debian 12's MPICH hangs in MPI_Finalize over three nodes, also without hpcnet */
}
"""
SENT = 10 << 20
"""Bytes that the ping-pong sends each way."""

LAUNCH = "mpiexec.hydra -iface eth0 -n 3 -ppn 1"

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


def test_hydra_in_a_batch_script(cluster: Cluster) -> None:
    """The launcher is in the node's network, and what it starts in the job's: it must name an interface there."""
    compiled(cluster, "mpicc.mpich")
    host = {node: sent(cluster, node, "eth0") for node in NODES}
    script = f"{COUNT}\n{LAUNCH} $HOME/pingpong\necho == hpc0; count hpc0\necho == hpcout; count hpcout\n"
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


def test_nothing_is_left_of_a_launcher_that_was_cancelled(cluster: Cluster) -> None:
    job = cluster.sbatch(f"{LAUNCH} sh -c 'echo started; sleep 300'", "--network=ib", "-N3", "--ntasks-per-node=1")
    eventually("all three run", lambda: cluster.output(job).count("started") == 3, 60)
    cluster.run("scancel", str(job))
    assert cluster.finished(job) == "CANCELLED"


REDIS = r"""
cat > redis.sh <<'EOF'
exec redis-server --port 7000 --bind 0.0.0.0 --cluster-enabled yes --protected-mode no --save "" \
  --cluster-config-file /tmp/redis-$SLURM_JOB_ID-$SLURM_PROCID.conf --daemonize no
EOF
srun --overlap -N3 sh redis.sh > redis.out 2>&1 &
step() { srun --overlap -N1 -n1 -w "$@"; }
for node in n1 n2 n3; do
  for try in $(seq 100); do step n1 redis-cli -h $node -p 7000 ping 2>&1 | grep -q PONG && break; sleep 0.2; done
done
addresses=$(step n1 getent ahostsv4 n1 n2 n3 | awk '$2 == "STREAM" { print $1 ":7000" }')
step n1 redis-cli --cluster create $addresses --cluster-yes | tail -1
for try in $(seq 100); do
  [ $(srun --overlap -N3 redis-cli -p 7000 cluster info | grep -c cluster_state:ok) = 3 ] && break; sleep 0.2
done
step n1 sh -c 'for i in $(seq 30); do redis-cli -c -h n1 -p 7000 set key$i value$i; done' | sort | uniq -c
step n3 sh -c 'for i in $(seq 30); do redis-cli -c -h n3 -p 7000 get key$i; done' | sort -V | tr '\n' ' '
"""


def test_a_redis_cluster_started_by_srun(cluster: Cluster) -> None:
    job = cluster.sbatch(f"cd; mkdir redis; cd redis\n{REDIS}", "--network=ib", "-N3", "--ntasks-per-node=1")
    wanted = " ".join(f"value{i}" for i in range(1, 31))
    eventually("the values are read", lambda: wanted in cluster.output(job), 120)
    assert "30 OK" in cluster.output(job)
    cluster.run("scancel", str(job))
    assert cluster.finished(job) in ("CANCELLED", "COMPLETED")
    for node in NODES:
        assert cluster.root(node, "sh", "-c", "ps -e -o comm= | grep redis-server || true") == ""
    cluster.run("sh", "-c", "rm -r ~/redis")
