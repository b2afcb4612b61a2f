# SPDX-License-Identifier: Apache-2.0
"""The variables by which the libraries of tasks are told the job's interface, ``env=``, and the site's list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpcnet import interfaces
from tests.cluster.cluster import NODES, Cluster
from tests.cluster.test_pmix import build, results

pytestmark = pytest.mark.cluster

WANTED = interfaces.of(interfaces.DEFAULTS, "hpc0")
ENV = "env | grep -E 'IFNAME|_IFACE|if_(in|ex)clude' | grep -v ^HPCNET_ | sort; true"


def variables(text: str) -> dict[str, str]:
    """Those that a command ENV has printed."""
    return dict(line.split("=", 1) for line in text.split())


BATCH = {"HYDRA_IFACE": "eth0", "I_MPI_HYDRA_IFACE": "eth0"}
"""What a launcher in a batch script is told: the node's interface, by which it is called back."""


def test_tasks_are_told_the_jobs_interface_and_the_batch_script_the_nodes(cluster: Cluster) -> None:
    job = cluster.sbatch(f'{ENV}\necho batch\nsrun -l sh -c "{ENV}"', "--network=ib", "-N2")
    assert cluster.finished(job) == "COMPLETED", cluster.output(job)
    batch, _, tasks = cluster.output(job).partition("batch\n")
    assert variables(batch) == BATCH
    for task in "01":
        told = [line.partition(": ")[2] for line in tasks.splitlines() if line.startswith(task)]
        assert variables("\n".join(told)) == WANTED


def test_what_the_user_has_set_stays(cluster: Cluster) -> None:
    own = {"NCCL_SOCKET_IFNAME": "", "FI_TCP_IFACE": "eth7", "OMPI_MCA_btl_tcp_if_exclude": "lo"}
    words = [f"{name}={value}" for name, value in own.items()]
    done = cluster.run("env", *words, "srun", "-N1", "--network=ib", "sh", "-c", ENV)
    # Open MPI takes a list of interfaces to use or one of those not to, never both.
    wanted = {name: value for name, value in WANTED.items() if name != "OMPI_MCA_btl_tcp_if_include"}
    assert variables(done.stdout) == {**wanted, **own}


@pytest.mark.parametrize("network", ["ib,env=none", "ib,join=none", "ib,env=site,join=none"])
def test_none_where_it_is_switched_off_and_where_tasks_do_not_join(cluster: Cluster, network: str) -> None:
    assert cluster.run("srun", "-N1", f"--network={network}", "sh", "-c", ENV).stdout == ""
    assert "HPCNET_ENV" not in cluster.run("srun", "-N1", f"--network={network}", "env").stdout


@pytest.mark.parametrize("network", ["none", "ib,env=none"])
def test_they_do_not_stick_to_a_job_that_a_task_submits(cluster: Cluster, network: str) -> None:
    """sbatch exports the task's environment: hpcnet's variables are none of the new job's, the user's own are."""
    inner = f'#!/bin/sh\n{ENV}; srun sh -c "{ENV}"; env | grep ^HPCNET_ENV; echo end\n'
    (cluster.lab.layout.home("alice") / "inner.sh").write_text(inner)
    submit = f"export TP_SOCKET_IFNAME=mine; exec sbatch -W -o ~/inner.out --network={network} ~/inner.sh"
    cluster.run("srun", "-N1", "--network=ib", "sh", "-c", submit)
    said = (cluster.lab.layout.home("alice") / "inner.out").read_text()
    batch, task, end = said.partition("TP_SOCKET_IFNAME=mine\n" * 2)
    assert variables(batch) == (BATCH if network.startswith("ib") else {})
    assert task and end == "end\n"


def test_root_who_enters_a_jobs_network_is_told_too(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-w", "n1", "-N1")
    assert variables(cluster.root("n1", "hpcnet", "exec", str(job), "--", "sh", "-c", ENV)) == WANTED
    own = ("env", "OMPI_MCA_btl_tcp_if_exclude=lo")
    told = variables(cluster.root("n1", *own, "hpcnet", "exec", str(job), "--", "sh", "-c", ENV))
    assert "OMPI_MCA_btl_tcp_if_include" not in told and told["OMPI_MCA_btl_tcp_if_exclude"] == "lo"


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster whose hpcnet.toml may be changed."""
    yield cluster
    cluster.lab.configure(hpcnet={"environment": dict.fromkeys(("NCCL_SOCKET_IFNAME", "SITE_IFACE"))})


def test_the_sites_list(site: Cluster) -> None:
    site.lab.configure(hpcnet={"environment": {"NCCL_SOCKET_IFNAME": "", "SITE_IFACE": "{interface}:{interface}"}})
    wanted = {**WANTED, "SITE_IFACE": "hpc0:hpc0"}
    del wanted["NCCL_SOCKET_IFNAME"]
    assert variables(site.run("srun", "-N1", "--network=ib", "sh", "-c", ENV).stdout) == wanted


def test_a_bad_entry_of_the_sites_list_is_told_in_one_line(site: Cluster) -> None:
    site.lab.configure(hpcnet={"environment": {"SITE_IFACE": "{if}"}})
    refused = site.run("srun", "-N1", "--network=ib", "true", check=False)
    says = "[environment] 'SITE_IFACE' = '{if}': must be text without blanks, with {interface} for the"
    assert refused.returncode != 0 and says in refused.stderr


def test_open_mpi_uses_no_other_interface(cluster: Cluster) -> None:
    """One more network in the job's namespace, as a way out with an address would be: Open MPI is kept off it."""
    build(cluster)
    job = cluster.hold("--network=ib", "-N3")
    for number, node in enumerate(NODES, 1):
        made = f"link add decoy type veth peer name decoy1\naddress add 10.99.0.{number}/24 dev decoy\n"
        made += "link set decoy up\nlink set decoy1 up\n"
        cluster.lab.run(node, ["ip", "-n", f"hpcnet-{job}", "-batch", "-"], stdin=made)
    step = ["srun", f"--jobid={job}", "--overlap", "--mpi=pmix"]
    program = ["sh", "-c", "~/pingpong"]
    verbose = ["env", "OMPI_MCA_btl_base_verbose=100"]
    # A single rank ends in an error, but has opened its interfaces before.
    without = cluster.run(
        *verbose, "OMPI_MCA_btl_tcp_if_exclude=lo", *step, "-N1", "-n1", *program, check=False
    ).stderr
    assert "interface decoy" in without and "interface hpc0" in without
    done = cluster.run(*verbose, *step, *program)
    assert "interface decoy" not in done.stderr
    assert done.stderr.count("using ipv4 interface hpc0") == 3
    assert results(done.stdout) == [f"rank {rank} of 3 on n{rank + 1} sum 3" for rank in range(3)]
