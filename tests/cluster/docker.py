# SPDX-License-Identifier: Apache-2.0
"""The docker commands of users on the lab's nodes."""

from __future__ import annotations

import subprocess

from tests.cluster.cluster import Cluster


class Docker:
    """The cluster, and what its nodes' dockerds do."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __call__(
        self, node: str, *words: str, user: str = "alice", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """``docker WORDS`` as a user on a node."""
        return self.cluster.run("docker", *words, user=user, on=node, check=check)

    def run(self, job: int, node: str, *words: str, user: str = "alice", check: bool = True) -> str:
        """Output of a container in the job's network on a node; ``words``: its options, image and command."""
        hosts = f"type=bind,src=/run/hpcnet/jobs/{job}/hosts,dst=/etc/hosts,readonly"
        # sleep, as the first process of a container, hears no SIGTERM
        options = (f"--net=hpcnet-{job}", "--mount", hosts, "--stop-signal=KILL")
        done = self(node, "run", *options, *words, user=user, check=check)
        return (done.stdout + done.stderr).strip()

    def start(self, job: int, node: str, name: str, *command: str, user: str = "alice") -> None:
        """Start a container that stays."""
        self.run(job, node, "-d", "--name", name, "hpcnet-lab", *(command or ("sleep", "600")), user=user)

    def reaches(self, node: str, container: str, target: str, user: str = "alice") -> bool:
        """Whether a running container gets an answer to a ping."""
        ping = ("ping", "-c1", "-W2", "-q", target)
        return self(node, "exec", container, *ping, user=user, check=False).returncode == 0

    def networks(self, node: str) -> set[str]:
        """Names of dockerd's networks."""
        return set(self.cluster.root(node, "docker", "network", "ls", "--format", "{{.Name}}").split())

    def containers(self, node: str, *options: str) -> set[str]:
        """Names of containers, also of those that ended."""
        return set(self.cluster.root(node, "docker", "ps", "-a", "--format", "{{.Names}}", *options).split())

    def process(self, node: str, container: str) -> str:
        """Process id of a container, as its node counts."""
        return self.cluster.root(node, "docker", "inspect", "-f", "{{.State.Pid}}", container).strip()
