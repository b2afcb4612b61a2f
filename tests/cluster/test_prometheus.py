# SPDX-License-Identifier: Apache-2.0
"""``hpcnet agent`` scraped by Debian's Prometheus: its numbers are iperf3's; only who has the token gets any."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.cluster import Cluster, eventually
from tests.cluster.test_stats import SENDER

pytestmark = pytest.mark.cluster

ADDRESS = "127.0.0.1:9834"
TOKEN = "a-token-for-the-lab"

_PROMETHEUS = f"""
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: hpcnet
  authorization: {{credentials: {TOKEN}}}
  static_configs: [{{targets: ["{ADDRESS}"]}}]
"""


@contextmanager
def running(cluster: Cluster, node: str, *argv: str) -> Iterator[None]:
    process = subprocess.Popen(cluster.lab.command(node, argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def get(cluster: Cluster, node: str, url: str, token: str = "", user: str = "root") -> str:
    """The body of an answer, with its status in front."""
    script = (
        "import sys, urllib.error, urllib.request as u\n"
        "request = u.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]})\n"
        "try: answer = u.urlopen(request, timeout=10)\n"
        "except urllib.error.HTTPError as error: answer = error\n"
        "except OSError: print(0); sys.exit()\n"
        "print(answer.status, answer.read().decode())"
    )
    return cluster.run("/usr/bin/python3", "-I", "-c", script, url, token, on=node, user=user).stdout


def _await_agent(cluster: Cluster, node: str) -> None:
    eventually(f"the agent of {node} answers", lambda: get(cluster, node, f"http://{ADDRESS}/").startswith("404"))


@pytest.fixture
def agents(cluster: Cluster) -> Iterator[Cluster]:
    """The lab, whose agents on n1 and n2 serve metrics."""
    cluster.lab.configure(hpcnet={"agent": {"metrics": ADDRESS, "token_file": "/etc/hpcnet/token"}})
    try:
        for node in ("n1", "n2"):
            cluster.root(node, "sh", "-c", f"umask 077; echo {TOKEN} > /etc/hpcnet/token")
            cluster.lab.restart("agent", node)
            _await_agent(cluster, node)
        yield cluster
    finally:
        cluster.lab.configure()
        for node in ("n1", "n2"):
            cluster.root(node, "rm", "-f", "/etc/hpcnet/token")
            cluster.lab.restart("agent", node)


def test_prometheus_agrees_with_iperf3(agents: Cluster) -> None:
    job = agents.sbatch(SENDER, "--network=ib", "-N2", "-w", "n[1-2]")
    eventually("iperf3 has ended", lambda: "ready" in agents.output(job))
    sent = json.loads(agents.output(job).partition("ready")[0])["end"]["sum_sent"]["bytes"]
    agents.root("n2", "sh", "-c", "cat > /run/prometheus.yml <<'X'\n" + _PROMETHEUS + "\nX")
    argv = [
        "--config.file=/run/prometheus.yml",
        "--storage.tsdb.path=/run/prometheus",
        "--web.listen-address=127.0.0.1:9090",
    ]
    query = (
        f'hpcnet_interface_transmit_bytes_total{{slurmjobid="{job}",kind="tasks"}}'
        "* on (slurmjobid) group_left (user, mode) hpcnet_job_info"
    )
    url = "http://127.0.0.1:9090/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with running(agents, "n2", "/usr/bin/prometheus", *argv):
            eventually("Prometheus has scraped", lambda: '"user":"alice"' in get(agents, "n2", url))
            [series] = json.loads(get(agents, "n2", url).partition(" ")[2])["data"]["result"]
    finally:
        agents.root("n2", "rm", "-rf", "/run/prometheus", "/run/prometheus.yml")
    assert float(series["value"][1]) == pytest.approx(sent, rel=0.03)
    assert {key: series["metric"][key] for key in ("user", "mode", "node", "device")} == {
        "user": "alice",
        "mode": "vxlan",
        "node": "n2",
        "device": "hpc0",
    }
    text = get(agents, "n2", f"http://{ADDRESS}/metrics", TOKEN).partition(" ")[2]
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text.rstrip() + "\n", capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_without_the_token_there_is_no_answer(agents: Cluster) -> None:
    agents.hold("--network=ib", "-w", "n1", user="bob")
    url = f"http://{ADDRESS}/metrics"
    for token in ("", "wrong", TOKEN[:-1]):
        answer = get(agents, "n1", url, token, user="alice")
        assert answer.startswith("401 ") and "slurmjobid" not in answer
    assert "Permission denied" in agents.run("cat", "/etc/hpcnet/token", on="n1", check=False).stderr
    assert 'user="bob"' in get(agents, "n1", url, TOKEN)
