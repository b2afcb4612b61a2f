# SPDX-License-Identifier: Apache-2.0
"""One fault after another on a host, and what must hold behind each: nothing left, nobody else's touched.

Trials(host, scenario).run(fault, recovery)      the complaints, one line each
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass

from tests.faults.forks import Forks
from tests.faults.points import Fault, Point, faulted, recorded
from tests.kernel.hosts import Host

AGAIN, EPILOG, CLEANUP = "Prolog again", "Epilog twice", "cleanup"
RECOVERIES = (AGAIN, EPILOG, CLEANUP)

JOB, BESIDE = 17, 18

_INSIDE = """
ip -d addr; ip route; ip -6 route; ip neigh; bridge fdb; cd /proc/sys/net
grep . ipv4/conf/*/rp_filter ipv4/ip_forward ipv6/conf/*/accept_ra ipv6/conf/*/disable_ipv6 core/somaxconn
"""
_PASSES = re.compile(
    r"NO-CARRIER,|state [A-Z]+|@\S+|link-netns\S* \S+|valid_lft .*|(?<=^)[0-9]+:|(vxlan id \S+)(.*) dev \S+"
)
_WIPE = """
for pin in /run/netns/hpcnet-*; do umount $pin; rm -f $pin; done
for link in $(cd /sys/class/net; ls | grep ^hpc); do ip link del $link; done
while ls /sys/class/net | grep ^hpc; do sleep 0.1; done
rm -rf /run/hpcnet/jobs/* /run/hpcnet/forwarding
for name in /proc/sys/net/ipv4/conf/*/forwarding; do echo 0 > $name; done
nft flush ruleset
"""
_TRIES = 20
"""Of a point that the hook did not come to: on a busy machine the kernel lets a call begin anew, and the next ones
of its name have other numbers."""

_LOCK = re.compile(r'"/run/hpcnet(/jobs|/lock)?"|</run/hpcnet/lock>')
_SETTLES = 20
_LOST = "hpcnet: cannot come back"
_NETLINK = frozenset({"sendto", "recvfrom", "setns", "openat", "socket"})


_NOTHING: dict[str, set[str]] = {}


@dataclass(frozen=True)
class Scenario:
    """A hook of job 17, and what stands when it runs."""

    name: str
    hook: str
    environment: dict[str, str]
    before: tuple[dict[str, str], ...] = ()
    """Prologs of the job that have run."""
    beside: tuple[dict[str, str], ...] = ()
    """Of another job, which must not notice anything."""
    site: str = ""
    """hpcnet.toml"""
    docker: bool = False
    """Whether dockerd is asked: what it makes of a request that breaks off is cleanup's to find, and only that."""
    container: bool = False
    """Whether one runs in the job's Docker network."""


