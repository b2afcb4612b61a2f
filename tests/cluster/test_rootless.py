# SPDX-License-Identifier: Apache-2.0
"""Rootless containers of a task are in its job's network: Podman, Charliecloud, Slurm's ``--container``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcnet.lab import containers
from hpcnet.lab.layout import USERS
from tests.cluster.cluster import NODES, Cluster, eventually
from tests.cluster.test_job import names

pytestmark = pytest.mark.cluster

IMAGE = "localhost/hpcnet-lab"
PODMAN = f"podman run --rm --network host --env HPCNET_* -v $HPCNET_HOSTS:/etc/hosts:ro {IMAGE}"
CHARLIECLOUD = "ch-run $HOME/bundle/rootfs --"

_EXAMPLE = Path(__file__).parents[2] / "examples" / "epilog-podman.sh"
_EPILOG = "/etc/slurm/epilog-podman.sh"

# As a user would make it, see docs/containers.md. The root file system serves Charliecloud, too.
_MAKE_BUNDLE = """
mkdir -p bundle/rootfs && cd bundle && tar xf {image} -C rootfs && : > rootfs/etc/hosts
rm -f config.json && crun spec --rootless && python3 - <<'END'
import json
config = json.load(open("config.json"))
config["process"]["terminal"] = False
config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "network"]
hosts = {{"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["bind", "ro"]}}
tmp = {{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}}
config["mounts"] += [hosts, tmp]
json.dump(config, open("config.json", "w"))
END
"""

_SERVE_OR_MEASURE = """
if [ {rank} = 0 ]; then exec timeout 40 iperf3 -s -1 > /dev/null; fi
for try in $(seq 100); do
  report=$(iperf3 {family} -c n1 -t 1 --json)
  case $report in *error*) ;; *) echo "$report"; exit 0;; esac
  sleep 0.3
done
exit 1
"""


@pytest.fixture(scope="module")
def _site(_lab: Cluster) -> Iterator[Cluster]:
    """The lab as a site for containers: Slurm tracks a job's processes by control group; users have an image."""
    offers: dict[str, dict[str, object]] = {
        "offer": {"modes": ["vxlan", "direct"]},
        "direct": {"allow_shared": True},
    }
    # What tests before these left, without control groups: tasks of a killed slurmstepd, Podman's pause process.
    _lab.settle()
    for node in NODES:
        _lab.root(node, "sh", "-c", "pkill -KILL -u alice,bob; sleep 0.5; rm -rf /run/user/2000*/*", check=False)
        _lab.lab.run(node, ["install", "-m", "755", "/dev/stdin", _EPILOG], stdin=_EXAMPLE.read_text())
    _lab.lab.configure(slurm={"ProctrackType": "proctrack/cgroup", "Epilog": _EPILOG}, hpcnet=offers)
    containers.make_image(_lab.lab.layout)
    image = str(_lab.lab.layout.image)
    for user in USERS:
        # In a job: a Podman of the login shell would stay behind, see below.
        _lab.srun("-N3", "podman", "import", "-q", image, IMAGE, user=user)
        script = f"cd; {_MAKE_BUNDLE.format(image=image)}"
        _lab.run("sh", "-c", script, user=user)
    yield _lab
    _lab.lab.configure()


@pytest.fixture
def site(_site: Cluster, cluster: Cluster) -> Iterator[Cluster]:
    """The site with no job in it; afterwards no process of a user may be left on any node."""
    yield cluster
    cluster.settle()
    for node in NODES:
        assert processes(cluster, node) == []


def processes(cluster: Cluster, node: str) -> list[str]:
    """What alice and bob have running on a node."""
    own = cluster.root(node, "ps", "-o", "args=", "-u", ",".join(USERS), check=False)
    return own.splitlines()


def await_container(cluster: Cluster, node: str, command: str) -> None:
    """Wait until a container's command runs on a node."""
    eventually(f"{command} runs on {node}", lambda: command in processes(cluster, node))


