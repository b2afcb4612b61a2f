# SPDX-License-Identifier: Apache-2.0
"""``docker=yes``: a Docker network per job, through hpcnet's own driver, with a real dockerd on each node."""

from __future__ import annotations

import io
import json
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually
from tests.cluster.docker import Docker

pytestmark = pytest.mark.cluster

OFFER: dict[str, dict[str, Any]] = {
    "offer": {"docker": True, "modes": ["vxlan", "direct"]},
    "direct": {"allow_shared": True},
}
MODES = ["vxlan", "direct"]
OWN_NETWORKS = {"host", "none"}
USERS = ("alice", "bob")


@pytest.fixture(scope="module", autouse=True)
def _offered(_lab: Cluster) -> Iterator[None]:
    """The lab as a site that offers Docker and both modes."""
    _lab.lab.configure(hpcnet=OFFER)
    yield
    _lab.lab.configure()


@pytest.fixture
def docker(cluster: Cluster) -> Iterator[Docker]:
    """Docker on the nodes; no test leaves a network of a job in any dockerd."""
    found = Docker(cluster)
    yield found
    cluster.settle()
    left = {node: found.networks(node) - OWN_NETWORKS for node in NODES}
    for node in NODES:
        cluster.root(node, "sh", "-c", "docker ps -aq | xargs -r docker rm -f")
        cluster.root(node, "sh", "-c", "docker network ls -q --filter type=custom | xargs -r docker network rm")
    assert not any(left.values()), left


_STUDY = """
exec 2> /dev/null
run="docker run --rm --net=hpcnet-$SLURM_JOB_ID -v $HPCNET_HOSTS:/etc/hosts:ro"
srun -N1 -n1 -w n1 $run -d hpcnet-lab iperf3 -s > /dev/null
srun -N1 -n1 -w n2 $run hpcnet-lab sh -c '
  for try in 1 2 3 4 5 6 7 8 9; do
    iperf3 -c n1-1 -t1 --json > /tmp/report; grep -q error /tmp/report || break; sleep 0.3
  done; cat /tmp/report'
srun -N1 -n1 -w n2 $run hpcnet-lab cat /sys/class/net/hpc0/mtu
"""


@pytest.mark.parametrize(("mode", "mtu"), [("vxlan", 65470), ("direct", 65520)])
def test_iperf3_by_name_between_containers_of_two_nodes(docker: Docker, mode: str, mtu: int) -> None:
    """What the 2016 study wished for: a network option of docker run, over the fabric, over nodes."""
    option = f"--network=ib,docker=yes,mode={mode}"
    job = docker.cluster.sbatch(_STUDY, option, "-wn[1-2]", "--ntasks-per-node=1")
    assert docker.cluster.finished(job) == "COMPLETED", docker.cluster.output(job)
    text = docker.cluster.output(job)
    report, at = json.JSONDecoder().raw_decode(text)
    assert report["end"]["sum_received"]["bytes"] > 1_000_000
    assert report["start"]["connected"][0]["remote_host"].startswith("10.1")
    assert text[at:].split()[-1] == str(mtu)


