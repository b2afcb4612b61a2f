# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run: each in its smallest form. What they measure is for people, and no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import report
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).parents[2]

SMALLEST = {
    "hooks": "--runs 1 --json",
    "launch": "--runs 1 --nodes 1 --json",
    "scale": "--sizes 2,20 --runs 1 --leases 5 --live 5 --on-disk 2 --jobs 2 --json",
    "start": "--endpoints 3 --json",
    "tuning": "--only BIG --rounds 1 --json",
}


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_and_its_tables_are_written(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"tests.bench.{name}", *SMALLEST[name].split()]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["machine"]["processors"] > 0
    (tmp_path / f"{name}.json").write_text(done.stdout)
    assert report.of_results(tmp_path)
    if name == "launch":
        assert document["updates_per_network"] == 1
        assert min(found["median"] for found in document["hooks_ms"].values()) > 10, "Slurm starts what is timed"
    if name == "start":
        ours, plain = document["endpoints"]["3"].values()
        assert {kind for kind in ours if kind.startswith("job: ")} == {"job: data"}, "nothing goes to everybody"
        assert any("job: broadcast" in kind for kind in plain), "the count sees what does"


def test_the_table_and_its_picture(tmp_path: Path) -> None:
    figures, picture = tmp_path / "table.json", tmp_path / "table.svg"
    command = [sys.executable, "-m", "tests.bench.table", "--smoke", "--json", str(figures), "--svg", str(picture)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(figures.read_text())["fabrics"]["65520"]["on"]
    assert all(row["one way"]["gbit"]["median"] > 0 for row in rows.values())
    assert list(rows) == ["host", "hpcnet direct"]
    assert picture.read_text().startswith("<svg ") and "hpcnet direct" in picture.read_text()
    assert "aims" in report.of_results(tmp_path)


def test_hpcnet_bench_measures_the_network_of_its_step(cluster: Cluster, tmp_path: Path) -> None:
    short = ("hpcnet", "bench", "--seconds", "0.2", "--rounds", "1")
    own = json.loads(cluster.run("srun", "-N2", "-n2", "--network=ib", *short, "--json").stdout)
    assert (list(own["networks"]), own["nodes"]) == (["vxlan"], ["n1", "n2"])
    measured = own["networks"]["vxlan"]
    assert measured["mtu"] == 65470
    assert all(next(iter(row.values()))["median"] > 0 for row in measured["tests"].values()), own
    wrong = cluster.run("srun", "-N1", "-n1", *short, check=False)
    assert "srun -N2 -n2 --network=ib hpcnet bench" in wrong.stderr


def test_hpcnet_bench_measures_networks_side_by_side(cluster: Cluster) -> None:
    """Each in a job of its own, all there at once on the same nodes."""
    short = ("hpcnet", "bench", "--seconds", "0.2", "--rounds", "2", "--json")
    found = json.loads(cluster.run(*short, "--networks", "host", "ib", "--nodes", "n[2-3]").stdout)
    assert (list(found["networks"]), found["nodes"]) == (["host", "ib"], ["n2", "n3"])
    assert (found["networks"]["host"]["mtu"], found["networks"]["ib"]["mtu"]) == (None, 65470)
    assert all(row["ratio"]["median"] > 0 for row in found["networks"]["ib"]["tests"].values())
    refused = cluster.run(*short, "--networks", "host", "ib,mode=none", check=False)
    assert refused.returncode != 0 and "mode" in refused.stderr