def step(job: int, node: str, *argv: str) -> tuple[str, ...]:
    """A command that runs in a job on one of its nodes."""
    return ("srun", f"--jobid={job}", "--overlap", "-N1", "-n1", "-w", node, *argv)


def measured(cluster: Cluster, job: int) -> str:
    """Wait for a job of _SERVE_OR_MEASURE; returns the address that its client had reached."""
    assert cluster.finished(job, 120) == "COMPLETED", cluster.output(job)
    output = cluster.output(job)
    report = json.loads(output[output.index("{") :])
    assert report["end"]["sum_received"]["bytes"] > 1_000_000
    return str(report["start"]["connected"][0]["remote_host"])


@pytest.mark.parametrize("mode", ["vxlan", "direct"])
@pytest.mark.parametrize("runtime", [PODMAN, CHARLIECLOUD], ids=["podman", "charliecloud"])
def test_iperf3_between_containers_on_two_nodes_by_name(site: Cluster, runtime: str, mode: str) -> None:
    inner = _SERVE_OR_MEASURE.format(rank="$0", family="-4")
    script = f"srun sh -c '{runtime} sh -c \"$0\" $SLURM_PROCID' '{inner}'"
    job = site.sbatch(script, f"--network=ib,mode={mode}", "-N2")
    assert measured(site, job).startswith("10.128." if mode == "vxlan" else "10.192.")


def test_iperf3_between_slurms_own_containers_by_name(site: Cluster) -> None:
    # The rank is not in a container's environment on Slurm 22.05; its node's address tells who it is.
    rank = '$(ip -o addr show hpc0 | grep -c "$(grep -w n1 /etc/hosts | head -n 1 | cut -f 1 -d " ")/")'
    inner = _SERVE_OR_MEASURE.format(rank=f"$((1 - {rank}))", family="-6")
    script = f"srun --container=$HOME/bundle sh -c '{inner}'"
    job = site.sbatch(script, "--network=ib", "-N2", "-w", "n[1-2]")
    assert measured(site, job).startswith("fd68:")


