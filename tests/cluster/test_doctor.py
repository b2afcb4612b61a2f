# SPDX-License-Identifier: Apache-2.0
"""doctor on real hosts: all is well in a clean lab; over nodes, as a health check, without slurmctld.

What is broken on purpose is named, with what to do: Docker and what jobs leave here, the rest in
test_doctor_fabric.py and test_doctor_slurm.py.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.doctor import doctor, only, undone, wrong

pytestmark = pytest.mark.cluster

# A driver of something else, on the socket that is hpcnet agent's: Docker's plugin protocol over HTTP.
ANOTHER = """
import http.server, socketserver, sys
class Another(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"Implements": ["VolumeDriver"], "Scope": "local"}')
    def address_string(self):
        return ""
socketserver.ThreadingUnixStreamServer(sys.argv[1], Another).serve_forever()
"""


def test_all_is_well_in_a_clean_lab(cluster: Cluster) -> None:
    cluster.root("ctl", "touch", "/etc/slurm/job_submit.lua")  # an earlier test may have installed hpcnet anew
    for host, role, least in (("n1", "node", 17), ("ctl", "controller", 14), ("login", "login", 11)):
        report = doctor(cluster, host)
        assert (report["schema"], report["host"], report["roles"]) == (1, host, [role])
        assert [each for each in report["findings"] if each["status"] != "ok"] == []
        assert len(report["findings"]) >= least


def test_a_live_job_changes_nothing_and_users_get_fewer_checks(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N2", "-w", "n[1-2]")
    assert wrong(cluster, "n1") == {} and wrong(cluster, "ctl") == {}
    report = doctor(cluster, "n1", user="alice")
    left_out = {each["check"] for each in report["findings"] if each["status"] == "left out"}
    assert left_out == {"kernel", "filter", "firewall", "port", "docker", "remains"}
    assert {each["status"] for each in report["findings"]} == {"ok", "left out"}
    cluster.root("ctl", "scancel", str(job))


def test_a_configuration_that_is_none(cluster: Cluster) -> None:
    with undone(cluster, "n1", "cd /etc/hpcnet; cp -p hpcnet.toml /tmp/toml; echo '[fabrik]' >>hpcnet.toml",
                "cp -p /tmp/toml /etc/hpcnet/hpcnet.toml; rm /tmp/toml"):  # fmt: skip
        found = wrong(cluster, "n1")
    assert list(found) == ["config"] and "fabrik" in found["config"][1]


def test_docker_that_does_not_answer(cluster: Cluster) -> None:
    cluster.lab.configure(hpcnet={"offer": {"docker": True}})
    try:
        assert wrong(cluster, "n3") == {}
        cluster.lab.stop_daemon("n3", "agent")
        assert "hpcnet agent does not answer" in only(cluster, "n3", "docker", "fail")
        plugin = "/run/docker/plugins/hpcnet.sock"
        cluster.lab.run("n3", ["sh", "-c", "cat >/tmp/another"], stdin=ANOTHER)
        start = f"rm -f {plugin}; python3 /tmp/another {plugin} >/tmp/said 2>&1 & echo $! >/tmp/pid"
        begin = f"{start}; until [ -e {plugin} ]; do sleep 0.05; done"
        with undone(cluster, "n3", begin, f"kill $(cat /tmp/pid); rm /tmp/pid /tmp/said /tmp/another {plugin}"):
            said = only(cluster, "n3", "docker", "fail")
        assert "hpcnet.sock is not hpcnet's driver -> end it; systemctl enable --now hpcnet-agent" in said
        cluster.lab.stop_daemon("n3", "dockerd")
        found = [each for each in doctor(cluster, "n3")["findings"] if each["status"] == "fail"]
        assert [each["check"] for each in found] == ["docker", "docker", "remains"]
        assert "dockerd does not answer on /run/docker.sock" in found[0]["finding"]
    finally:
        cluster.lab.start_daemon("n3", "agent")
        cluster.lab.start_daemon("n3", "dockerd")
        cluster.lab.configure()


def test_what_a_dead_job_has_left(cluster: Cluster) -> None:
    leave = "mkdir /run/hpcnet/jobs/4000000; touch -d '1 hour ago' /run/hpcnet/jobs/4000000"
    with undone(cluster, "n1", leave, "hpcnet cleanup --job 4000000"):
        said = only(cluster, "n1", "remains", "warn")
    assert "job 4000000 has left /run/hpcnet/jobs/4000000" in said and "-> hpcnet cleanup --job 4000000" in said
    with undone(cluster, "n1", "ip netns add hpcnet-4000001; ip -n hpcnet-4000001 link add foreign type bridge",
                "ip netns del hpcnet-4000001"):  # fmt: skip
        assert "is not hpcnet's" in only(cluster, "n1", "remains", "fail")
    assert wrong(cluster, "n1") == {}


def test_over_nodes(cluster: Cluster) -> None:
    rsh = ("--rsh", "srun --quiet --nodes=1 --nodelist")
    change = "echo '# mine' >>/etc/hpcnet/hpcnet.toml"
    with undone(cluster, "n3", change, "sed -i '/^# mine/d' /etc/hpcnet/hpcnet.toml"):
        done = cluster.lab.run("ctl", ["hpcnet", "doctor", "--nodes", "n[2-4]", *rsh], check=False)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert lines[0] == "n2: 0 failed, 0 to look at, 18 ok"
    assert lines[1] == "n3: warn  here  its hpcnet.toml is another one than this host's"
    assert lines[3].startswith("n4: srun: error:")
    with undone(cluster, "n3", "ip link set ib0 mtu 2044", "ip link set ib0 mtu 65520"):
        done = cluster.lab.run("ctl", ["hpcnet", "doctor", "--json", "--nodes", "n[2-3]", *rsh], check=False)
    assert done.returncode == 1
    nodes = json.loads(done.stdout)["nodes"]
    assert {node: report["failed"] for node, report in nodes.items()} == {"n2": False, "n3": True}


def test_as_slurms_health_check(cluster: Cluster) -> None:
    script = str(Path(__file__).parents[2] / "examples/healthcheck.sh")

    def checked() -> str:
        """The reason of n3's state, after the health check as slurmd starts it."""
        cluster.root("n3", "env", "-i", "PATH=/usr/bin:/bin", "SLURMD_NODENAME=n3", script)
        return cluster.root("ctl", "sinfo", "-hN", "-p", "batch", "-n", "n3", "-o", "%t %E").strip()

    assert checked() == "idle none"
    try:
        with undone(cluster, "n3", "ip link set ib0 mtu 2044", "ip link set ib0 mtu 65520"):
            reason = "drain hpcnet doctor: uplink ib0 has MTU 2044, less than [fabric] mtu = 65520"
            assert " ".join(checked().split()) == reason
            cluster.root("ctl", "scontrol", "update", "nodename=n3", "state=drain", "reason=an admin's")
            assert checked() == "drain an admin's"
    finally:
        cluster.root("ctl", "scontrol", "update", "nodename=n3", "state=resume")


def test_without_slurmctld(cluster: Cluster) -> None:
    cluster.lab.stop_daemon("ctl", "slurmctld")
    try:
        with ThreadPoolExecutor() as pool:  # each waits for an answer
            on_node = pool.submit(only, cluster, "n1", "slurmctld", "warn")
            report, found = pool.submit(doctor, cluster, "ctl").result(), on_node.result()
        alone = doctor(cluster, "n1", "--local")
    finally:
        cluster.lab.start_daemon("ctl", "slurmctld")
        cluster.lab.await_idle()
    assert "slurmctld does not answer: scontrol: " in found
    assert report["roles"] == ["controller"] and report["failed"]
    assert not alone["failed"] and "slurmctld" not in {each["check"] for each in alone["findings"]}
    left_out = {each["check"] for each in alone["findings"] if each["status"] == "left out"}
    assert left_out == {"slurm.conf", "hooks", "clock", "remains"}
