# SPDX-License-Identifier: Apache-2.0
"""hpcnet-tui on real jobs, typed into as a person would, beside iperf3, hpcnet stats and Prometheus."""

from __future__ import annotations

import json
import re
import signal
import time
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest
import textual

from hpcnet.lab.layout import PREFIX
from tests.cluster.cluster import Cluster, eventually
from tests.cluster.test_cleanup import bring_back, kill_steps
from tests.cluster.test_prometheus import agents, prometheus, served
from tests.cluster.test_stats import MEGABYTES, TRAFFIC, interface, samplers, stats, steps
from tests.cluster.test_transports import sshd, token
from tests.tui.terminal import Terminal, terminal

__all__ = ["agents", "served", "sshd", "terminal", "token"]  # fixtures
pytestmark = pytest.mark.cluster


def tui(cluster: Cluster, terminal: Terminal, *options: str, user: str = "alice") -> None:
    """Start hpcnet-tui in a terminal of a user on the login node."""
    # The lab's installation has what nodes need; Textual comes from beside this test.
    beside = str(Path(textual.__file__).parents[1])
    program = f"TERM=xterm-256color PYTHONPATH={beside} {PREFIX}/bin/python -m hpcnet.tui.main --interval 1"
    words = ["sh", "-c", f'cd; exec env {program} "$@"', "sh", *options]
    terminal.start(*cluster.lab.command("login", words, user))


def test_iperf3_stats_the_screens_and_prometheus_tell_the_same_bytes(agents: Cluster, terminal: Terminal) -> None:
    cluster = agents
    job = cluster.sbatch(TRAFFIC, "--network=ib", "-N2", "-w", "n[1-2]", "--chdir=/home/alice", "-A", "physics")
    go = cluster.lab.layout.home("alice") / "go"
    try:
        eventually("the job runs", lambda: cluster.state_of(job) == "RUNNING")
        tui(cluster, terminal)
        # before that, the kernel may announce the new addresses
        terminal.wait_for(lambda text: "▁▁" in row(text, job), "a history of zeros")
        go.touch()
        # 1200 Mbit/s of a link of 10 Gbit/s, where the interface tells its rate
        terminal.wait_for(lambda text: bool(re.search("▁▁[▂-█]", row(text, job))), "bars after the zeros")
        # of the links of both nodes, of which one sends
        terminal.wait_for(lambda text: share_fits(words(text, str(job)), 2 * 10e9), "the share of the links")
        eventually("iperf3 has ended", lambda: "ready" in cluster.output(job))
        sent = json.loads(cluster.output(job).partition("ready")[0])["end"]["sum_sent"]["bytes"]
        assert sent >= MEGABYTES << 20
        told = {"stats": stats_of(cluster, job), "Prometheus": prometheus_of(cluster, job)}
        piped = cluster.run(f"{PREFIX}/bin/python", "-m", "hpcnet.tui.main").stdout
        assert str(job) in piped.split(), "in a pipe it is hpcnet stats --once"
        # what the job moves stands still now; the second row is the node that sent
        terminal.press("Enter")
        terminal.wait("n1", "n2", "median", "10.128.")
        terminal.press("Down", "Enter")
        terminal.wait("node n2", "hpc0", "hpcvx", f"namespace hpcnet-{job}", "permanent", "received")
        text = terminal.wait_for(lambda text: sent_of(text) == told["stats"], "the bytes that stats tells")
        told["the screen"] = sent_of(text)
        assert told == {who: pytest.approx(sent, rel=0.03) for who in told}
        terminal.press("Escape", "Escape")
        terminal.wait("1 job ")
        cluster.root("ctl", "scancel", str(job))
        terminal.wait("0 jobs", "no job has a network now")
        terminal.press("v")
        terminal.wait("ended")
        terminal.press("q")
        terminal.wait("exit code 0")
    finally:
        go.unlink(missing_ok=True)
    cluster.finished(job)
    own = f"hpcnet sample {job}"
    eventually("no step and no sampler is left", lambda: not steps(cluster, job) and own not in samplers(cluster))