@pytest.mark.parametrize("mode, devices", [("vxlan", ["hpc0", "hpcvx", "lo"]), ("direct", ["hpc0", "lo"])])
def test_a_container_sees_the_jobs_devices_names_and_variables(
    site: Cluster, mode: str, devices: list[str]
) -> None:
    inner = "ip -o link; ls /sys/class/net; cat /etc/hosts; env | grep ^HPCNET_ | sort"
    outer = f'{PODMAN} sh -c "{inner}"; cat $HPCNET_HOSTS; env | grep ^HPCNET_ | sort'
    done = site.run("srun", "-N1", f"--network=ib,egress=none,mode={mode}", "sh", "-c", outer)
    assert "shared mount" not in done.stderr
    lines = done.stdout.splitlines()
    count = len(devices)
    assert sorted(names(lines[:count])) == devices
    assert lines[count : 2 * count] == devices
    rest = lines[2 * count :]
    assert len(rest) % 2 == 0 and rest[: len(rest) // 2] == rest[len(rest) // 2 :]
    assert "HPCNET_INTERFACE=hpc0" in rest


def test_charliecloud_and_slurms_containers_see_the_jobs_devices(site: Cluster) -> None:
    inner = "ip -o link; grep network.of.job /etc/hosts"
    for argv in (
        ["sh", "-c", f"{CHARLIECLOUD} sh -c '{inner}'"],
        ["--container=/home/alice/bundle", "sh", "-c", inner],
    ):
        *links, own = site.srun("-N1", "--network=ib,egress=none", *argv)
        assert sorted(names(links)) == ["hpc0", "hpcvx", "lo"]
        assert own.startswith("# network of job ")


def test_without_a_mount_podman_copies_the_tasks_names(site: Cluster) -> None:
    podman = f"podman run --rm --network host {IMAGE} grep -w n2 /etc/hosts"
    run = f"[ $SLURM_PROCID = 0 ] || exit 0; getent ahostsv4 n2 | head -n 1; {podman}"
    task, *container = site.srun("-N2", "-w", "n[1-2]", "--network=ib", "sh", "-c", run)
    assert task.split()[0].startswith("10.128.")
    assert container[0].split() == [task.split()[0], "n2"]


def test_the_mounted_names_are_right_beside_another_job_of_the_same_user(site: Cluster) -> None:
    """The second Podman enters the first one's mounts (Podman's pause process), and copies that job's names."""
    first = site.hold("--network=ib", "-w", "n1")
    hold = step(first, "n1", "podman", "run", "--rm", "--network", "host", IMAGE, "sleep", "60")
    site.run("sh", "-c", f"{' '.join(hold)} > /dev/null 2>&1 &")
    await_container(site, "n1", "sleep 60")
    script = f'{PODMAN} sh -c "ip -o -4 addr show hpc0; cat /etc/hosts"; echo $HPCNET_ADDRESS'
    lines = site.srun("-w", "n1", "--network=ib", "sh", "-c", script)
    address = lines[-1]
    assert site.lease(first)["ipv4"].rpartition(".")[0] in address
    assert f" {address}/" in lines[0]
    assert f"{address} n1" in lines


def test_root_in_a_container_has_no_power_over_the_network(site: Cluster) -> None:
    for words in ("ip link set hpc0 down", "ip addr add 192.0.2.1/32 dev hpc0", "ip link add x type dummy"):
        run = ("podman", "run", "--rm", "--privileged", "--network", "host", IMAGE, *words.split())
        done = site.run("srun", "-N1", "--network=ib", *run, check=False)
        assert done.returncode != 0
        assert "Operation not permitted" in done.stderr


def test_containers_of_two_users_on_the_same_nodes_do_not_reach_each_other(site: Cluster) -> None:
    alice = site.hold("--network=ib", "-w", "n[1-2]", "-n2")
    bob = site.hold("--network=ib", "-w", "n[1-2]", "-n2", user="bob")
    serve = step(bob, "n2", "podman", "run", "--rm", "--network", "host", IMAGE, "iperf3", "-s")
    site.run("sh", "-c", f"{' '.join(serve)} > /dev/null 2>&1 &", user="bob")
    await_container(site, "n2", "iperf3 -s")
    target = site.run(*step(bob, "n2", "printenv", "HPCNET_ADDRESS"), user="bob").stdout.strip()
    reach = (
        "podman",
        "run",
        "--rm",
        "--network",
        "host",
        IMAGE,
        "iperf3",
        "-t1",
        "--connect-timeout",
        "2000",
        "-c",
    )
    site.run(*step(bob, "n1", *reach, target), user="bob")
    for node in ("n1", "n2"):
        done = site.run(*step(alice, node, *reach, target), check=False)
        assert done.returncode != 0
        assert "unable to connect" in done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["vxlan", "direct"])
def test_scancel_ends_containers_and_leaves_nothing(site: Cluster, mode: str) -> None:
    """What is left is looked for by the fixtures. Podman works after it, also on what it left in its storage."""
    script = f"srun sh -c '{PODMAN} sleep 60'"
    job = site.sbatch(script, f"--network=ib,mode={mode}", "-N3")
    for node in NODES:
        await_container(site, node, "sleep 60")
    site.run("scancel", str(job))
    assert site.finished(job) == "CANCELLED"
    lines = site.srun("-N3", "--network=ib", "sh", "-c", f"podman rm -afi > /dev/null; {PODMAN} echo again")
    assert lines == ["again"] * 3


def test_scancel_ends_slurms_containers(site: Cluster) -> None:
    job = site.sbatch("srun --container=$HOME/bundle sleep 60", "--network=ib", "-N2", "-w", "n[1-2]")
    for node in ("n1", "n2"):
        await_container(site, node, "sleep 60")
    site.run("scancel", str(job))
    assert site.finished(job) == "CANCELLED"
    assert site.root("n1", "ls", "/run/oci") == ""
