# SPDX-License-Identifier: Apache-2.0
"""The ways to the counters besides steps: agents over HTTP, ssh; who sees what by each, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from hpcnet.counters.frames import Assembler
from tests.cluster.cluster import Cluster, eventually
from tests.cluster.ssh import serving
from tests.cluster.test_prometheus import ADDRESS, TOKEN, agents, get, served
from tests.cluster.test_stats import files, interface, samplers, stats, watching

__all__ = ["agents", "served"]  # fixtures
pytestmark = pytest.mark.cluster


@pytest.fixture
def token(agents: Cluster) -> Iterator[Cluster]:
    """On the login node the token is root's and the group alice's to read."""
    script = (
        f"umask 077; echo {TOKEN} > /etc/hpcnet/token; chgrp alice /etc/hpcnet/token; chmod 640 /etc/hpcnet/token"
    )
    agents.root("login", "sh", "-c", script)
    yield agents
    agents.root("login", "rm", "/etc/hpcnet/token")


def users_seen(text: str) -> set[str]:
    return {job["user"] for job in json.loads(text)["jobs"] if any(node["interfaces"] for node in job["nodes"])}


def test_an_admin_sees_all_jobs_by_the_agents_and_nobody_else_does(token: Cluster) -> None:
    bobs = token.hold("--network=ib", "-N2", "-w", "n[1-2]", user="bob")
    alices = token.hold("--network=ib", "-w", "n2")
    for user in ("root", "alice"):  # who may read the token
        assert users_seen(stats(token, "--all", "--json", user=user).stdout) == {"alice", "bob"}
    document = json.loads(stats(token, str(bobs), "--json").stdout)
    assert interface(document, "n1")["addresses"] and interface(document, "n2")["device"] == "hpc0"
    assert users_seen(stats(token, "--json").stdout) == {"alice"}, "without --all it is one's own"
    # bob may not read it
    for words in (["--all"], [str(alices)], [str(alices), "--transport", "agent"]):
        refused = stats(token, *words, user="bob", check=False)
        assert (refused.returncode, refused.stdout) == (3, ""), refused
    assert "token_file /etc/hpcnet/token: Permission denied; admins may read it" in refused.stderr
    assert users_seen(stats(token, "--json", user="bob").stdout) == {"bob"}
    assert not samplers(token), "agents need no step"


def test_a_viewer_by_the_agents_that_is_killed_leaves_nothing(token: Cluster) -> None:
    job = token.hold("--network=ib", "-w", "n1")
    before = files(token)
    with watching(token, str(job), "--watch", "0.5", "--transport", "agent") as viewer:
        assert viewer.stdout is not None
        assert json.loads(viewer.stdout.readline())["node"] == "n1"
        token.root("login", "pkill", "-KILL", "-u", "alice", "-x", "hpcnet")
        viewer.wait(30)
    assert not token.root("login", "pgrep", "-u", "alice", check=False)
    assert files(token) == before


def test_agents_are_asked_again_and_a_node_that_is_off_is_silent(token: Cluster) -> None:
    job = token.hold("--network=ib", "-N2", "-w", "n[1-2]", user="bob")
    with watching(token, str(job), "--watch", "0.5") as viewer:
        assert viewer.stdout is not None
        lines = (json.loads(text) for text in viewer.stdout)
        token.lab.restart("agent", "n1")
        heard: dict[str, int] = {}
        for each in lines:
            heard[each["node"]] = heard.get(each["node"], 0) + bool(each.get("interfaces"))
            if heard.get("n1", 0) > 6 and heard.get("n2", 0) > 6:
                break
        token.lab.power_off("n2")
        try:
            silent = next(each for each in lines if "silent_since" in each and each["node"] == "n2")
            assert silent["job"] == job
            assert {next(lines)["node"] for _ in range(4)} == {"n1"}
        finally:
            token.reboot("n2")


def test_each_docker_container_is_there_by_its_name(token: Cluster) -> None:
    """What root and admins see of them: the job's directory knows them, dockerd is not asked for counters."""
    token.lab.configure(hpcnet={**token.lab.state().hpcnet, "offer": {"docker": True}})
    script = "docker run -d --name %s --net=$HPCNET_DOCKER_NETWORK hpcnet-lab sleep 600\n"
    script = f"srun -N1 -n1 bash -c '{script % 'web'}{script % 'db'}'; echo ready; sleep 60"
    job = token.sbatch(script, "--network=ib,docker=yes", "-w", "n1", user="bob")

    def named() -> bool:
        done = stats(token, str(job), "--json", check=False)
        if done.returncode:
            return False
        document = json.loads(done.stdout)
        [node] = document["jobs"][0]["nodes"]
        found.update({each["name"]: each for each in node["interfaces"] if each["kind"] == "container"})
        return found.keys() >= {"web", "db"}

    found: dict[str, Any] = {}
    eventually("ready", lambda: "ready" in token.output(job, user="bob"))
    eventually("both containers have names", named)
    assert {found[name]["device"] for name in ("web", "db")} == {"hpc0"}
    assert found["web"]["addresses"][0] != found["db"]["addresses"][0]
    assert found["web"]["counters"]["tx_bytes"] is not None
    url = f"http://{ADDRESS}/metrics"
    assert 'container="web"' in get(token, "n1", url, TOKEN)
    token.root("n1", "docker", "rm", "-f", "web", "db")


