# SPDX-License-Identifier: Apache-2.0
"""alice's job and bob's, on the same nodes: bob means harm, and she must not notice what he tries."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from tests.cluster.cluster import Cluster, eventually

_STATE = (
    "ip -s addr | awk '/TX:/ {getline; next} 1'; ip route; ip -6 route; ip neigh; bridge fdb; nft list ruleset"
)


class Scene:
    """alice's job, with a task in its network, and bob's, both over n1 and n2."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        task = "srun sh -c 'echo $$ > /tmp/alices-task-$SLURM_NODEID; exec sleep 600' & echo started; wait"
        cluster.run("sh", "-c", "rm -f /tmp/alices-task-*", on="n1")
        self.alice = cluster.sbatch(task, "--network=ib", "-w", "n[1-2]", "-N2")
        self.bob = cluster.hold("--network=ib", "-w", "n[1-2]", "-N2", user="bob", seconds=600)
        self.lease = cluster.lease(self.alice)
        self.pid = 0
        eventually("alice's task runs", self._find_task)
        self.before = self.state()

    def _find_task(self) -> bool:
        found = self.cluster.root("n1", "sh", "-c", "cat /tmp/alices-task-0", check=False).split()
        self.pid = int(found[0]) if found else 0
        return bool(found)

    def state(self) -> list[str]:
        """alice's network on both nodes: what a packet that gets in would change, or a hand."""
        return [
            f"{node}: {line}"
            for node in ("n1", "n2")
            for line in self.cluster.root(
                node, "ip", "netns", "exec", f"hpcnet-{self.alice}", "sh", "-c", _STATE
            ).splitlines()
        ]

    def targets(self) -> list[str]:
        """alice's addresses on n1 and n2."""
        ipv4, ipv6 = IPv4Network(self.lease["ipv4"]), IPv6Network(self.lease["ipv6"])
        return [str(network[rank]) for network in (ipv4, ipv6) for rank in (1, 2)]

    def on(self, host: str, *argv: str, stdin: str = "", check: bool = False) -> tuple[int, str]:
        """Exit code and output of a command in bob's shell on a host."""
        done = self.cluster.run(*argv, user="bob", on=host, stdin=stdin, check=check)
        return done.returncode, done.stdout + done.stderr

    def task(self, *argv: str, stdin: str = "") -> tuple[int, str]:
        """The same of a task of bob's on n1."""
        return self.on(
            "login", "srun", f"--jobid={self.bob}", "--overlap", "-N1", "-n1", "-w", "n1", *argv, stdin=stdin
        )