@pytest.mark.parametrize("mode", MODES)
def test_tasks_docker_and_podman_all_reach_all(docker: Docker, mode: str) -> None:
    """A job that mixes them: tasks, two Docker containers a node, and a rootless Podman container in a task."""
    job = docker.cluster.hold(f"--network=ib,docker=yes,mode={mode}", "-wn[1-2]", "--ntasks-per-node=2")
    for node in ("n1", "n2"):
        for number in (1, 2):
            docker.start(job, node, f"c{number}")
    everyone = ["n1", "n2", "n1-1", "n1-2", "n2-1", "n2-2"]
    for family in ("-4", "-6"):
        script = "; ".join(f"ping {family} -c1 -W2 -q {name} > /dev/null || echo {name}" for name in everyone)
        for node in ("n1", "n2"):
            for number in (1, 2):
                assert docker(node, "exec", f"c{number}", "sh", "-c", script).stdout == "", (node, number, family)
        step = ("srun", f"--jobid={job}", "--overlap", "-N2", "-n2")
        assert docker.cluster.run(*step, "sh", "-c", script).stdout == ""
    # busybox's ping wants to be root, which a rootless container is not in the job's network
    refused = "; ".join(f"nc -w2 {name} 9 2>&1 | grep -q refused || echo {name}" for name in everyone)
    podman = (
        f"podman image exists tools || podman import -q {docker.cluster.lab.layout.image} tools > /dev/null; "
        f"podman run --rm --network host -v $HPCNET_HOSTS:/etc/hosts:ro tools sh -c '{refused}'"
    )
    done = docker.cluster.run(*step[:3], "-N1", "-n1", "-wn1", "bash", "-c", podman, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_what_a_container_has(docker: Docker) -> None:
    job = docker.cluster.hold("--network=ib,docker=yes,endpoints=2,egress=none", "-wn[1-2]")
    lease = docker.cluster.lease(job)
    docker.start(job, "n2", "c1")
    assert docker("n2", "exec", "c1", "ls", "/sys/class/net").stdout.split() == ["hpc0", "lo"]
    planned = docker.cluster.root("n2", "sh", "-c", f"grep ' n2-1$' /run/hpcnet/jobs/{job}/hosts").split()
    shown = docker("n2", "exec", "c1", "ip", "-o", "addr", "show", "hpc0").stdout
    for address, prefix in ((planned[0], lease["ipv4"].partition("/")[2]), (planned[2], "64")):
        assert f" {address}/{prefix} " in shown
    assert "default" not in docker("n2", "exec", "c1", "ip", "route").stdout
    dockers = docker.cluster.run("hpcnet", "detach", str(job), "c1", user="root", on="n2", check=False)
    assert dockers.returncode == 2 and f"nothing of job {job} is attached there" in dockers.stderr
    assert docker.reaches("n2", "c1", "n1")
    [network] = json.loads(docker("n2", "network", "inspect", f"hpcnet-{job}").stdout)
    assert network["Labels"]["hpcnet.job"] == str(job)
    assert network["Labels"]["hpcnet.serial"] == str(lease["serial"])
    assert network["IPAM"]["Config"][0]["Subnet"] == lease["ipv4"]
    assert docker.cluster.root("n2", "hpcnet", "check").strip() == f"job {job}: ok"
    names = docker.cluster.root("n2", "ls", "/sys/class/net").split()
    assert sorted(names) == ["eth0", "ib0", "lo"], "a device of the job stands in the host's namespace"
    step = docker.cluster.run(
        "srun", f"--jobid={job}", "--overlap", "-n1", "-N1", "printenv", "HPCNET_DOCKER_NETWORK"
    )
    assert step.stdout.strip() == f"hpcnet-{job}"


def test_what_docker_run_may_not_ask(docker: Docker) -> None:
    job = docker.cluster.hold("--network=ib,docker=yes,endpoints=2", "-wn1")
    second = docker.cluster.root("n1", "sh", "-c", f"grep ' n1-2$' /run/hpcnet/jobs/{job}/hosts").split()[0]
    docker.run(job, "n1", "-d", "--name", "own", "--ip", second, "hpcnet-lab", "sleep", "600")
    assert f" {second}/" in docker("n1", "exec", "own", "ip", "-o", "-4", "addr", "show", "hpc0").stdout

    def refused(*words: str) -> str:
        done = docker("n1", "run", f"--net=hpcnet-{job}", "--rm", *words, "hpcnet-lab", "true", check=False)
        return done.stderr if done.returncode else ""

    assert f"{second} is taken by another container" in refused("--ip", second)
    assert "leave -p/--publish out" in refused("-p", "8080:80")
    first = docker.cluster.root("n1", "sh", "-c", f"grep ' n1$' /run/hpcnet/jobs/{job}/hosts").split()[0]
    assert refused("--ip", first) != ""
    docker.start(job, "n1", "other")
    assert "all 2 container addresses of job" in refused()
    assert "ask for more: --network=ib,endpoints=4" in refused()
    # what failed took no address
    docker("n1", "rm", "-f", "other")
    assert refused() == ""
    by_hand = docker("n1", "network", "create", "-d", "hpcnet", "mine", check=False)
    assert "are made by a job that asks for it: --network=ib,docker=yes" in by_hand.stderr


def test_two_users_jobs_do_not_reach_each_other(docker: Docker) -> None:
    jobs = {user: docker.cluster.hold("--network=ib,docker=yes", "-wn[1-2]", user=user) for user in USERS}
    for user, job in jobs.items():
        for node in ("n1", "n2"):
            docker.start(job, node, f"{user}s", user=user)
    own = docker.cluster.root("n1", "cat", f"/run/hpcnet/jobs/{jobs['alice']}/hosts")
    others = docker.cluster.root("n1", "cat", f"/run/hpcnet/jobs/{jobs['bob']}/hosts")
    targets = [line.split()[0] for line in others.splitlines() if line.endswith((" n1-1", " n2-1", " n1", " n2"))]
    assert len(targets) == 8 and not any(f"{target} " in own for target in targets)
    for node in ("n1", "n2"):
        for target in ("n1-1", "n2-1"):
            assert docker.reaches(node, "alices", target)
            assert docker.reaches(node, "bobs", target, user="bob")
    # neither by its address nor with a route that a container's root makes
    docker.run(jobs["alice"], "n1", "-d", "--cap-add=NET_ADMIN", "--name", "root", "hpcnet-lab", "sleep", "600")
    docker("n1", "exec", "root", "ip", "route", "add", "default", "dev", "hpc0")
    docker("n1", "exec", "root", "ip", "-6", "route", "add", "default", "dev", "hpc0")
    tries = " ".join(f"(ping -c1 -W2 -q {target} > /dev/null && echo {target}) &" for target in targets)
    for container in ("root", "alices"):
        assert docker("n1", "exec", container, "sh", "-c", f"{tries} wait").stdout == ""


def test_a_container_killed_gives_its_address_back(docker: Docker) -> None:
    job = docker.cluster.hold("--network=ib,docker=yes,endpoints=1", "-wn[1-2]")
    slots = f"/run/hpcnet/jobs/{job}/slots"
    for name in ("first", "second", "third"):
        docker.start(job, "n1", name)
        assert docker.cluster.root("n1", "ls", slots).split()[:1] == ["1"]
        assert docker.reaches("n1", name, "n2")
        docker.cluster.root("n1", "kill", "-KILL", docker.process("n1", name))
        eventually("no container runs", lambda: not docker.containers("n1", "-f", "status=running"))
        eventually("the address is free", lambda: not docker.cluster.root("n1", "ls", slots))


def test_an_image_without_a_shell(docker: Docker, tmp_path: Path) -> None:
    program = Path("/bin/busybox").resolve()
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w") as tar:
        tar.add(program, "busybox")
    (docker.cluster.lab.layout.home("alice") / "bare.tar").write_bytes(image.getvalue())
    docker("n1", "import", "/home/alice/bare.tar", "bare")
    job = docker.cluster.hold("--network=ib,docker=yes", "-wn[1-2]")
    assert "1 packets received" in docker.run(job, "n1", "--rm", "bare", "/busybox", "ping", "-c1", "-W2", "n2")
    docker.cluster.root("n1", "docker", "rmi", "bare")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "killed"])
