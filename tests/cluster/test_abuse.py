# SPDX-License-Identifier: Apache-2.0
"""bob has a job on alice's nodes, and a shell on every host: what he tries at her network.

At root's programs: test_poison.py. Below Slurm, and as root of a container: tests/kernel/test_abuse.py.
Options and tokens: tests/unit/test_abuse.py.
"""

from __future__ import annotations

import re

import pytest

from tests.cluster.cluster import eventually
from tests.cluster.scene import Scene

pytestmark = pytest.mark.cluster

# argv: VNI, devices (a,b), targets (a,b): tries every way from each device to each target; prints what works
TRY = """
import errno, socket, struct, sys
vni, devices, targets = int(sys.argv[1]), sys.argv[2].split(','), sys.argv[3].split(',')
vxlan = struct.pack('!II', 0x08000000, vni << 8) + bytes.fromhex('ffffffffffff0242000000990800') + bytes(40)
def bound(device, family, kind, protocol=0):
    made = socket.socket(family, kind, protocol)
    made.settimeout(0.2)
    if device != '-':
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return made
def udp(device, family, target):
    bound(device, family, socket.SOCK_DGRAM).sendto(b'hello', (target, 9))
def forged(device, family, target):
    bound(device, family, socket.SOCK_DGRAM).sendto(vxlan, (target, 4789))
def tcp(device, family, target):
    try:
        bound(device, family, socket.SOCK_STREAM).connect((target, 9))
    except ConnectionRefusedError:
        pass  # somebody is there
def ping(device, family, target):
    made = bound(device, family, socket.SOCK_DGRAM, 1 if family == socket.AF_INET else 58)
    made.sendto((b'\\x08' if family == socket.AF_INET else b'\\x80') + bytes(7), (target, 0))
    made.recv(99)
for device in devices:
    for target in targets:
        family = socket.AF_INET6 if ':' in target else socket.AF_INET
        for way in (udp, forged, tcp, ping):
            try:
                way(device, family, target)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    print('no device', device)
            else:
                print('sent', way.__name__, device, target)
"""
# argv: a request of Docker's to hpcnet agent, over its socket; exit code 0: it is answered
AGENT = """
import socket, sys
try:
    agent = socket.socket(socket.AF_UNIX)
    agent.connect("/run/docker/plugins/hpcnet.sock")
    agent.sendall(f"POST /{sys.argv[1]} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}".encode())
    sys.exit(not agent.recv(99).startswith(b"HTTP/1.1 "))
except OSError as error:
    sys.exit(str(error))
"""
FABRIC = ["172.31.1.1", "172.31.1.2", "127.0.0.1", "172.30.1.1", "172.30.1.2"]


def test_nothing_of_a_job_can_be_bound_from_its_host(scene: Scene) -> None:
    devices = ("hpc0", "hpcvx", "hpcout", f"hpce{scene.alice}")
    argv = ("python3", "-", str(scene.lease["vni"]), ",".join(devices), ",".join([*scene.targets(), "224.0.0.1"]))
    _, said = scene.on("n1", *argv, stdin=TRY)
    assert {line for line in said.splitlines() if "no device" in line} == {f"no device {d}" for d in devices[:3]}
    # the way out's end is the one device that a host sees: its address resolves, and its filter lets nothing in
    assert not re.search("tcp|ping", said)
    _, links = scene.on("n1", "ip", "-o", "link")
    assert "hpcvx" not in links and "hpc0" not in links


def test_a_task_reaches_no_other_job_by_any_device_it_sees(scene: Scene) -> None:
    _, links = scene.task("ls", "/sys/class/net")
    assert set(links.split()) == {"lo", "hpcvx", "hpc0", "hpcout"}
    multicast = ["224.0.0.1", "ff02::1", "10.128.255.255", "255.255.255.255"]
    for targets in (scene.targets(), FABRIC, multicast):
        argv = ("python3", "-", str(scene.lease["vni"]), ",".join(["-", *links.split()]), ",".join(targets))
        _, said = scene.task(*argv, stdin=TRY)
        assert "Traceback" not in said
        if targets == scene.targets():
            assert not re.search("tcp|ping", said), said


