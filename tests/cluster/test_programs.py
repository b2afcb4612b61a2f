# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, as they run them: launchers in the batch script, Slurm's commands.

Each runs over three nodes, by names and not by addresses. The bytes must go by the job's interface.
"""

from __future__ import annotations

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually

pytestmark = pytest.mark.cluster

# Ranks add 4 MiB; then the first two send each other 1 MiB twenty times, or as long as they live.
PINGPONG = r"""
#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

enum { BYTES = 1 << 20, ROUNDS = 20 };
static int in[BYTES], out[BYTES];

int main(int argc, char **argv)
{
	int rank, size, i, round;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	for (i = 0; i < BYTES; i++)
		in[i] = rank + i;
	MPI_Allreduce(in, out, BYTES, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	for (i = 0; i < BYTES; i++)
		if (out[i] != size * i + size * (size - 1) / 2)
			MPI_Abort(MPI_COMM_WORLD, 1);
	for (round = 0; (round < ROUNDS || argc > 1) && rank < 2; round++) {
		if (rank == round % 2)
			MPI_Send(in, BYTES, MPI_CHAR, 1 - rank, 0, MPI_COMM_WORLD);
		else
			MPI_Recv(in, BYTES, MPI_CHAR, 1 - rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		if (round == ROUNDS) {
			printf("under way\n");
			fflush(stdout);
		}
	}
	printf("rank %d of %d sum %d\n", rank, size, out[0]);
	fflush(stdout);
#ifdef OPEN_MPI
	return MPI_Finalize();
#endif
	MPI_Barrier(MPI_COMM_WORLD);
	sleep(1);
	_exit(0);	/* Debian 12's MPICH hangs in MPI_Finalize over three nodes, also without hpcnet */
}
"""
SENT, ADDED = 10 << 20, 4 << 20
"""Bytes that the ping-pong sends each way, and that each rank sends at least when they add."""

LAUNCHERS = {
    "mpiexec": ("mpich", "mpiexec.hydra -n 3 -ppn 1"),
    "mpirun": ("openmpi", "mpirun -n 3"),
    "pmi2": ("mpich", "srun --mpi=pmi2"),
    "pmix": ("openmpi", "srun --mpi=pmix"),
}
"""What starts them, and of which MPI they are."""

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


def nothing_runs(cluster: Cluster, command: str = "") -> None:
    """No node has a process of alice's, nor one with these words in its command line."""
    for node in NODES:
        own = cluster.root(node, "ps", "-u", "alice", "-o", "args=", check=False).splitlines()
        assert [args for args in own if args != "podman"] == []  # which holds a user's own namespaces, in no job
        assert not command or command not in cluster.root(node, "ps", "-eo", "args=")


def traffic(cluster: Cluster, words: str, egress: str) -> tuple[str, dict[str, list[int]]]:
    """What a batch script with these words says; and by interface, what each node, or its task, has sent."""
    devices = ["hpc0", "hpcout"] if egress == "host" else ["hpc0"]
    script = f"{COUNT}\n{words}\n" + "".join(f"echo == {device}; count {device}\n" for device in devices)
    host = {(device, node): sent(cluster, node, device) for device in ("eth0", "ib0") for node in NODES}
    job = cluster.sbatch(script, f"--network=ib,egress={egress}", "-N3", "--ntasks-per-node=1")
    assert cluster.finished(job, 120) == "COMPLETED", cluster.output(job)
    said, *counts = cluster.output(job).split("== ")
    found = {device: counted(lines.splitlines()[1:]) for device, lines in zip(devices, counts)}
    for device in ("eth0", "ib0"):
        found[device] = [sent(cluster, node, device) - host[device, node] for node in NODES]
    return said, found


def by_the_job_alone(found: dict[str, list[int]]) -> None:
    """The fabric carried the job's packets in VXLAN and no second copy of the data, other interfaces nothing."""
    for own, carried in zip(found["hpc0"], found["ib0"]):
        assert own < carried < 1.1 * own + SENT / 10, found
    assert max(found["eth0"] + found.get("hpcout", [])) < SENT / 10, found


@pytest.mark.parametrize("launcher, egress", [*((each, "host") for each in LAUNCHERS), ("pmix", "none")])
def test_mpi_over_three_nodes(cluster: Cluster, launcher: str, egress: str) -> None:
    """A launcher in the batch script is in the node's network, and what it starts in the job's, on its own too."""
    mpi, command = LAUNCHERS[launcher]
    compiled(cluster, f"mpicc.{mpi}")
    said, found = traffic(cluster, f"{command} $HOME/pingpong", egress)
    assert sorted(line for line in said.splitlines() if line.startswith("rank")) == [
        f"rank {rank} of 3 sum 3" for rank in range(3)
    ]
    third, second, first = sorted(found["hpc0"])
    assert third > ADDED and first > second > ADDED + SENT
    by_the_job_alone(found)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_nothing_is_left_of_mpi_that_was_cancelled_in_the_middle(cluster: Cluster, launcher: str) -> None:
    mpi, command = LAUNCHERS[launcher]
    compiled(cluster, f"mpicc.{mpi}")
    job = cluster.sbatch(f"{command} $HOME/pingpong for-ever", "--network=ib", "-N3", "--ntasks-per-node=1")
    eventually("messages are on their way", lambda: "under way" in cluster.output(job), 60)
    cluster.run("scancel", str(job))
    assert cluster.finished(job) == "CANCELLED"
    nothing_runs(cluster)


# As torchrun's c10d: a store on the first node, found by its name, tells all of all; then each sends each 4 MiB.
RENDEZVOUS = r"""
import os, socket, subprocess, threading

words = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
nodes = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
rank, block = int(os.environ["SLURM_PROCID"]), bytes(4 << 20)

def store(listening):
    members = [listening.accept()[0] for _ in nodes]
    ports = {int(rank): port for rank, port in (member.recv(99).split() for member in members)}
    for member in members:
        member.sendall(b" ".join(ports[each] for each in range(len(nodes))))
        member.close()

def connected(node, port):
    while True:
        try:
            return socket.create_connection((node, port), timeout=30)
        except ConnectionRefusedError:
            pass

server = socket.create_server(("", 0))
if rank == 0:
    threading.Thread(target=store, args=[socket.create_server(("", 29400))]).start()
with connected(nodes[0], 29400) as member:
    member.sendall(b"%d %d" % (rank, server.getsockname()[1]))
    ports = [int(port) for port in member.makefile("rb").read().split()]

def send(peer):
    with connected(nodes[peer], ports[peer]) as connection:
        connection.sendall(block)

peers = [peer for peer in range(len(nodes)) if peer != rank]
for peer in peers:
    threading.Thread(target=send, args=[peer]).start()
got = sum(len(server.accept()[0].makefile("rb").read()) for _ in peers)
print("rank", rank, "of", len(nodes), "got", got)
"""


def test_a_rendezvous_by_the_first_nodes_name(cluster: Cluster) -> None:
    cluster.run("sh", "-c", "cd; cat > rendezvous.py", stdin=RENDEZVOUS)
    said, found = traffic(cluster, "srun python3 ~/rendezvous.py", "host")
    assert sorted(said.splitlines()) == [f"rank {rank} of 3 got {8 << 20}" for rank in range(3)]
    assert min(found["hpc0"]) > 8 << 20
    by_the_job_alone(found)


LAUNCH = "echo $(env | grep -E '^...._MCA_|HYDRA_IFACE|^HPCNET_LAUNCH' | sort)"


def test_launchers_are_told_how_to_start_their_own_nodes_ranks_and_where_to_be_called(cluster: Cluster) -> None:
    """In the batch script of a job whose tasks join; never over a value of the user's."""
    ompi, prte = (f"{prefix}_MCA_ras_base_launch_orted_on_hn" for prefix in ("OMPI", "PRTE"))
    hydra, intel = "HYDRA_IFACE=eth0", "I_MPI_HYDRA_IFACE=eth0"
    listed = f"HPCNET_LAUNCH={ompi}=1 {prte}=1 {hydra} {intel}"
    expected = {
        ("--network=ib",): f"{listed} {hydra} {intel} {ompi}=1 {prte}=1",
        (
            "--network=ib",
            f"--export=ALL,{ompi}=0",
        ): f"{listed.replace(f'{ompi}=1 ', '')} {hydra} {intel} {ompi}=0 {prte}=1",
        ("--network=ib,join=none",): "",
        (): "",
    }
    for job, line in [(cluster.sbatch(LAUNCH, *options), line) for options, line in expected.items()]:
        assert cluster.finished(job) == "COMPLETED"
        assert cluster.output(job).strip() == line


def test_what_launchers_are_told_does_not_stick_to_the_next_job_nor_to_tasks(cluster: Cluster) -> None:
    """Of a batch script that submits one; its own tasks have the job's interface."""
    (cluster.lab.layout.home("alice") / "next.sh").write_text(f"#!/bin/bash\n{LAUNCH}\n")
    script = "export I_MPI_HYDRA_IFACE=mine; sbatch -W -o ~/next.out ~/next.sh > /dev/null; srun env | grep HYDRA"
    job = cluster.sbatch(script, "--network=ib")
    assert cluster.finished(job) == "COMPLETED", cluster.output(job)
    assert (cluster.lab.layout.home("alice") / "next.out").read_text() == "I_MPI_HYDRA_IFACE=mine\n"
    told = {line for line in cluster.output(job).splitlines() if not line.startswith("HPCNET_")}
    assert told == {"HYDRA_IFACE=hpc0", "I_MPI_HYDRA_IFACE=mine"}


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