@pytest.fixture
def sshd(cluster: Cluster) -> Iterator[Cluster]:
    """sshd on n1, for alice, bob and root with the keys that they have on the login node."""
    with serving(cluster, ("n1",), "login", ("alice", "bob", "root")):
        yield cluster


def _started(cluster: Cluster, job: int, user: str) -> bool:
    return "started" in cluster.output(job, user=user)


def test_over_ssh_users_see_their_own_jobs_and_root_all(sshd: Cluster) -> None:
    jobs = {
        user: sshd.sbatch("srun bash -c 'echo started; exec sleep 60'", "--network=ib", "-w", "n1", user=user)
        for user in ("alice", "bob")
    }
    for user, job in jobs.items():
        eventually("its task runs", partial(_started, sshd, job, user))
    document = json.loads(stats(sshd, str(jobs["alice"]), "--json", "--transport", "ssh").stdout)
    assert interface(document, "n1")["counters"]["tx_packets"] is not None
    assert interface(document, "n1", "segment")["device"] == "hpcvx"
    everything = stats(sshd, "--json", "--transport", "ssh", user="root").stdout
    assert users_seen(everything) == {"alice", "bob"}
    refused = stats(sshd, str(jobs["bob"]), "--transport", "ssh", check=False)
    assert refused.returncode == 3 and "bob's" in refused.stderr
    # nor by the sampler itself: what ssh runs on the node
    sampler = "timeout 3 /opt/hpcnet/bin/python -I -m hpcnet sample all 1"
    seen = Assembler().feed(sshd.run("ssh", "n1", sampler, check=False).stdout.encode())
    assert {each.job_id for each in seen if each.interfaces} == {jobs["alice"]}


def test_a_viewer_by_ssh_that_is_killed_leaves_nothing(sshd: Cluster) -> None:
    job = sshd.sbatch("srun bash -c 'echo started; exec sleep 60'", "--network=ib", "-w", "n1")
    eventually("its task runs", lambda: _started(sshd, job, "alice"))
    before = files(sshd)
    with watching(sshd, str(job), "--watch", "0.5", "--transport", "ssh") as viewer:
        assert viewer.stdout is not None
        assert json.loads(viewer.stdout.readline())["node"] == "n1"
        assert samplers(sshd)
        sshd.root("login", "pkill", "-KILL", "-x", "hpcnet")
        viewer.wait(30)
    eventually("no sampler is left", lambda: not samplers(sshd), 30)
    assert files(sshd) == before
    eventually("no ssh is left", lambda: "ssh" not in sshd.root("login", "ps", "-eo", "comm").split(), 10)
