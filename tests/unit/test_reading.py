# SPDX-License-Identifier: Apache-2.0
"""What is read without netlink: fabric ports in a tree like sysfs', namespaces of one's own processes in /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcnet import names, slots
from hpcnet.counters import reading
from hpcnet.counters.model import Counters, Interface, NodeSample
from hpcnet.counters.rates import counted, moved, node_rates
from hpcnet.kernel import infiniband, procnet

PORT = {
    "state": "4: ACTIVE\n",
    "rate": "200 Gb/sec (4X HDR)\n",
    "counters/port_rcv_data": "1000\n",
    "counters/port_xmit_data": "250\n",
    "counters/port_rcv_packets": "17\n",
    "counters/port_xmit_packets": "5\n",
    "counters/port_rcv_errors": "0\n",
    "counters/port_xmit_discards": "3\n",
}


def adapter(root: Path, name: str, port: int, files: dict[str, str]) -> None:
    for file, text in files.items():
        path = root / f"class/infiniband/{name}/ports/{port}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(infiniband, "SYSFS", tmp_path)
    return tmp_path


def test_a_port_counts_words_of_four_bytes(sysfs: Path) -> None:
    adapter(sysfs, "mlx5_0", 1, PORT)
    [port] = reading.ports()
    assert (port.device, port.kind, port.state, port.speed) == ("mlx5_0/1", "port", "ACTIVE", 200_000_000_000)
    assert port.counters == Counters(4000, 1000, 17, 5, rx_errors=0, tx_dropped=3)


def test_what_a_port_does_not_tell_is_unknown_and_one_without_counters_is_none(sysfs: Path) -> None:
    adapter(sysfs, "mlx5_0", 1, {"state": "1: DOWN\n", "rate": "10 Mb/sec\n", "counters/port_rcv_data": "?\n"})
    adapter(sysfs, "rxe0", 1, {"state": "4: ACTIVE\n"})
    [port] = reading.ports()
    assert (port.state, port.speed, port.counters) == ("DOWN", None, Counters())
    assert reading.ports()[0].namespace == ""


def test_ports_of_adapters_whose_interfaces_are_another_hosts_are_not_shown(
    sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        adapter(sysfs, f"mlx5_{number}", 1, PORT)
    for name in ("mlx5_0", "mlx5_1"):
        (sysfs / f"class/infiniband/{name}/device/net").mkdir(parents=True)
    shown = sysfs / "class/infiniband/mlx5_1/device/net/ib0"
    shown.mkdir()
    assert [port.device for port in reading.ports(12)] == ["mlx5_1/1"]
    shown.rmdir()  # as a task sees it
    monkeypatch.setattr(names, "STATE_DIR", str(sysfs))
    assert [port.device for port in reading.ports(12)] == ["mlx5_0/1", "mlx5_1/1", "mlx5_2/1"]
    (sysfs / "jobs/12").mkdir(parents=True)
    (sysfs / "jobs/12/network").write_text("uid=7\nadapters=mlx5_2\nHPCNET_JOB_ID=12\n")
    assert [port.device for port in reading.ports(12)] == ["mlx5_2/1"]


def test_a_port_is_shown_apart_and_never_added(sysfs: Path) -> None:
    adapter(sysfs, "mlx5_0", 1, PORT)
    own = Interface("hpc0", "tasks", Counters(*[10] * 8))
    older = NodeSample(1, "n1", 0.0, (own, *reading.ports()), clock=0.0)
    adapter(sysfs, "mlx5_0", 1, {"counters/port_rcv_data": "2000\n"})
    newer = NodeSample(1, "n1", 1.0, (own, *reading.ports()), clock=1.0)
    found = node_rates(older, newer)
    assert found[newer.interfaces[1].key].rx_bytes == 4000
    assert (moved(older, newer).rx_bytes, counted(newer).rx_bytes) == (0, 10)


def test_own_processes_of_a_job_tell_their_namespaces_counters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree like /proc: who is in a job's network is, to this, who has its devices."""
    heads = "Inter-|   Receive\n face |bytes\n"
    lo = "    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n"
    hpc0 = "  hpc0:5000000000 40 1 2 0 0 0 0 7000 50 3 4 0 0 0 0\n"
    hpcvx = " hpcvx: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
    for process, job, devices in (("7", 12, lo), ("8", 12, lo + hpc0 + hpcvx), ("9", 13, lo), ("10", 0, hpc0)):
        (tmp_path / process / "net").mkdir(parents=True)
        text = f"A=1\0SLURM_JOB_ID={job}\0B=2\0" if job else "SLURM_JOB_IDS=12\0"
        (tmp_path / process / "environ").write_text(text)
        (tmp_path / process / "net/dev").write_text(heads + devices)
    (tmp_path / "11").mkdir()  # has just ended
    monkeypatch.setattr(procnet, "PROC", tmp_path)
    found = {each.job_id: each for each in reading.read_mine("n1")}
    assert found.keys() == {12, 13}
    tasks, segment = (each for each in found[12].interfaces if each.kind != "port")
    assert (tasks.device, tasks.kind, segment.device, segment.kind) == ("hpc0", "tasks", "hpcvx", "segment")
    assert tasks.counters == Counters(5000000000, 7000, 40, 50, 1, 3, 2, 4)
    assert (found[12].problem, found[13].interfaces) == ("", reading.ports())
    assert "no task of this job is in its network here" in found[13].problem


def test_the_real_proc() -> None:
    environment = {**os.environ, "SLURM_JOB_ID": "4000000001"}
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        assert (4000000001, process.pid) in list(procnet.processes_of_jobs())
        assert procnet.devices(process.pid)["lo"].keys() == set(Counters._fields)
        process.stdin.close()
    assert procnet.devices(process.pid) == {}


def test_a_containers_name_goes_with_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path))
    (tmp_path / "jobs/12").mkdir(parents=True)
    slots.take(12, [3], "docker abc")
    slots.describe(12, 3, "docker abc", "10.128.0.4 web")
    found = [
        Interface("hpc0", "container", addresses=("10.128.0.4/27",)),
        Interface("hpc0", "container", addresses=("10.128.0.5/27",)),
        Interface("hpc0", "tasks", addresses=("10.128.0.4/27",)),
    ]
    assert [each.name for each in reading._named(12, found)] == ["web", "", ""]
    slots.assign(12, 3, "docker def")
    assert [each.name for each in reading._named(12, found)] == ["", "", ""], "it is another container's now"
    slots.describe(12, 3, "docker def", "10.128.0.4 db")
    slots.release(12, 3)
    slots.take(12, [3], "docker def")
    assert slots.called(12) == {}