def test_dockerd_comes_back_in_the_middle_of_a_job(docker: Docker, mode: str, number: signal.Signals) -> None:
    job = docker.cluster.hold(f"--network=ib,docker=yes,mode={mode},endpoints=2", "-wn[1-2]")
    docker.start(job, "n1", "before")
    docker.start(job, "n1", "gone")
    docker.start(job, "n2", "peer")
    assert docker.reaches("n1", "before", "n2-1")
    docker.cluster.lab.restart("dockerd", "n1", number)
    docker("n1", "rm", "-f", "gone")
    docker("n1", "restart", "-t0", "before")
    docker.start(job, "n1", "after")
    for container in ("before", "after"):
        assert docker.reaches("n1", container, "n2-1") and docker.reaches("n1", container, "n2")


def test_the_agent_comes_back_in_the_middle_of_a_job(docker: Docker) -> None:
    job = docker.cluster.hold("--network=ib,docker=yes", "-wn[1-2]")
    docker.start(job, "n1", "before")
    for number in (signal.SIGTERM, signal.SIGKILL):
        docker.cluster.lab.stop_daemon("n1", "agent", number)
        assert docker.reaches("n1", "before", "n2"), "a container needs no agent"
        docker.cluster.lab.start_daemon("n1", "agent")
        docker.start(job, "n1", f"after{int(number)}")
        assert docker.reaches("n1", f"after{int(number)}", "n1-1")
    docker("n1", "rm", "-f", "before")


