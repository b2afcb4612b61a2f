# SPDX-License-Identifier: Apache-2.0
"""What a VXLAN segment could be made with: one of each kind side by side, by what a gigabit costs the processor.

    python -m tests.bench.tuning [--mtu 65520] [--offloads on|off] [--rounds 3] [--json]

Two hosts of a fabric in namespaces. Each variant differs from hpcnet's own in one thing; all are measured in turn.
The figures are what iperf3's two ends take together: seconds of processor for a Gbit of a stream, and percent of a
processor for a thousand small packets a second. They depend less than throughput on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

from hpcnet.cli import bench
from tests.bench import measure
from tests.kernel.hosts import Fabric, Host

_OFFLOADS = "tso {0} gso {0} gro {0} tx {0} rx {0} sg {0}"
_PORT = 5301


class Variant(NamedTuple):
    """``vxlan``: more words for ip link add; ``macvlan``: its mode; ``then``: shell, in the namespace."""

    name: str
    vxlan: str = ""
    macvlan: str = "bridge"
    then: str = ""


VARIANTS = (
    Variant("as hpcnet"),
    Variant("no UDP checksum", "noudpcsum"),
    Variant("no learning", "nolearning"),
    Variant("no GRO on it", then="ethtool -K hpcvx gro off"),
    Variant("source ports 32768 to 60999", "srcport 32768 60999"),
    Variant("df set", "df set"),
    Variant("macvlan private", macvlan="private"),
    Variant("macvlan passthru", macvlan="passthru"),
    Variant("txqueuelen 0", then="ip link set hpcvx txqueuelen 0; ip link set hpc0 txqueuelen 0"),
    Variant("bcqueuelen 10000", macvlan="bridge bcqueuelen 10000"),
    Variant("RPS on two processors", then="echo 3 > /sys/class/net/hpcvx/queues/rx-0/rps_cpus"),
    Variant("BIG TCP", then="ip link set hpcvx gso_max_size 262144 gro_max_size 262144; "
            "ip link set hpc0 gso_max_size 262144 gro_max_size 262144"),
)  # fmt: skip

_MAKE = """
set -e
own={own} other={other} number={number}
ip netns add v$number
ip link add hpcvx netns v$number mtu {mtu} type vxlan id $number dev ib0 local 172.31.0.$own dstport 4789 {vxlan}
ip -n v$number link add link hpcvx name hpc0 address 02:42:0a:00:$number:0$own type macvlan mode {macvlan}
ip netns exec v$number sh -ec '{then}'
for device in lo hpcvx hpc0; do ip -n v$number link set $device up; done
ip -n v$number addr add 10.0.$number.$own/24 dev hpc0
bridge -n v$number fdb append 02:42:0a:00:$number:0$other dev hpcvx dst 172.31.0.$other
ip -n v$number neigh replace 10.0.$number.$other lladdr 02:42:0a:00:$number:0$other dev hpc0 nud permanent
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Variants of a VXLAN segment, by their cost.")
    parser.add_argument("--mtu", type=int, default=65520, help="of the fabric (default 65520)")
    parser.add_argument("--offloads", choices=("on", "off"), default="on", help="of the fabric's interfaces")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    fabric = Fabric(2, arguments.mtu)
    servers: list[subprocess.Popen[str]] = []
    try:
        if arguments.offloads == "off":
            for host, ports in (
                (fabric.hosts[0], ["ib0"]),
                (fabric.hosts[1], ["ib0"]),
                (fabric.switch, ["p1", "p2"]),
            ):
                for port in ports:
                    host.run("sh", "-c", f"ethtool -K {port} {_OFFLOADS.format('off')}")
        found = _measured(fabric.hosts, arguments, servers)
    finally:
        for server in servers:
            server.kill()
            server.communicate()
        fabric.close()
    document = {"what": "variants", "mtu": arguments.mtu, "offloads": arguments.offloads, "variants": found}
    document["machine"] = measure.machine()
    if arguments.json:
        print(json.dumps(document, indent=1))
        return 0
    print(f"fabric MTU {arguments.mtu}, offloads {arguments.offloads}, load {document['machine']['load']}")
    for name, row in found.items():
        stream, packets = row["stream"], row["packets"]
        print(
            f"{name:<30}{stream['median']:8.4f} ({stream['min']:.4f}) s a Gbit"
            f"{packets['median']:9.4f} ({packets['min']:.4f}) % a kpacket/s"
        )
    return 0


def _measured(
    hosts: list[Host], arguments: argparse.Namespace, servers: list[subprocess.Popen[str]]
) -> dict[str, Any]:
    made: list[tuple[str, list[str], str, int]] = [("host", [], "172.31.0.2", _PORT)]
    for number, variant in enumerate(VARIANTS, 11):
        words = {**variant._asdict(), "number": number, "mtu": arguments.mtu - 50}
        for own, host in enumerate(hosts, 1):
            host.run("sh", "-c", _MAKE.format(own=own, other=3 - own, **words))
        made.append((variant.name, ["ip", "netns", "exec", f"v{number}"], f"10.0.{number}.2", _PORT + number))
    for _, inside, _, port in made:
        servers.append(hosts[1].start(*inside, "iperf3", "-s", "-p", str(port)))
    time.sleep(0.5)
    figures: dict[str, dict[str, list[float]]] = {name: {"stream": [], "packets": []} for name, *_ in made}
    for _ in range(arguments.rounds):
        for name, inside, address, port in made:
            command = [*inside, "iperf3", "-c", address, "-p", str(port), "-J", "-t", "1"]
            stream = bench.figures("one way", json.loads(hosts[0].run(*command).stdout))
            figures[name]["stream"].append(stream["processor"])
            answer = json.loads(hosts[0].run(*command, *bench.TESTS["small packets"]).stdout)
            used = answer["end"]["cpu_utilization_percent"]
            rate = max(bench.figures("small packets", answer)["kpackets"], 1e-3)
            figures[name]["packets"].append((used["host_total"] + used["remote_total"]) / rate)
    return {name: {kind: measure.spread(values) for kind, values in row.items()} for name, row in figures.items()}


if __name__ == "__main__":
    sys.exit(main())
