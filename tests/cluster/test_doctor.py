# SPDX-License-Identifier: Apache-2.0
"""doctor on real hosts: all is well in a clean lab, and what is broken on purpose is named, with what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, eventually

pytestmark = pytest.mark.cluster

LIBEXEC = "/opt/hpcnet/libexec/hpcnet"
PLUGIN = "/opt/hpcnet/lib/hpcnet/hpcnet_spank.so"

Finding = tuple[str, str, str]
"""Status, finding, remedy."""


def doctor(cluster: Cluster, on: str, *options: str, user: str = "root") -> dict[str, Any]:
    """The JSON report; its exit code must say what it says."""
    done = cluster.lab.run(on, ["hpcnet", "doctor", "--json", *options], user=user, check=False)
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if report["failed"] else 0)
    assert report["failed"] == any(each["status"] == "fail" for each in report["findings"])
    assert all(each["remedy"] for each in report["findings"] if each["status"] != "ok"), report
    return report


def wrong(cluster: Cluster, on: str, *options: str) -> dict[str, Finding]:
    """By check: what is not ok on a host, of several findings the first."""
    found: dict[str, Finding] = {}
    for each in doctor(cluster, on, *options)["findings"]:
        if each["status"] not in ("ok", "left out"):
            found.setdefault(each["check"], (each["status"], each["finding"], each["remedy"]))
    return found


def only(cluster: Cluster, on: str, check: str, status: str, *options: str) -> str:
    """What the one check says that is not ok, and its remedy."""
    found = wrong(cluster, on, *options)
    assert list(found) == [check] and found[check][0] == status, found
    return f"{found[check][1]} -> {found[check][2]}"


@contextlib.contextmanager
def instead(file: Path, data: bytes) -> Iterator[None]:
    """Another content for a file, its mode as it was."""
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(before)


@contextlib.contextmanager
def undone(cluster: Cluster, on: str, command: str, undo: str) -> Iterator[None]:
    """A shell's command on a host, and another one that undoes it."""
    cluster.root(on, "sh", "-c", command)
    try:
        yield
    finally:
        cluster.root(on, "sh", "-c", undo)


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


def test_an_uplink_that_is_not_as_it_should_be(cluster: Cluster) -> None:
    address = "ip address {} 172.31.1.3/16 dev ib0"
    for breaks, mends, says in (
        (
            "ip link set ib0 mtu 2044",
            "ip link set ib0 mtu 65520",
            "ib0 has MTU 2044, less than [fabric] mtu = 65520",
        ),
        (address.format("del"), address.format("add"), "ib0 has not 172.31.1.3"),
        ("ip link set ib0 down", "ip link set ib0 up", "ib0 is down -> ip link set ib0 up"),
    ):
        with undone(cluster, "n3", breaks, mends):
            assert says in only(cluster, "n3", "uplink", "fail")
    with undone(cluster, "switch", "ip link set n3-ib0 down", "ip link set n3-ib0 up"):
        assert "ib0 has no carrier" in only(cluster, "n3", "uplink", "fail")
    eventually("ib0 has a carrier", lambda: wrong(cluster, "n3") == {})
    ready = "ip -6 -o addr show dev ib0 | grep -c tentative"
    eventually("ib0 has its IPv6 address", lambda: cluster.root("n3", "sh", "-c", ready, check=False) == "0\n")