def test_an_admin_sees_everybodys_jobs_and_a_node_that_dies_goes_stale(token: Cluster, terminal: Terminal) -> None:
    cluster = token
    job = cluster.hold("--network=ib", "-N2", "-w", "n[1-2]", user="bob")
    tui(cluster, terminal, "--interval", "2")
    terminal.wait_for(lambda text: words(text, str(job))[1:2] == ["bob"], "bob's job")
    terminal.wait_for(lambda text: words(text, str(job))[5:6] not in (["-"], []), "its rates")
    cluster.lab.power_off("n2")
    off = time.monotonic()
    try:
        terminal.wait_for(lambda text: bool(words(text, "◐", str(job))), "the job has a silent node")
        assert time.monotonic() - off < 2 * 2 + 3, "two intervals, and a moment to be drawn and seen"
        terminal.press("Enter")
        terminal.wait_for(lambda text: bool(words(text, "◌", "n2")), "n2 is stale")
        # the other one goes on: behind its name are its state and its rates
        terminal.wait_for(lambda text: "-" not in ["-", *words(text, "n1")[2:4]][-1], "n1's rates")
        terminal.press("v")
        terminal.wait_for(lambda text: bool(re.search(f"warning +{job} +n2 +says nothing", text)), "n2's silence")
        terminal.press("q")
        terminal.wait("exit code 0")
    finally:
        cluster.reboot("n2")


def test_root_cleans_up_behind_a_job(sshd: Cluster, terminal: Terminal) -> None:
    """Of a node that lost its slurmd, and so ran no Epilog; by the real command, over ssh."""
    cluster = sshd
    job = cluster.hold("--network=ib", "-w", "n1", "--no-requeue")
    tui(cluster, terminal, user="root")
    terminal.wait("1 job ", "x cleanup")
    terminal.press("Enter")
    terminal.wait("n1", "median")
    cluster.lab.stop_daemon("n1", "slurmd", signal.SIGKILL)
    try:
        cluster.root("ctl", "scontrol", "update", "nodename=n1", "state=down", "reason=test")
        kill_steps(cluster, "n1", job)
        cluster.finished(job)
        # as one that ended a while ago: younger than a minute it is left alone, and a namespace has its own age
        own = f"/run/hpcnet/jobs/{job}"
        cluster.root("n1", "ip", "netns", "del", f"hpcnet-{job}")
        cluster.root("n1", "touch", "-d", "-5 minutes", own, f"{own}/journal")
        terminal.wait("This job has ended")
        terminal.press("x")
        terminal.wait(f"Remove what is left of job {job} of alice?", f"hpcnet cleanup --job {job} --nodes n1")
        terminal.press("n")
        terminal.wait("This job has ended")
        assert str(job) in cluster.root("n1", "ls", "/run/hpcnet/jobs").split()
        terminal.press("x")
        terminal.wait("Remove what is left")
        terminal.press("y")
        terminal.press("v")
        terminal.wait(f"cleanup: n1: job {job}", "removed: ", seconds=60)
        assert str(job) not in cluster.root("n1", "ls", "/run/hpcnet/jobs").split()
        terminal.press("q")
        terminal.wait("exit code 0")
    finally:
        bring_back(cluster, "n1")