class Trials:
    """A host with a scenario's other job (from ``begin`` on); afterwards (``close``) without it."""

    def __init__(self, host: Host, scenario: Scenario) -> None:
        self.host, self.scenario = host, scenario
        host.configure(scenario.site, deadline=200)  # other tests may hold the kernel up
        self._forks = Forks(host)
        self.none, self.whole, self.found = _NOTHING, _NOTHING, _NOTHING

    def begin(self) -> None:
        """See what there is without the job, with it, and where the scenario's hook starts."""
        self._lay_out()
        self.none = self._settled()
        self._prolog(self.scenario.environment)
        self.whole = self._settled()
        self._epilog()
        assert self._settled(self.none) == self.none
        self.start()
        self.found = self._settled()
        self._epilog()
        self._end_container()

    def _lay_out(self) -> None:
        for environment in self.scenario.beside:
            self._prolog(environment)

    def start(self) -> None:
        """Everything as the scenario's hook finds it."""
        for environment in self.scenario.before:
            self._prolog(environment)
        if self.scenario.container:
            self.host.run(
                "docker", "run", "-d", "--name=inside", f"--net=hpcnet-{JOB}", "hpcnet-lab", "sleep", "999"
            )

    def _end_container(self) -> None:
        if self.scenario.container:
            self.host.run("docker", "rm", "-f", "inside")

    def close(self) -> None:
        """Nothing of any job."""
        self._forks.close()
        for environment in self.scenario.beside:
            assert self.host.hook("epilog", environment).returncode == 0
        self.host.configure()

    def points(self) -> list[Point]:
        """Those of the scenario's hook."""
        self.start()
        found = recorded(self._forks, self.scenario.hook, self.scenario.environment)
        self._epilog()
        self._end_container()
        return found

    def run(self, fault: Fault, recovery: str) -> list[str]:
        """What is wrong behind this fault and this recovery."""
        for _ in range(_TRIES):
            self.start()
            done, met = faulted(self._forks, self.scenario.hook, self.scenario.environment, fault)
            wrong = [] if met else [f"the hook did not come there: {done.stderr!r}"]
            if not fault.kills:
                wrong += self._told(done) + self._judged(done, fault)
            wrong += self._recovered(recovery, fault)
            self._end_container()
            if met or len(wrong) > 1:
                break
        if wrong:
            self._wipe()
        return [f"{self.scenario.name}, {fault}, {recovery}: {words}" for words in wrong]

    def _told(self, done: subprocess.CompletedProcess[str]) -> list[str]:
        """One line of words; slurmd's log has it."""
        wrong = []
        lines, ours = done.stderr.splitlines(), (f"hpcnet {self.scenario.hook}: job ", _LOST)
        if done.stdout or not all(line.startswith(ours) for line in lines):
            wrong.append(f"output {done.stdout}{done.stderr!r}")
        if "internal error" in done.stderr:
            wrong.append(f"not foreseen: {done.stderr!r}")
        if done.returncode and len(lines) != 1:
            wrong.append(f"not one line: {done.stderr!r}")
        return wrong

    def _judged(self, done: subprocess.CompletedProcess[str], fault: Fault) -> list[str]:
        """The exit code tells what there is (DESIGN: who pays)."""
        if _LOST in done.stderr:
            return []  # what it had built is the next one's to take over or to remove
        if done.returncode not in (0, 1):
            return [f"exit code {done.returncode}"]
        if self.scenario.hook == "prolog":
            wanted = self.none if done.returncode else self.whole
            if f"job {JOB}: refused: " in done.stderr:
                directory = f"/run/hpcnet/jobs/{JOB}"
                wanted = {**self.none, "files": self.none["files"] | {directory, f"{directory}/refused"}}
            state = self._settled(wanted)
            if done.returncode and _LOCK.search(fault.point.text) and state == self.found:
                return []  # without the job's lock it touches nothing, an earlier run's network neither
            return _differences(f"exit {done.returncode}, {done.stderr!r}, but", wanted, state)
        state = self._state()
        devices = [name for name in ("links", "job", "addresses", "routes") if state[name] != self.none[name]]
        if done.returncode == 0 and devices:
            return _differences(f"exit 0, {done.stderr!r}, but", self.none, state)
        if done.returncode == 1 and not devices and fault.point.call not in _NETLINK:
            return [f"exit 1, but nothing could carry traffic: {done.stderr!r}"]
        return []

    def _recovered(self, recovery: str, fault: Fault) -> list[str]:
        wrong = []
        try:
            if recovery == AGAIN:
                self._prolog(self.scenario.environment)
                self._end_container()  # if it is in the network still
                wrong += _differences("Prolog again", self.whole, self._settled(self.whole))
                self._epilog()
            elif recovery == EPILOG:
                self._epilog()
                self._epilog()
            if recovery == CLEANUP or (self.scenario.docker and "UNIX" in fault.point.text):
                self._cleanup()
        except AssertionError as error:
            return [f"{error}"]
        return wrong + _differences("left", self.none, self._settled(self.none))

    def _prolog(self, environment: dict[str, str]) -> None:
        self._hook("prolog", environment)

    def _epilog(self) -> None:
        self._hook("epilog", {"SLURM_JOB_ID": str(JOB), "SLURM_JOB_UID": "20001"})

    def _hook(self, hook: str, environment: dict[str, str]) -> None:
        done = self._forks.hook(hook, environment)
        assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), f"{hook}: {done.stderr}"

    def _cleanup(self) -> None:
        done = self._forks.run("cleanup", "--min-age", "0")
        assert done.returncode == 0, done.stdout + done.stderr

    def _state(self) -> dict[str, set[str]]:
        """Everything of the host and of the jobs' namespaces, but for what the kernel chooses."""
        inside = {
            key: f"cd /run/netns; [ ! -e {pin} ] || nsenter --net={pin} sh -c '{_INSIDE}'"
            for key, pin in (("job", f"hpcnet-{JOB}"), ("beside", f"hpcnet-{BESIDE}"))
        }
        if self.scenario.docker:
            inside["docker"] = "docker network ls --format '{{.Name}} {{.Driver}} {{.Label \"hpcnet.serial\"}}'"
        state = {key: lasting(text) for key, text in self.host.state(inside).items()}
        state["files"].discard(f"/run/hpcnet/jobs/{JOB}/slots")  # made with the first container
        return state

    def _settled(self, wanted: dict[str, set[str]] | None = None) -> dict[str, set[str]]:
        """The state, once it is as wanted, or else stays: the kernel tells of a carrier, and joins the multicast
        groups of an IPv6 address, by work that it does later.
        """
        state = self._state()
        for _ in range(_SETTLES):
            if state == wanted:
                break
            time.sleep(0.2)
            before, state = state, self._state()
            if wanted is None and state == before:
                break
        return state

    def _wipe(self) -> None:
        """So that one failure is not many."""
        self.host.run("sh", "-c", _WIPE)
        self.host.hpcnet("filter", "load")
        self._lay_out()
        left = _differences("cannot be wiped", self.none, self._settled(self.none))
        assert not left, left


def lasting(text: str) -> set[str]:
    """Lines without what differs each time: numbers of interfaces, MACs by chance, a carrier's first moment."""
    lines = {" ".join(_PASSES.sub(r"\1\2", line).split()) for line in text.splitlines()}
    return {line for line in lines if not line.startswith("link/ether") or " 02:42:" in line or " 02:68:" in line}


def _differences(what: str, wanted: dict[str, set[str]], found: dict[str, set[str]]) -> list[str]:
    parts = []
    for key, lines in wanted.items():
        parts += [f"{key}: -{line}" for line in sorted(lines - found[key])][:3]
        parts += [f"{key}: +{line}" for line in sorted(found[key] - lines)][:3]
    return [f"{what} {'; '.join(re.sub(' +', ' ', part)[:160] for part in parts)}"] if parts else []
