# SPDX-License-Identifier: Apache-2.0
"""What an all-to-all start puts on the wire: frames, and which of them everybody gets.

    python -m tests.bench.start [--endpoints 64,1024] [--json]

Two hosts of a fabric. The first builds a job of that many nodes and sends one packet by IPv4 and one by IPv6 to
each other task; the second one's address stands for those of all other nodes. Every frame that leaves by the first
one's fabric interface is looked at. Beside it a VXLAN as the kernel makes it: a multicast group, and no node
told who has what.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hpcnet import lease as leases
from tests.bench import measure
from tests.kernel.hosts import Fabric, Host, built, job_environment, lease_of

_JOB = 17

# In the host's namespace: says "ready", counts the frames of ib0 until its input ends, prints what they were.
_COUNT = """
import collections, json, select, socket, struct, sys
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
frames.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
frames.bind(("ib0", 0))
print("ready", flush=True)
found = collections.Counter()
def kind(frame):
    ether = struct.unpack_from("!H", frame, 12)[0]
    if ether == 0x806: return "arp"
    if ether == 0x86DD and frame[20] == 58:
        return "neighbour discovery" if frame[54] in range(133, 138) else "icmp6"
    if ether == 0x86DD and frame[20] == 0: return "mld"
    return "data"
while True:
    ready = select.select([frames, sys.stdin], [], [])[0]
    if frames in ready:
        frame, (_, _, direction, *_) = frames.recvfrom(1 << 16)
        if direction != 4:  # PACKET_OUTGOING
            continue
        many = "broadcast " if frame[0] & 1 else ""
        udp = frame[12:14] == b"\\x08\\0" and frame[23] == 17
        if udp and struct.unpack_from("!H", frame, 36)[0] in (4789, 8472):
            inner = frame[50:]
            many = "broadcast " if frame[0] & 1 or inner[0] & 1 else ""
            found["job: " + many + kind(inner)] += 1
        else:
            found["fabric: " + many + kind(frame)] += 1
    elif not sys.stdin.read(1):
        break
print(json.dumps(found))
"""

# In the job's: one datagram to each address of argv.
_SEND = """
import socket, sys
refused = 0
for text in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"hello", (text, 9))
        except OSError:
            refused += 1
print(refused)
"""

_PLAIN = """
ip netns add hpcnet-{job}
ip link add vx netns hpcnet-{job} type vxlan id 5001 group 239.0.0.99 dev ib0 dstport 8472
ip -n hpcnet-{job} link set vx up
ip -n hpcnet-{job} addr add 10.128.0.{own}/16 dev vx
ip -n hpcnet-{job} addr add fd68::{own}/64 dev vx
"""


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Frames on the wire of an all-to-all start.")
    parser.add_argument("--endpoints", default="64,1024", help="tasks of the job (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"what": "frames of an all-to-all start, one task's", "endpoints": {}}
    for size in map(int, arguments.endpoints.split(",")):
        document["endpoints"][str(size)] = {
            "hpcnet vxlan": _hpcnet(size),
            "kernel VXLAN, multicast group": _plain(size),
        }
    document["machine"] = measure.machine()
    if arguments.json:
        print(json.dumps(document, indent=1))
        return 0
    for size, ways in document["endpoints"].items():
        for name, found in ways.items():
            print(
                f"{size:>5} endpoints, {name}: "
                + ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
            )
    return 0


def _hpcnet(size: int) -> dict[str, int]:
    base = IPv4Address("172.31.0.0")
    lease = lease_of(ipv4=IPv4Network((0x0A800000, 32 - leases.host_bits(size, 0))))
    environment = job_environment(lease, f"n[1-{size}]", job_id=_JOB)
    first, subnet = int(lease.ipv4.network_address), lease.ipv6.network_address
    targets = [str(IPv4Address(first + offset)) for offset in range(2, size + 1)]
    targets += [str(subnet + offset) for offset in range(2, size + 1)]
    with _fabric() as hosts:
        # The second host stands for all others; that the first one knows where they are is the fabric's matter.
        [link] = json.loads(hosts[1].run("ip", "-json", "link", "show", "ib0").stdout)
        others = [str(base + number) for number in range(2, size + 1)]
        known = [f"neigh replace {other} lladdr {link['address']} dev ib0 nud permanent\n" for other in others]
        wide = [f"addr del {base + 1}/24 dev ib0\n", f"addr add {base + 1}/16 dev ib0\n"]
        hosts[0].run("ip", "-batch", "-", text="".join(wide + known))
        for host in hosts:
            host.configure(f'[fabric]\npeers = "number"\npeers_base = "{base}"')
        return _counted(hosts[0], lambda: built(hosts, environment), targets)


def _plain(size: int) -> dict[str, int]:
    targets = [f"10.128.{offset >> 8}.{offset & 255}" for offset in range(2, size + 1)]
    targets += [f"fd68::{offset:x}" for offset in range(2, size + 1)]
    with _fabric() as hosts:

        def build() -> None:
            for own, host in enumerate(hosts, 1):
                host.run("sh", "-ec", _PLAIN.format(job=_JOB, own=own))

        return _counted(hosts[0], build, targets)


@contextlib.contextmanager
def _fabric() -> Iterator[list[Host]]:
    made = Fabric(2)
    try:
        yield made.hosts
    finally:
        made.close()


def _counted(host: Host, build: Any, targets: list[str]) -> dict[str, int]:
    """Frames from before the network is built until a while after all was sent."""
    counter = host.start_python(_COUNT)
    assert counter.stdout is not None and counter.stdin is not None
    counter.stdout.readline()
    build()
    refused = int(host.in_job(_JOB, sys.executable, "-Ic", _SEND, *targets).stdout)
    host.run("sleep", "1.5")
    found, errors = counter.communicate(timeout=30)
    if counter.returncode:
        raise SystemExit(f"bench: {errors}")
    counts: dict[str, int] = json.loads(found)
    return {**counts, "refused by the sender's kernel": refused} if refused else counts


if __name__ == "__main__":
    sys.exit(main())