def test_events_say_on_which_node_what_is_wrong_and_until_when(
    cluster: Cluster, terminal: Terminal, tmp_path: Path
) -> None:
    """The job's network on n2 is broken behind its back; its owner is told, by the step of the viewing alone."""
    job = cluster.hold("--network=ib", "-N2", "-w", "n[1-2]")
    bobs = cluster.hold("--network=ib", "-w", "n3", user="bob")
    [_, address] = ip_network(cluster.lease(job)["ipv4"]).hosts()
    ip = ("ip", "-n", f"hpcnet-{job}")

    def is_told(what: str, grade: str) -> bool:
        lines = (line for line in terminal.text().splitlines() if line[3:4] == ":" and f" {what} " in f"{line} ")
        return [line.split()[1:4] for line in lines] == [[grade, str(job), "n2"]]

    tui(cluster, terminal)
    text = terminal.wait_for(lambda text: words(text, str(job))[5:6] not in (["-"], []), "its rates")
    assert "1 job " in text and not words(text, str(bobs)) and "bob" not in text, "alice sees her own jobs alone"
    cluster.root("ctl", "scancel", str(bobs))
    terminal.press("v")
    terminal.wait("nothing wrong now")
    for wrong, right, what in (
        ("link set hpcvx down", "link set hpcvx up", "hpcvx is DOWN"),
        (
            f"addr del {address}/30 dev hpc0",
            f"addr add {address}/30 dev hpc0",
            f"hpc0 lacks its address {address}",
        ),
    ):
        cluster.root("n2", *ip, *wrong.split())
        eventually(f"{what}, on n2", partial(is_told, what, "error"))
        noted = [line for line in stats(cluster, str(job), "--once").stdout.splitlines() if what in line]
        assert {line.split()[1] for line in noted} == {"n2"}
        cluster.root("n2", *ip, *right.split())
        eventually(f"{what} is over", partial(is_told, what, "over"))
    terminal.wait("nothing wrong now")
    # neither quit nor killed it leaves anything behind, while the job goes on
    assert "hpcnet-stats" in steps(cluster, job)
    begin = time.monotonic()
    terminal.press("q")
    terminal.wait("exit code 0")
    assert time.monotonic() - begin < 3
    eventually("the step is gone", lambda: "hpcnet-stats" not in steps(cluster, job), 3)
    assert not samplers(cluster)
    assert cluster.state_of(job) == "RUNNING"
    again = Terminal(tmp_path / "again", tmp_path)
    tui(cluster, again)
    again.wait_for(lambda text: words(text, str(job))[5:6] not in (["-"], []), "its rates")
    assert "hpcnet-stats" in steps(cluster, job)
    cluster.root("login", "pkill", "-KILL", "-u", "alice", "-f", "hpcnet.tui.main")
    eventually("the step is gone", lambda: "hpcnet-stats" not in steps(cluster, job), 40)
    eventually("no sampler is left", lambda: not samplers(cluster), 10)
    again.close()


def words(text: str, *first: str) -> list[str]:
    """Of the first line that begins with these words; none when there is no such line."""
    return next((line.split() for line in text.splitlines() if line.split()[: len(first)] == [*first]), [])


def row(text: str, job: int) -> str:
    """The line of a job on the Jobs screen; empty when there is none."""
    return " ".join(words(text, str(job)))


def share_fits(cells: list[str], links: float) -> bool:
    """Whether LINK is what the rate beside it takes of the links, in bit/s; there must be one."""
    tx, share = cells[6:8] if len(cells) > 7 else ("-", "-")
    if tx[-1] != "G" or not share[:-1].isdigit():
        return False
    return int(share[:-1]) >= 5 and abs(float(tx[:-1]) * 1e9 / links - int(share[:-1]) / 100) <= 0.006


def sent_of(text: str) -> int:
    """What the Node screen says that the interface under its cursor has sent."""
    [bytes_line] = [line.split() for line in text.splitlines() if line.split()[:1] == ["bytes"]]
    return int(bytes_line[3].replace(",", ""))


def stats_of(cluster: Cluster, job: int) -> int:
    document = json.loads(stats(cluster, str(job), "--json").stdout)
    return int(interface(document, "n2")["counters"]["tx_bytes"])


def prometheus_of(cluster: Cluster, job: int) -> int:
    query = (
        f'hpcnet_interface_transmit_bytes_total{{slurmjobid="{job}",kind="tasks"}}'
        "* on (slurmjobid) group_left (user, account, mode) hpcnet_job_info"
    )
    with prometheus(cluster, "n2") as ask:
        eventually("Prometheus has scraped", lambda: ask(query))
        [series] = ask(query)
    labels = {key: series["metric"][key] for key in ("user", "account", "mode", "node", "device")}
    assert labels == {"user": "alice", "account": "physics", "mode": "vxlan", "node": "n2", "device": "hpc0"}
    return int(series["value"][1])