@pytest.mark.parametrize("mode", MODES)
def test_the_jobs_end_stops_its_containers_and_disconnects_others(docker: Docker, mode: str) -> None:
    job = docker.cluster.hold(f"--network=ib,docker=yes,mode={mode}", "-wn[1-2]")
    docker.start(job, "n1", "own")
    docker("n1", "network", "create", "sites")
    docker("n1", "run", "-d", "--net=sites", "--name", "monitor", "hpcnet-lab", "sleep", "600")
    docker("n1", "network", "connect", f"hpcnet-{job}", "monitor")
    assert docker.reaches("n1", "monitor", _address(docker, job, "n2"))
    docker.cluster.root("ctl", "scancel", str(job))
    docker.cluster.finished(job)
    assert docker.containers("n1", "-f", "status=running") == {"monitor"}
    assert "hpc0" not in docker("n1", "exec", "monitor", "ls", "/sys/class/net").stdout.split()
    assert docker.networks("n1") == OWN_NETWORKS | {"sites"}
    assert docker("n1", "start", "own", check=False).returncode != 0
    docker("n1", "rm", "-f", "monitor")
    docker("n1", "network", "rm", "sites")


def _address(docker: Docker, job: int, name: str) -> str:
    return docker.cluster.root("n1", "sh", "-c", f"grep ' {name}$' /run/hpcnet/jobs/{job}/hosts").split()[0]


def test_without_dockerd_the_node_is_to_blame(docker: Docker) -> None:
    """docker=yes and no dockerd: by DESIGN's rules that is the node's fault; nothing of the job is left there."""
    lab = docker.cluster.lab
    for daemon, words in (
        ("dockerd", "dockerd does not answer on /run/docker.sock"),
        ("agent", "hpcnet agent does not serve /run/docker/plugins/hpcnet.sock on n2"),
    ):
        lab.stop_daemon("n2", daemon)
        job = docker.cluster.sbatch("true", "--network=ib,docker=yes", "-wn[1-2]")
        eventually("n2 drains", lambda: docker.cluster.node_states()["n2"].startswith("drain"))
        eventually("n1 is idle", lambda: docker.cluster.node_states()["n1"] == "idle")
        assert words in docker.cluster.log("n2")
        assert docker.networks("n1") == OWN_NETWORKS
        docker.cluster.root("ctl", "scancel", str(job))
        plain = docker.cluster.srun("-wn1", "--network=ib", "ls", "/sys/class/net")
        assert "hpc0" in plain, "other jobs need no Docker"
        lab.start_daemon("n2", daemon)
        docker.cluster.root("ctl", "scontrol", "update", "nodename=n2", "state=resume")
    done = docker.cluster.srun("-N2", "-wn[1-2]", "--network=ib,docker=yes", "hostname")
    assert sorted(done) == ["n1", "n2"]


@pytest.mark.parametrize("mode", MODES)
def test_a_dockerd_that_hangs_holds_no_epilog_up(docker: Docker, mode: str) -> None:
    cluster = docker.cluster
    job = cluster.hold(f"--network=ib,docker=yes,mode={mode}", "-wn[1-2]")
    docker.start(job, "n1", "own")
    process = cluster.root("n1", "cat", "/run/docker.pid").strip()
    cluster.root("n1", "kill", "-STOP", process)
    try:
        cluster.root("ctl", "scancel", str(job))
        cluster.finished(job)
        assert cluster.node_states()["n1"] == "idle"
        assert f"Docker network hpcnet-{job}: dockerd did not answer" in cluster.log("n1")
        cluster.assert_pristine()
    finally:
        cluster.root("n1", "kill", "-CONT", process)
    shown = docker("n1", "exec", "own", "ls", "/sys/class/net").stdout.split()
    assert shown == ["lo"], "its interface is gone all the same"
    cluster.root("n1", "hpcnet", "cleanup", "--min-age", "0")
    assert docker.networks("n1") == OWN_NETWORKS
    assert docker.containers("n1", "-f", "status=running") == set()


