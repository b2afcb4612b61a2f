# SPDX-License-Identifier: Apache-2.0
"""The text that Prometheus scrapes: what it says of samples, and that promtool finds nothing to complain of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hpcnet.counters.metrics import render
from hpcnet.counters.model import Counters, Interface, JobInfo, NodeSample

METRICS = Path(__file__).parents[2] / "docs/metrics.md"
DASHBOARD = Path(__file__).parents[2] / "etc/grafana-dashboard.json"

PORT = Interface("mlx5_0/1", "port", Counters(4, 8, 1, 2, 0, None, None, 0), speed=100_000_000_000)
SAMPLES = [
    NodeSample(
        12,
        "n1",
        100.0,
        (
            Interface("hpc0", "tasks", Counters(*range(8)), mtu=65470, speed=10_000_000_000),
            Interface("hpc0", "container", Counters(rx_bytes=2**63), name="web", namespace="net:[4026532300]"),
            PORT,
        ),
    ),
    NodeSample(13, "n1", 100.0, (Interface("hpc0", "tasks"), PORT)),
]
JOBS = [JobInfo(12, user="ada", account="physics", mode="vxlan"), JobInfo(13, user='g"r\\ace\n', mode="direct")]


def values(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = dict(line.rsplit(" ", 1) for line in lines)
    assert len(found) == len(lines)  # no series twice
    return found


def test_each_counter_stands_once_with_its_labels() -> None:
    found = values(render(SAMPLES, JOBS, "0.1.0"))
    own = '{slurmjobid="12",node="n1",device="hpc0",kind="tasks"}'
    assert found[f"hpcnet_interface_receive_bytes_total{own}"] == "0"
    assert found[f"hpcnet_interface_transmit_drop_total{own}"] == "7"
    assert found[f"hpcnet_interface_speed_bytes{own}"] == "1250000000"
    container = (
        '{slurmjobid="12",node="n1",device="hpc0",kind="container",namespace="net:[4026532300]",container="web"}'
    )
    assert found[f"hpcnet_interface_receive_bytes_total{container}"] == str(2**63)
    assert found['hpcnet_port_receive_bytes_total{node="n1",port="mlx5_0/1"}'] == "4"
    assert found["hpcnet_jobs"] == "2"
    assert found['hpcnet_job_info{slurmjobid="12",user="ada",account="physics",mode="vxlan"}'] == "1"
    assert found['hpcnet_job_info{slurmjobid="13",user="g\\"r\\\\ace\\n",account="",mode="direct"}'] == "1"


def test_what_is_not_known_has_no_line() -> None:
    text = render(SAMPLES, JOBS, "0.1.0")
    assert not re.search(r'interface_\w+\{slurmjobid="13"', text)
    assert "hpcnet_port_transmit_errs_total" not in text
    assert "None" not in text


def test_the_reference_names_what_there_is() -> None:
    table = METRICS.read_text(encoding="utf-8").partition("| metric | labels |")[2].partition("\n\n")[0]
    named: set[str] = set()
    for row in table.splitlines()[2:]:
        for name in re.findall(r"`(\w[\w.]*)`", row.split("|")[1]):
            if name.startswith("_"):  # the other way round
                name = f"hpcnet_interface{name}"
            port = name.startswith("hpcnet_port_...")
            some = [each.replace("_interface_", "_port_") for each in named if each.endswith("_total")]
            named |= set(some) if port else {name}
    every = SAMPLES[0].interfaces[0]._replace(counters=Counters(*[1] * 8))
    port = PORT._replace(counters=Counters(*[1] * 8))
    text = render([NodeSample(12, "n1", 0.0, (every, port))], JOBS, "0.1.0")
    assert {line.partition("{")[0] for line in values(text)} == named


def test_of_nothing_there_is_hardly_anything() -> None:
    assert set(values(render([], [], "0.1.0"))) == {'hpcnet_build_info{version="0.1.0"}', "hpcnet_jobs"}


def test_the_dashboard_asks_for_what_there_is() -> None:
    every = SAMPLES[0].interfaces[0]._replace(counters=Counters(*[1] * 8))
    port = PORT._replace(counters=Counters(*[1] * 8))
    there = values(render([NodeSample(12, "n1", 0.0, (every, port))], JOBS, "0.1.0"))
    metrics = {line.partition("{")[0] for line in there}
    labels = set(re.findall(r'(\w+)="', " ".join(there)))
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    asked = set(re.findall(r"hpcnet_\w+", " ".join(queries)))
    assert asked and asked <= metrics
    grouped = re.findall(r"(?:by|on|group_left) \(([^)]*)\)", " ".join(queries))
    used = {label.strip() for group in grouped for label in group.split(",")}
    used |= set(re.findall(r"(\w+)=~", " ".join(queries)))
    assert used <= labels | {"instance"}  # which Prometheus adds itself
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_of() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=render(SAMPLES, JOBS, "0.1.0"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = []
    for number, query in enumerate(queries):
        for name, value in (("$__rate_interval", "1m"), ("$job", ".*"), ("$node", ".*")):
            query = query.replace(name, value)
        rules.append({"record": f"query:{number}", "expr": query})
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