def test_addresses_that_clash(cluster: Cluster) -> None:
    keep, back = "cp -p /etc/hosts /tmp/hosts", "cp -p /tmp/hosts /etc/hosts; rm /tmp/hosts"
    with undone(cluster, "n1", f"{keep}; sed -i s/172.31.1.3/172.31.1.2/ /etc/hosts", back):
        assert "n2 and n3 both have 172.31.1.2" in only(cluster, "n1", "addresses", "fail")
    with undone(cluster, "n1", f"{keep}; sed -i /n3-ib/d /etc/hosts", back):
        assert "node n3 has no address on the fabric -> add n3-ib to /etc/hosts" in only(
            cluster, "n1", "addresses", "fail"
        )
    with undone(cluster, "n1", "ip address add 10.128.9.9/32 dev eth0", "ip address del 10.128.9.9/32 dev eth0"):
        assert "eth0 of this host has 10.128.9.9, which is in [pool] ipv4" in only(cluster, "n1", "pools", "fail")
    with undone(cluster, "n1", "ip route add 10.129.0.0/16 dev eth0", "ip route del 10.129.0.0/16 dev eth0"):
        assert "routes 10.129.0.0/16 by eth0" in only(cluster, "n1", "pools", "warn")


def test_a_packet_filter_that_is_not_loaded_or_is_another_one(cluster: Cluster) -> None:
    for host, command, says in (
        ("n1", "nft delete table inet hpcnet", "is not loaded"),
        ("login", "nft flush chain inet hpcnet postrouting", "- udp dport 4789 meta skuid"),
    ):
        with undone(cluster, host, command, "hpcnet filter load"):
            said = only(cluster, host, "filter", "fail")
        assert says in said and "-> hpcnet filter load" in said


def test_a_firewall_in_the_way(cluster: Cluster) -> None:
    rules = "add table inet site; add chain inet site {0} {{ type filter hook {0} priority 0; policy drop; }}"
    accept = "; add rule inet site input udp dport 4789 accept"
    with undone(cluster, "n1", f"nft '{rules.format('input')}{accept}'", "nft delete table inet site"):
        # management, which is dropped too, is not hpcnet's concern
        assert "firewall" not in wrong(cluster, "n1", "--local")
    with undone(cluster, "n1", f"nft '{rules.format('input')}'", "nft delete table inet site"):
        assert "chain inet site input drops UDP 4789" in only(cluster, "n1", "firewall", "fail", "--local")
    with undone(cluster, "n1", f"nft '{rules.format('forward')}'", "nft delete table inet site"):
        assert "drops what goes out by a job's link" in only(cluster, "n1", "firewall", "warn")


def test_others_on_the_port_of_vxlan(cluster: Cluster) -> None:
    bind = 'import socket, time; s = socket.socket(2, 2); s.bind(("", 4789)); print(1, flush=True); time.sleep(60)'
    start = f"python3 -c '{bind}' >/tmp/bound 2>&1 & echo $! >/tmp/pid"
    # only where nobody holds it for the kernel
    free = "while grep -q :12B5 /proc/net/udp; do sleep 0.05; done"
    with undone(cluster, "n1", f"ip netns del hpcnet; {free}", "hpcnet filter load"):
        said = only(cluster, "n1", "port", "fail")
        assert "UDP port 4789 is not held for jobs" in said and "-> hpcnet filter load" in said
    begin = f"ip netns del hpcnet; {free}; {start}; until [ -s /tmp/bound ]; do sleep 0.05; done"
    end = f"kill $(cat /tmp/pid); rm /tmp/pid /tmp/bound; {free}; hpcnet filter load"
    with undone(cluster, "n1", begin, end):
        said = only(cluster, "n1", "port", "fail")
        assert "python3 (process" in said and "has UDP port 4789" in said
    ours = "VXLAN device vx1 in this host, VNI 6815744, which hpcnet did not make, is in [pool] vni"
    for options, status, says in (
        ("id 6815744 dev ib0", "fail", ours),
        ("external", "warn", "cannot come up: hpcnet holds UDP port 4789"),
    ):
        add = f"ip link add vx1 type vxlan {options} dstport 4789"
        with undone(cluster, "n1", add, "ip link del vx1"):
            assert says in only(cluster, "n1", "port", status)
    hidden = "ip netns add x; ip link add vx2 netns x type vxlan id 6815745 dstport 4789 dev ib0"
    with undone(cluster, "n1", hidden, "ip netns del x"):
        assert "VXLAN device vx2 in net:[" in only(cluster, "n1", "port", "fail")
    with undone(cluster, "n1", "ip link add vx1 type vxlan id 42 dstport 4789 dev ib0", "ip link del vx1"):
        assert wrong(cluster, "n1") == {}