@pytest.mark.parametrize("host", ["n1", "n3", "login"])
def test_root_of_a_user_namespace_sends_no_vxlan(scene: Scene, host: str) -> None:
    argv = ("python3", "-", str(scene.lease["vni"]), "-", "172.31.1.1,172.31.1.2")
    _, said = scene.on(host, "unshare", "--user", "--map-root-user", *argv, stdin=TRY)
    assert "sent forged" not in said
    assert "sent udp - 172.31.1.2" in said, "others pass"


def test_no_way_into_another_jobs_namespace(scene: Scene) -> None:
    pin, job, vni = f"/run/netns/hpcnet-{scene.alice}", str(scene.alice), str(scene.lease["vni"])
    as_root = ("unshare", "--user", "--map-root-user", "--mount")
    asking = ("python3", "-c", AGENT, "NetworkDriver.Join")
    assert scene.cluster.root("n1", *asking) == "", "root is answered: the agent is there"
    on_a_node: tuple[tuple[str, ...], ...] = (
        ("nsenter", f"--net={pin}", "true"),
        (*as_root, "nsenter", f"--net={pin}", "true"),
        ("nsenter", f"--net=/proc/{scene.pid}/ns/net", "true"),
        (*as_root, "nsenter", f"--net=/proc/{scene.pid}/ns/net", "true"),
        ("nsenter", f"--user=/proc/{scene.pid}/ns/user", "true"),
        (*as_root, "umount", pin),
        (*as_root, "ip", "link", "add", "x", "netns", f"hpcnet-{job}", "type", "veth"),
        ("ip", "link", "add", "x", "link", "ib0", "type", "vxlan", "id", vni),
        ("nft", "flush", "ruleset"),
        ("sh", "-c", f"echo uid=20002 > /run/hpcnet/jobs/{job}/network"),
        ("rm", "-f", f"/run/hpcnet/jobs/{job}/network"),
        ("mv", "/run/hpcnet", "/run/mine"),
        ("sh", "-c", "exec 3< /run/hpcnet/lock"),
        ("cat", f"/run/hpcnet/jobs/{job}/journal"),
        ("mkdir", "/run/hpcnet/jobs/4711"),
        ("ln", "-s", pin, "/run/netns/hpcnet-4711"),
        ("cat", f"/proc/{scene.pid}/environ"),
        ("hpcnet", "filter", "load"),
        ("hpcnet", "check", job),
        ("hpcnet", "cleanup", "--job", job, "--min-age", "0"),
        ("hpcnet", "epilog"),
        ("env", f"SLURM_JOB_ID={job}", "hpcnet", "epilog"),
        asking,
        (*as_root, *asking),
        ("rm", "-f", "/run/docker/plugins/hpcnet.sock"),
        ("hpcnet", "attach", job, str(scene.pid)),
    )
    through_slurm: tuple[tuple[str, ...], ...] = (
        ("srun", f"--jobid={job}", "--overlap", "true"),
        ("hpcnet", "exec", job, "--", "true"),
        ("env", f"SLURM_JOB_ID={job}", f"SLURM_JOBID={job}", "srun", "--overlap", "true"),
        ("scancel", job),
        ("scontrol", "update", f"jobid={job}", "comment=hpcnet:refused::x"),
        ("scontrol", "requeue", job),
    )
    for host, argv in (*(("n1", argv) for argv in on_a_node), *(("login", argv) for argv in through_slurm)):
        code, said = scene.on(host, *argv)
        assert code != 0 and "Traceback" not in said, (argv, said)


