# SPDX-License-Identifier: Apache-2.0
"""``hpcnet agent`` as Debian's Prometheus and promtool take it; only who has the token gets any."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually

pytestmark = pytest.mark.cluster

PORT = 9834
ADDRESS = f"127.0.0.1:{PORT}"
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


@pytest.fixture(scope="module")
def served(_lab: Cluster) -> Iterator[None]:
    """The agents of all nodes serve metrics."""
    _lab.lab.configure(hpcnet={"agent": {"metrics": f"0.0.0.0:{PORT}", "token_file": "/etc/hpcnet/token"}})
    try:
        for node in NODES:
            _lab.root(node, "sh", "-c", f"umask 077; echo {TOKEN} > /etc/hpcnet/token")
            _lab.lab.restart("agent", node)
            _await_agent(_lab, node)
        yield
    finally:
        _lab.lab.configure()
        for node in NODES:
            _lab.root(node, "rm", "-f", "/etc/hpcnet/token")
            _lab.lab.restart("agent", node)


@pytest.fixture
def agents(served: None, cluster: Cluster) -> Cluster:
    """The lab, whose agents serve metrics to who has the token; on the login node nobody has it."""
    return cluster


@contextmanager
def prometheus(cluster: Cluster, node: str) -> Iterator[Callable[[str], Any]]:
    """Prometheus on a node of ``agents``, scraping that node's; yields what answers a query."""
    cluster.root(node, "sh", "-c", "cat > /run/prometheus.yml <<'X'\n" + _PROMETHEUS + "\nX")
    argv = [
        "--config.file=/run/prometheus.yml",
        "--storage.tsdb.path=/run/prometheus",
        "--web.listen-address=127.0.0.1:9090",
    ]

    def ask(query: str) -> Any:
        url = "http://127.0.0.1:9090/api/v1/query?" + urllib.parse.urlencode({"query": query})
        answer = get(cluster, node, url).partition(" ")[2]
        return json.loads(answer)["data"]["result"] if answer.startswith("{") else []

    try:
        with running(cluster, node, "/usr/bin/prometheus", *argv):
            yield ask
    finally:
        cluster.root(node, "rm", "-rf", "/run/prometheus", "/run/prometheus.yml")


def test_promtool_finds_nothing_to_say(agents: Cluster) -> None:
    job = agents.hold("--network=ib", "-w", "n2")
    text = get(agents, "n2", f"http://{ADDRESS}/metrics", TOKEN).partition(" ")[2]
    assert f'slurmjobid="{job}"' in text
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