def test_a_slurm_conf_that_lacks_what_hpcnet_needs(cluster: Cluster) -> None:
    changed = {"PrologFlags": None, "PrologEpilogTimeout": "60", "JobSubmitPlugins": None, "Licenses": None}
    changed |= {"Epilog": "/bin/true", "PrologSlurmctld": None, "Prolog": "/opt/site/prolog"}
    cluster.lab.configure(slurm=changed)
    try:
        report = doctor(cluster, "n1")["findings"]
        settings = "\n".join(each["finding"] for each in report if each["check"] == "slurm.conf")
        hooks = {each["finding"]: each["status"] for each in report if each["check"] == "hooks"}
        on_login = wrong(cluster, "login")
        assert cluster.lab.run("ctl", ["hpcnet", "doctor"], check=False).returncode == 1
    finally:
        cluster.lab.configure()
    for part in ("no Alloc", "hooks may take 65 s", "has no lua", "no such licence", "PrologSlurmctld is not set"):
        assert part in settings
    assert hooks == {
        "Prolog=/opt/site/prolog cannot be run on this host": "fail",
        "Epilog=/bin/true says nothing of hpcnet": "warn",
    }
    assert list(on_login) == ["slurm.conf"]


def test_a_job_submit_lua_that_does_not_call_hpcnets(cluster: Cluster) -> None:
    script = cluster.lab.layout.host("ctl") / "etc/slurm/job_submit.lua"
    with instead(script, b"function slurm_job_submit() return slurm.SUCCESS end\n"):
        assert "job_submit.lua says nothing of hpcnet" in only(cluster, "ctl", "hooks", "fail")
    with instead(script, script.read_bytes() + b"function slurm_job_modify() return slurm.SUCCESS end\n"):
        assert "a slurm_job_modify of its own" in only(cluster, "ctl", "hooks", "fail")
    installed = cluster.lab.layout.prefix / "share/hpcnet/job_submit.lua"
    later = "touch -d '+1 minute' /opt/hpcnet/share/hpcnet/job_submit.lua"
    with undone(
        cluster, "ctl", later, "touch /opt/hpcnet/share/hpcnet/job_submit.lua; touch /etc/slurm/job_submit.lua"
    ):
        assert "-> touch /etc/slurm/job_submit.lua" in only(cluster, "ctl", "hooks", "warn")
    with instead(script, installed.read_bytes() + b"-- older\n"):
        assert "of another version" in only(cluster, "ctl", "hooks", "warn")
    assert wrong(cluster, "ctl") == {}


def test_a_plugin_for_another_release_of_another_version_or_none(cluster: Cluster) -> None:
    file = cluster.lab.layout.prefix / PLUGIN.removeprefix("/opt/hpcnet/")
    data = file.read_bytes()
    built = (22 << 16 | 5 << 8 | 8).to_bytes(4, "little")
    assert data.count(built) == 1 and data.count(b"0.1.0\0") == 1
    with instead(file, data.replace(built, (23 << 16 | 11 << 8).to_bytes(4, "little"))):
        assert "built for Slurm 23.11, and Slurm here is 22.05" in only(cluster, "login", "plugin", "fail")
    with instead(file, data.replace(b"0.1.0\0", b"0.0.9\0")):
        assert "is of hpcnet 0.0.9" in only(cluster, "n1", "plugin", "warn")
    with instead(file, b"#!/bin/sh\n"):
        assert "is no SPANK plugin" in only(cluster, "n1", "plugin", "fail")
    stack = cluster.lab.layout.host("n2") / "etc/slurm/plugstack.conf"
    with instead(stack, f"optional {PLUGIN}\n".encode()):
        assert "is optional" in only(cluster, "n2", "plugin", "fail")
    with instead(stack, b"# none\n"):
        assert "does not name hpcnet_spank.so" in only(cluster, "n2", "plugin", "fail")
    with instead(stack, b"required /opt/site/hpcnet_spank.so\n"):
        assert "No such file" in only(cluster, "n2", "plugin", "fail")


