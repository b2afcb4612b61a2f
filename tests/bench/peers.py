# SPDX-License-Identifier: Apache-2.0
"""The ways from node n1 to node n2 of a lab that the table compares: the fabric itself, hpcnet's two, and peers'.

Each is a Way: how a command is run at its two ends, and the address of the far one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from hpcnet.lab.cluster import Lab
from hpcnet.lab.containers import IMAGE
from hpcnet.lab.layout import addresses

NEAR, FAR = "n1", "n2"
STUDY_GROUP = "239.0.0.99"


@dataclass(frozen=True)
class Way:
    """``near`` and ``far`` go before a command on n1 and n2."""

    name: str
    address: str
    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()


def ways(lab: Lab) -> Iterator[Way]:
    """All of them, made one after the other; they stay until the lab goes down."""
    host = Way("host", addresses(FAR)["ib0"])
    yield host
    yield _container(lab, "host, container", ["--net=host"], host.address)
    for mode in ("direct", "vxlan"):
        job = _job(lab, mode)
        inside = ("nsenter", f"--net=/run/netns/hpcnet-{job}", "--")
        yield Way(f"hpcnet {mode}", _address(lab, FAR, inside, "hpc0"), inside, inside)
        yield _container(lab, f"hpcnet {mode}, container", [f"--net=hpcnet-{job}"])
    yield from _overlays(lab)
    yield _study_vxlan(lab)
    yield _cni_macvlan(lab)


def _job(lab: Lab, mode: str) -> int:
    """A job of two nodes with a network, by default with a way out, and a Docker network, which sleeps."""
    network = f"--network=ib,mode={mode},docker=yes"
    argv = ["sbatch", "--parsable", "-N2", "--chdir=/tmp", "-o/dev/null", network, "--wrap=sleep 7200"]
    job = int(lab.run("login", argv, user="alice").stdout)
    published = f"/run/hpcnet/jobs/{job}/network"
    for node in (NEAR, FAR):
        _await(lab, node, ["test", "-e", published])
    return job


def _container(lab: Lab, name: str, options: list[str], address: str = "") -> Way:
    """A container of the lab's image on each node."""
    label = name.replace(", ", "-").replace(" ", "-")
    for node in (FAR, NEAR):
        lab.run(node, ["docker", "run", "-d", "--name", label, *options, IMAGE, "sleep", "7200"], timeout=120)
    # What measures is outside it, in its network only: control groups share a busy machine's processors unequally.
    near, far = (("nsenter", f"--net=/proc/{_pid(lab, node, label)}/ns/net", "--") for node in (NEAR, FAR))
    return Way(name, address or _container_address(lab, label), near, far)


def _pid(lab: Lab, node: str, label: str) -> str:
    return lab.run(node, ["docker", "inspect", "-f", "{{.State.Pid}}", label]).stdout.strip()


def _container_address(lab: Lab, label: str) -> str:
    networks = json.loads(
        lab.run(FAR, ["docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", label]).stdout
    )
    [network] = networks.values()
    found: str = network["IPAddress"]
    return found


def _overlays(lab: Lab) -> Iterator[Way]:
    """Docker swarm's overlay over the fabric: as it comes (MTU 1450), and told the fabric's MTU."""
    own = addresses(NEAR)["ib0"]
    lab.run(NEAR, ["docker", "swarm", "init", "--advertise-addr", own, "--data-path-addr", own], timeout=120)
    token = lab.run(NEAR, ["docker", "swarm", "join-token", "-q", "worker"]).stdout.strip()
    there = addresses(FAR)["ib0"]
    join = ["docker", "swarm", "join", "--token", token, "--advertise-addr", there, "--data-path-addr", there]
    lab.run(FAR, [*join, f"{own}:2377"], timeout=120)
    mtu = lab.state().fabric_mtu - 50
    for name, options in (
        ("docker overlay", []),
        ("docker overlay, large MTU", ["--opt", f"com.docker.network.driver.mtu={mtu}"]),
    ):
        network = name.replace(", ", "-").replace(" ", "-")
        create = ["docker", "network", "create", "-d", "overlay", "--attachable", *options, f"{network}-net"]
        lab.run(NEAR, create, timeout=120)
        yield _container(lab, name, [f"--net={network}-net"])


def _study_vxlan(lab: Lab) -> Way:
    """As the study of 2016 did it: multicast group, no port given, no MTU set, nothing tuned."""
    for number, node in enumerate((NEAR, FAR), 1):
        script = f"""
        ip route add 224.0.0.0/4 dev ib0
        ip link add vxlan0 type vxlan id 5001 group {STUDY_GROUP} dev ib0
        ip addr add 10.99.0.{number}/24 dev vxlan0
        ip link set vxlan0 up
        """
        lab.run(node, ["sh", "-ec", script])
    return Way("kernel VXLAN as in 2016", "10.99.0.2")


def _cni_macvlan(lab: Lab) -> Way:
    """CNI's macvlan plugin on the fabric interface."""
    for number, node in enumerate((NEAR, FAR), 1):
        ipam = {"type": "static", "addresses": [{"address": f"10.98.0.{number}/24"}]}
        conf = {"cniVersion": "1.0.0", "name": "bench", "type": "macvlan", "master": "ib0", "ipam": ipam}
        lab.run(
            node,
            [
                "env", "CNI_COMMAND=ADD", "CNI_CONTAINERID=bench", "CNI_NETNS=/run/netns/cni", "CNI_IFNAME=eth0",
                "CNI_PATH=/usr/lib/cni", "sh", "-ec", "ip netns add cni; /usr/lib/cni/macvlan",
            ],
            stdin=json.dumps(conf),
        )  # fmt: skip
    inside = ("nsenter", "--net=/run/netns/cni", "--")
    return Way("CNI macvlan", "10.98.0.2", inside, inside)


def _address(lab: Lab, node: str, inside: tuple[str, ...], device: str) -> str:
    found = lab.run(node, [*inside, "ip", "-json", "-4", "addr", "show", "dev", device]).stdout
    address: str = json.loads(found)[0]["addr_info"][0]["local"]
    return address


def _await(lab: Lab, node: str, argv: list[str], seconds: float = 60) -> None:
    late = time.monotonic() + seconds
    while lab.run(node, argv, check=False).returncode:
        if time.monotonic() > late:
            raise SystemExit(f"bench: {' '.join(argv)} on {node}: not within {seconds:.0f} s")
        time.sleep(0.1)
