# SPDX-License-Identifier: Apache-2.0
"""The lab as a test uses it: submit as alice or bob, read a job's record and output, look at a node."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpcnet.lab.cluster import Lab, Options

NODES = ("n1", "n2", "n3")

_STATE = r"""
ip -d -o link; ip -o addr | sed 's, tentative,,'; ip route; ip -6 route
ip neigh show nud permanent; bridge fdb | sort
echo == forwarding; grep -H . /proc/sys/net/ipv4/conf/*/forwarding
echo == namespaces; ls /run/netns
echo == filter; nft list ruleset
echo == files; find /run/hpcnet
"""


def eventually(what: str, test: Callable[[], object], seconds: float = 30) -> None:
    """Wait until ``test`` is true; fail naming ``what`` when it does not become so."""
    deadline = time.monotonic() + seconds
    while True:
        begin = time.monotonic()
        if test():
            return
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        # Looking takes processor time from what is waited for, most of it where a processor is emulated.
        time.sleep(max(0.05, 3 * (time.monotonic() - begin)))


class Cluster:
    """A lab, of three nodes if nothing else is said, and what its nodes looked like before any job."""

    def __init__(self, directory: Path, nodes: Sequence[str] = NODES) -> None:
        self.lab = Lab.at(directory)
        self.nodes = nodes
        self._pristine: dict[str, str] = {}

    def up(self, options: Options | None = None) -> None:
        """Start the lab (one left by a killed test run goes first) and take the baseline."""
        self.lab.down()
        self.lab.up(options or Options(nodes=len(self.nodes), docker=True))
        self._pristine = {node: self.state(node) for node in self.nodes}

    def run(
        self, *argv: str, user: str = "alice", on: str = "login", check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, by default as alice on the login node."""
        return self.lab.run(
            on, ["sh", "-c", 'cd /tmp; exec "$@"', "sh", *argv], user=user, check=check, stdin=stdin, timeout=300
        )

    def root(self, on: str, *argv: str, check: bool = True) -> str:
        """Output of a command that root runs on a host."""
        return self.lab.run(on, list(argv), check=check, timeout=300).stdout

    def srun(self, *argv: str, user: str = "alice") -> list[str]:
        """Lines that ``srun`` with these arguments prints."""
        return self.run("srun", *argv, user=user).stdout.splitlines()

    def sbatch(self, script: str, *options: str, user: str = "alice") -> int:
        """Submit a script (its interpreter line is added); returns the job id. Output: :meth:`output`."""
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}"
        done = self.run("sbatch", "--parsable", "--output=/home/%u/%A_%a.out", *options, user=user, stdin=text)
        return int(done.stdout)

    def output(self, job: int, task: str = "4294967294", user: str = "alice") -> str:
        """What a batch job printed."""
        path = self.lab.layout.home(user) / f"{job}_{task}.out"
        return path.read_text() if path.exists() else ""

    def record(self, job: int | str) -> dict[str, str]:
        """The job record as scontrol shows it."""
        text = self.root("ctl", "scontrol", "--oneliner", "show", "job", str(job))
        return {key: value.strip() for key, value in re.findall(r"(\w+)=((?:(?! \w+=).)*)", text)}

    def words(self, job: int | str) -> str:
        """The user's comment and hpcnet's token, which Slurm from 23.02 on has a field of its own for."""
        record = self.record(job)
        return f"{record.get('Comment', '')} {record.get('Extra', '')}".strip()

    def state_of(self, job: int | str) -> str:
        """JobState of a job."""
        return self.record(job)["JobState"]

    def finished(self, job: int | str, seconds: float = 60) -> str:
        """Wait until the job has ended, with its Epilogs; returns its state."""
        active = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED"}
        eventually(f"job {job} ends", lambda: self.state_of(job) not in active, seconds)
        return self.state_of(job)

    def hold(self, *options: str, user: str = "alice", seconds: int = 60) -> int:
        """Submit a job that does nothing for a while, and wait until its script runs: all Prologs have ended."""
        job = self.sbatch(f"echo started; exec sleep {seconds}", *options, user=user)
        eventually(f"job {job} starts", lambda: "started" in self.output(job, user=user), seconds)
        return job

    def lease(self, job: int) -> dict[str, Any]:
        """The job's lease, from ``hpcnet show``."""
        shown = json.loads(self.run("hpcnet", "show", str(job), "--json").stdout)
        lease = shown["lease"]
        assert isinstance(lease, dict), shown
        return lease

    def state(self, node: str) -> str:
        """Everything of a node that a job's network could change."""
        return self.root(node, "sh", "-c", _STATE)

    def settle(self, idle: Sequence[str] | None = None, seconds: float = 90) -> None:
        """Cancel what is left and wait until every Epilog has ended and these nodes (else: all) are idle."""
        self.root("ctl", "scancel", "--user=alice", "--user=bob", check=False)
        self.root("ctl", "sh", "-c", "squeue -h -o %A | xargs -r scancel", check=False)
        nodes = idle or self.nodes
        eventually("no job is left", lambda: not self.root("ctl", "squeue", "-h"), seconds)
        eventually("they are idle", lambda: all(self.node_states()[node] == "idle" for node in nodes), seconds)

    def revive(self) -> list[str]:
        """Start slurmd again where it has ended; these nodes."""
        ended = [node for node in self.nodes if not self.root(node, "pgrep", "-x", "slurmd", check=False)]
        for node in ended:
            self.lab.restart("slurmd", node)
        return ended

    def node_states(self) -> dict[str, str]:
        """State of each node as Slurm calls it."""
        lines = self.root("ctl", "sinfo", "-hN", "-p", "batch", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def assert_pristine(self, nodes: Sequence[str] | None = None) -> None:
        """Every node is as it was when the lab came up."""
        for node in nodes or self.nodes:
            before, now = self._pristine[node].splitlines(), self.state(node).splitlines()
            changes = list(difflib.unified_diff(before, now, lineterm="", n=0))
            assert not changes, "\n".join([f"{node} is not as it was:", *changes])

    def reboot(self, node: str) -> None:
        """Boot a node again; its interfaces are new ones, so it gets a new baseline, which must be clean too."""
        self.lab.reboot(node)
        self._take_baseline(node)

    def load_filter(self, node: str) -> None:
        """After a boot with another pool in hpcnet.toml than the lab's own."""
        self.root(node, "hpcnet", "filter", "load")
        self._take_baseline(node)

    def _take_baseline(self, node: str) -> None:
        state = self.state(node)
        assert "hpcnet-" not in state and "/run/hpcnet/jobs/" not in state
        self._pristine[node] = state

    def log(self, host: str) -> str:
        """hpcnet's own log on a host."""
        return self.root(host, "cat", "/var/log/hpcnet.log")