def test_a_forged_environment_leads_nowhere_else(scene: Scene) -> None:
    own = scene.task("sh", "-c", "readlink /proc/self/ns/net; echo $HPCNET_ADDRESS $HPCNET_NETNS")[1].splitlines()
    forged = {
        "HPCNET_NETNS": f"hpcnet-{scene.alice}",
        "HPCNET_JOB_ID": str(scene.alice),
        "HPCNET_ADDRESS": scene.targets()[0],
        "SPANK_HPCNET_NETNS": f"hpcnet-{scene.alice}",
        "_SLURM_SPANK_OPTION_hpcnet_state": "/tmp/forged",
        "SLURM_SPANK_hpcnet_state": "/tmp/forged",
        "SLURM_NETWORK": "ib",
        "SLURM_NODEID": "1",
        "PMIX_SERVER_URI21": "x;tcp4://127.0.0.1:6818",
        "SLURM_PMIX_MAPPING_SERV": "(vector,(0,1,1))",
    }
    words = [f"{key}={value}" for key, value in forged.items()]
    argv = (
        "srun",
        f"--jobid={scene.bob}",
        "--overlap",
        "-N1",
        "-n1",
        "-w",
        "n1",
        f"--export=ALL,{','.join(words[:3])}",
    )
    show = "readlink /proc/self/ns/net; echo $HPCNET_ADDRESS $HPCNET_NETNS"
    code, said = scene.on("login", "env", *words, *argv, "sh", "-c", show)
    assert (code, said.splitlines()) == (0, own)


def test_counters_of_others_are_the_kernels_to_show_and_hidepid_hides_them(scene: Scene) -> None:
    """SECURITY.md says it: /proc/PID/net of anybody's process is readable where a site does not hide processes."""
    path = f"/proc/{scene.pid}/net/dev"
    assert "hpc0" in scene.on("n1", "cat", path)[1]
    bob = "setpriv --reuid=20002 --regid=20002 --clear-groups"
    hide = f"mount -t proc -o hidepid=2 proc /proc && exec {bob} cat {path}"
    done = scene.cluster.lab.run("n1", ["unshare", "--mount", "sh", "-c", hide], check=False)
    assert done.returncode != 0 and "hpc0" not in done.stdout
    for argv in (("hpcnet", "stats", str(scene.alice), "--once"), ("hpcnet", "sample", str(scene.alice), "1")):
        _, said = scene.on("n1", *argv)
        assert "hpc0" not in said and "Traceback" not in said, said


def test_a_stranger_who_holds_the_namespaces_file_keeps_nothing_alive(scene: Scene) -> None:
    """Open, in a mount namespace of his own, under a lock: the Epilog passes all the same, and nothing is left."""
    cluster = scene.cluster
    job = cluster.hold("--network=ib", "-w", "n3")
    pin, files = f"/run/netns/hpcnet-{job}", f"/run/hpcnet/jobs/{job}"
    hold = (
        f"exec 3< {pin} 4< {files}/network 5< {files} 6< /run/netns; flock -s 4; flock -s 5;"
        f"echo held; cd {files}; exec sleep 300"
    )
    home = cluster.lab.layout.home("bob")
    (home / "hold.sh").write_text(f"#!/bin/bash\n{hold}\n")
    start = "setsid unshare --user --map-root-user --mount bash ~/hold.sh > ~/held 2>&1 < /dev/null &"
    scene.on("n3", "sh", "-c", start)
    eventually("bob holds it", lambda: "held" in (home / "held").read_text())
    try:
        cluster.run("scancel", str(job))
        cluster.finished(job)
        eventually("the Epilog is done", lambda: cluster.node_states()["n3"] == "idle")
        [line] = [line for line in cluster.log("n3").splitlines() if f"epilog: job {job}: removed" in line]
        assert line.endswith("exit 0")
        cluster.assert_pristine(["n3"])
        assert "would be removed" not in cluster.root("n3", "hpcnet", "cleanup", "--dry-run", "--min-age", "0")
    finally:
        cluster.root("n3", "pkill", "-u", "bob", "-x", "sleep", check=False)