def test_a_clock_that_is_wrong(cluster: Cluster) -> None:
    # One machine has one clock: slurmctld's answer is changed on its way.
    script = "#!/bin/sh\n/usr/bin/scontrol \"$@\" | awk '/^Configuration data as of/ { $NF += 600 } { print }'\n"
    cluster.lab.run("n1", ["sh", "-c", "mkdir /tmp/wrong; cat >/tmp/wrong/scontrol; chmod +x /tmp/wrong/scontrol"],
                    stdin=script)  # fmt: skip
    command = "PATH=/tmp/wrong:$PATH; hpcnet doctor; code=$?; rm -r /tmp/wrong; exit $code"
    done = cluster.lab.run("n1", ["sh", "-c", command], check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 1
    assert "this host's clock is behind slurmctld's by" in line and "clock" in line


def test_files_that_others_can_change(cluster: Cluster) -> None:
    for path, mode, check in (
        (f"{LIBEXEC}/prolog", "0757", "programs"),
        ("/opt/hpcnet/lib", "0777", "programs"),
        ("/etc/hpcnet/hpcnet.toml", "0666", "programs"),
        ("/run/hpcnet", "0777", "state"),
    ):
        before = cluster.root("n1", "stat", "-c", "%a", path).strip()
        with undone(cluster, "n1", f"chmod {mode} {path}", f"chmod {before} {path}"):
            said = only(cluster, "n1", check, "fail", "--local")
        assert f"{path} has mode {mode}: others than its owner can change it -> chmod go-w {path}" in said


def test_a_hook_that_cannot_be_run(cluster: Cluster) -> None:
    with undone(cluster, "n1", f"chmod a-x {LIBEXEC}/epilog", f"chmod a+x {LIBEXEC}/epilog"):
        assert f"Epilog={LIBEXEC}/epilog cannot be run" in only(cluster, "n1", "hooks", "fail")


def test_a_lease_store_that_is_not_slurms_or_is_damaged(cluster: Cluster) -> None:
    store = "/var/spool/slurmctld/other/hpcnet.sqlite"
    cluster.root("ctl", "install", "-d", "-o", "slurm", "-m", "0700", "/var/spool/slurmctld/other")
    cluster.lab.configure(hpcnet={"pool": {"store": store}})
    try:
        assert wrong(cluster, "ctl") == {}
        cluster.root(
            "ctl", "sh", "-c", f"head -c 9000 /dev/zero >{store}; chown slurm {store}; chmod 0600 {store}"
        )
        assert "lease store" in only(cluster, "ctl", "leases", "fail")
        cluster.root("ctl", "rm", store)
        with undone(
            cluster, "ctl", "chown root /var/spool/slurmctld/other", "chown slurm /var/spool/slurmctld/other"
        ):
            assert "not to SlurmUser slurm" in only(cluster, "ctl", "store", "fail")
        with undone(cluster, "ctl", "chown root /var/log/hpcnet.log", "chown slurm /var/log/hpcnet.log"):
            assert "is not SlurmUser slurm's to write" in only(cluster, "ctl", "log", "warn")
        cluster.root("ctl", "rmdir", "/var/spool/slurmctld/other")
        assert "no job gets a lease" in only(cluster, "ctl", "store", "fail")
    finally:
        cluster.lab.configure()


def test_docker_that_does_not_answer(cluster: Cluster) -> None:
    cluster.lab.configure(hpcnet={"offer": {"docker": True}})
    try:
        assert wrong(cluster, "n3") == {}
        cluster.lab.stop_daemon("n3", "agent")
        assert "hpcnet agent does not answer" in only(cluster, "n3", "docker", "fail")
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