def test_a_docker_network_removed_behind_our_back_is_missing(docker: Docker) -> None:
    job = docker.cluster.hold("--network=ib,docker=yes", "-wn[1-2]")
    docker.cluster.root("n1", "docker", "network", "rm", f"hpcnet-{job}")
    found = docker.cluster.run("hpcnet", "check", user="root", on="n1", check=False)
    assert (found.returncode, found.stdout) == (1, f"job {job}: differs\n  missing  Docker network hpcnet-{job}\n")
    docker.cluster.root("ctl", "scancel", str(job))
    docker.cluster.finished(job)
    assert docker.cluster.node_states()["n1"] == "idle"


@pytest.mark.parametrize("mode", MODES)
def test_attach_by_hand(docker: Docker, mode: str) -> None:
    cluster = docker.cluster
    job = cluster.hold(f"--network=ib,docker=no,endpoints=2,mode={mode}", "-wn[1-2]")
    docker("n1", "run", "-d", "--net=none", "--name", "plain", "hpcnet-lab", "sleep", "600")
    cluster.root("n1", "ip", "netns", "add", "mine")
    try:
        words = cluster.root("n1", "hpcnet", "attach", str(job), "plain").split()
        assert words[0] == "hpc0" and "n1-1," in words
        shown = json.loads(cluster.root("n1", "hpcnet", "attach", str(job), "/run/netns/mine", "--json"))
        assert (shown["interface"], shown["known_as"]) == ("hpc0", "n1-2")
        target = _address(docker, job, "n2")
        assert docker.reaches("n1", "plain", target)
        for family in ("-4", "-6"):
            step = ("srun", f"--jobid={job}", "--overlap", "-N2", "-n2", "ping", family, "-c1", "-W2", "-q")
            cluster.run(*step, "n1-1")
            cluster.run(*step, "n1-2")
        cluster.root("n1", "ip", "netns", "exec", "mine", "ping", "-c1", "-W2", "-q", target)
        full = cluster.run("hpcnet", "attach", str(job), "plain", user="root", on="n1", check=False)
        assert full.returncode == 2 and "all 2 container addresses" in full.stderr
        assert cluster.root("n1", "hpcnet", "detach", str(job), "plain") == "removed hpc0\n"
        assert not docker.reaches("n1", "plain", target)
        again = cluster.run("hpcnet", "detach", str(job), "plain", user="root", on="n1", check=False)
        assert again.returncode == 2 and f"nothing of job {job} is attached there" in again.stderr
        unknown = cluster.run("hpcnet", "detach", "4000000", "plain", user="root", on="n1", check=False)
        assert unknown.returncode == 2 and "job 4000000 has no network on this node" in unknown.stderr
        cluster.root("n1", "hpcnet", "attach", str(job), docker.process("n1", "plain"))
        cluster.root("ctl", "scancel", str(job))
        cluster.finished(job)
        links = cluster.root("n1", "ip", "-n", "mine", "-o", "link")
        assert "hpc0" not in links, "what was attached goes with the job"
        assert docker("n1", "exec", "plain", "ls", "/sys/class/net").stdout.split() == ["lo"]
    finally:
        cluster.root("n1", "ip", "netns", "del", "mine")


def test_what_attach_refuses(docker: Docker) -> None:
    cluster = docker.cluster

    def refused(*words: str, user: str = "root") -> tuple[int, str]:
        done = cluster.run("hpcnet", "attach", *words, user=user, on="n1", check=False)
        assert done.stderr.count("\n") == 1
        return done.returncode, done.stderr

    job = cluster.hold("--network=ib", "-wn1")
    own = f"/run/netns/hpcnet-{job}"
    for words, code, message in (
        (("4000000", "1"), 2, "job 4000000 has no network on this node"),
        ((str(job), "1"), 2, "is in the node's own network"),
        ((str(job), own), 2, f"is in the network of job {job} already"),
        ((str(job), "/etc/passwd"), 2, "/etc/passwd is not a network namespace"),
        ((str(job), "/nowhere/at/all"), 2, "No such file or directory"),
        ((str(job), "unheard-of"), 2, "No such container: unheard-of"),
    ):
        assert refused(*words)[0] == code and message in refused(*words)[1]
    cluster.root("n1", "ip", "netns", "add", "mine")
    try:
        assert f"job {job} has no container addresses" in refused(str(job), "/run/netns/mine")[1]
    finally:
        cluster.root("n1", "ip", "netns", "del", "mine")
    assert refused(str(job), "1", user="alice")[0] == 3
