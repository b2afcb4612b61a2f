# SPDX-License-Identifier: Apache-2.0
"""What a VXLAN segment could be made with: one of each kind side by side, in turns.

    python -m tests.bench.tuning [--mtu 65520] [--offloads on|off] [--rounds 7] [--json]

Two hosts of a fabric in namespaces, with hpcnet's packet filter loaded and the segments' VNIs out of its pool, so
that every packet is looked up as a job's. Each variant differs from hpcnet's own in one thing. Three segments are
hpcnet's own: how far they are apart is chance. By what the whole machine was busy for a Gbit of a stream and for a
million small packets; ratios are to the mean of hpcnet's own in the same round.

First nobody tracks connections. Then the hosts do, as a node does that has a job with a way out (egress=host, the
default), and then with VXLAN's packets left out. Last, the uplink has two queues.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hpcnet.config import Site
from tests.bench import measure
from tests.kernel.hosts import Fabric, Host

_OFFLOADS = "tso {0} gso {0} gro {0} tx {0} rx {0} sg {0}"
_PORT = 5301
_FLOW = (sys.executable, "-m", "hpcnet.cli.flow")
_VNI = Site().pool.vni[0]

OWN = "as hpcnet"


class Variant(NamedTuple):
    """``vxlan``: more words for ip link add; ``queues``: before its type; ``macvlan``: its mode; ``then``: shell,
    in the namespace; ``host``: shell, on the host.
    """

    name: str
    vxlan: str = ""
    macvlan: str = "bridge"
    then: str = ""
    queues: str = ""
    host: str = ""


_BIG = """import socket, struct, sys
for name in sys.argv[1:]:
    sizes = b"".join(struct.pack("=HHI", 8, kind, 262144) for kind in (63, 64))  # IFLA_GSO_IPV4_MAX_SIZE, GRO
    index = socket.if_nametoindex(name)
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + sizes
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.send(struct.pack("=IHHII", 16 + len(body), 16, 5, 1, 0) + body)  # RTM_NEWLINK, REQUEST and ACK
        error = struct.unpack_from("=i", route.recv(4096), 16)[0]
    if error: sys.exit(f"{name}: error {error}")
"""
"""iproute2 of Debian 12 knows the sizes of IPv6 only, and those of IPv4 stay 64 KiB."""

_RPS = "for q in /sys/class/net/hpcvx/queues/rx-*/rps_cpus; do echo 3 > $q; done"
_XPS = "for q in 0 1; do echo $((q + 1)) > /sys/class/net/hpcvx/queues/tx-$q/xps_cpus; done"

VARIANTS = (
    Variant(OWN),
    Variant(f"{OWN}, again"),
    Variant(f"{OWN}, once more"),
    Variant("no UDP checksum (`noudpcsum`)", "noudpcsum"),
    Variant("no learning", "nolearning"),
    Variant("no GRO on the VXLAN device", then="ethtool -K hpcvx gro off"),
    Variant("source ports 32768 to 60999 (`srcport`)", "srcport 32768 60999"),
    Variant("`df set`", "df set"),
    Variant("macvlan `private` instead of `bridge`", macvlan="private"),
    Variant("macvlan `passthru`", macvlan="passthru"),
    Variant("`txqueuelen 0`", then="ip link set hpcvx txqueuelen 0; ip link set hpc0 txqueuelen 0"),
    Variant("two queues on VXLAN and macvlan", queues="numtxqueues 2 numrxqueues 2"),
    Variant("two queues, XPS: one for each processor", queues="numtxqueues 2 numrxqueues 2", then=_XPS),
    Variant("two queues, ports by `srcport`", "srcport 32768 60999", queues="numtxqueues 2 numrxqueues 2"),
    Variant("RPS on two processors", then=_RPS),
    Variant(
        "BIG TCP: IPv4 packets of 256 KiB", then="python3 /run/big.py hpcvx hpc0", host="python3 /run/big.py ib0"
    ),
)

_PARTS = {
    "nobody tracks connections": ("", VARIANTS),
    "tracked, as with egress=host": ("track", VARIANTS[:3]),
    "tracked, but VXLAN is not (notrack)": ("notrack", VARIANTS[:3]),
    "uplink of two queues": (
        "queues",
        tuple(each for each in VARIANTS if "queues" in each.name or each.name.startswith(OWN)),
    ),
}
"""What is done to the hosts before the segments are measured: each part keeps what the one before did."""

_TRACK = """
add table inet bench
add chain inet bench input { type filter hook input priority 0; }
add rule inet bench input ct state invalid counter
"""
_NOTRACK = """
add chain inet bench early { type filter hook prerouting priority -300; }
add chain inet bench out { type filter hook output priority -300; }
add rule inet bench early udp dport 4789 notrack
add rule inet bench out udp dport 4789 notrack
"""

_MAKE = """
set -e
own={own} other={other} number={number} vni={vni}
ip netns add v$number
ip link add hpcvx netns v$number mtu {mtu} {queues} \\
    type vxlan id $vni dev ib0 local 172.31.0.$own dstport 4789 {vxlan}
ip -n v$number link add link hpcvx name hpc0 address 02:42:0a:00:$number:0$own {queues} type macvlan mode {macvlan}
ip netns exec v$number sh -ec '{then}'
for device in lo hpcvx hpc0; do ip -n v$number link set $device up; done
ip -n v$number addr add 10.0.$number.$own/24 dev hpc0
bridge -n v$number fdb append 02:42:0a:00:$number:0$other dev hpcvx dst 172.31.0.$other
ip -n v$number neigh replace 10.0.$number.$other lladdr 02:42:0a:00:$number:0$other dev hpc0 nud permanent
nft add element inet hpcnet vtep "{{ $vni . 172.31.0.$other }}"
{host}
"""

_TESTS = {"one way": 0.2, "both ways, 8 streams": 0.15, "small packets": 0.15}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Variants of a VXLAN segment, by their cost.")
    parser.add_argument("--mtu", type=int, default=65520, help="of the fabric (default 65520)")
    parser.add_argument("--offloads", choices=("on", "off"), default="on", help="of the fabric's interfaces")
    parser.add_argument("--rounds", type=int, default=7, help="of each (default 7)")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="variants whose name has it, beside hpcnet's own"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    fabric = Fabric(2, arguments.mtu)
    try:
        near, far = fabric.hosts
        for host, device in ((near, "ib0"), (far, "ib0"), (fabric.switch, "p1"), (fabric.switch, "p2")):
            host.run("sh", "-c", f"ethtool -K {device} {_OFFLOADS.format(arguments.offloads)}")
        dropped = _dropped()
        document = {
            "what": "variants",
            "mtu": arguments.mtu,
            "offloads": arguments.offloads,
            "parts": _measured(near, far, arguments),
            "packets dropped by a full backlog (netdev_max_backlog)": _dropped() - dropped,
            "machine": measure.machine(),
        }
    finally:
        fabric.close()
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    return 0


def _dropped() -> int:
    """Packets that found the queue of a processor full, of the whole machine (/proc/net/softnet_stat)."""
    with open("/proc/net/softnet_stat", encoding="ascii") as file:
        return sum(int(line.split()[1], 16) for line in file)


def _measured(near: Host, far: Host, arguments: argparse.Namespace) -> dict[str, Any]:
    variants = [each for each in VARIANTS if each.name.startswith(OWN) or arguments.only in each.name]
    with _segments(near, far, variants, arguments.mtu - 50) as pairs:
        document = {}
        for part, (change, wanted) in _PARTS.items():
            for host in (near, far):
                _prepare(host, change)
            names = ["host", *(each.name for each in wanted if each.name in pairs)]
            figures = measure.in_turns({name: pairs[name] for name in names}, _TESTS, arguments.rounds)
            own = [row for name, row in figures.items() if name.startswith(OWN)]
            document[part] = {name: _row(row, own) for name, row in figures.items()}
    return document


def _prepare(host: Host, change: str) -> None:
    if change == "queues":
        host.run("nft", "delete", "table", "inet", "bench")
        host.run("ethtool", "-L", "ib0", "rx", "2", "tx", "2")
    elif change:
        host.run("nft", "-f", "-", text=_TRACK if change == "track" else _NOTRACK)


@contextlib.contextmanager
def _segments(near: Host, far: Host, variants: Sequence[Variant], mtu: int) -> Iterator[dict[str, measure.Pair]]:
    made: dict[str, measure.Pair] = {}
    try:
        made["host"] = measure.Pair(near.enter(*_FLOW), far.enter(*_FLOW), "172.31.0.2", _PORT)
        for number, variant in enumerate(variants, 11):
            words = {**variant._asdict(), "number": number, "vni": _VNI + number, "mtu": mtu}
            for own, host in enumerate((near, far), 1):
                host.write("/run/big.py", _BIG)
                host.run("sh", "-c", _MAKE.format(own=own, other=3 - own, **words))
            inside = ("ip", "netns", "exec", f"v{number}", *_FLOW)
            address, port = f"10.0.{number}.2", _PORT + number
            made[variant.name] = measure.Pair(near.enter(*inside), far.enter(*inside), address, port)
        yield made
    finally:
        for pair in made.values():
            pair.close()


_Row = dict[str, list[dict[str, float]]]


def _row(row: _Row, own: Sequence[_Row]) -> dict[str, Any]:
    """Of each test: what the processors took, and its ratio to hpcnet's own segments; how much was carried."""
    document: dict[str, Any] = {}
    for test, rounds in row.items():
        key = "kpackets" if test == "small packets" else "gbit"
        took = [each["processor"] for each in rounds]
        owns = [statistics.mean(each["processor"] for each in turn) for turn in zip(*(each[test] for each in own))]
        document[test] = {
            "processor": measure.spread(took),
            "to own": measure.ratio(took, owns),
            key: measure.spread([each[key] for each in rounds]),
        }
    return document


def show(document: dict[str, Any]) -> None:
    """For people."""
    print(f"fabric MTU {document['mtu']}, offloads {document['offloads']}; processor seconds a Gbit, or a million")
    print("small packets (ratio to hpcnet's own segments, its quartiles): less is better; what was carried")
    for part, rows in document["parts"].items():
        print(f"\n{part}")
        for name, row in rows.items():
            cells = []
            for test, found in row.items():
                took, ratio = found["processor"], found["to own"]
                carried = found["kpackets" if test == "small packets" else "gbit"]["median"]
                quartiles = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
                cells.append(f"{took['median']:7.3f} ({ratio['median']:.2f}, {quartiles}) {carried:6.1f}")
            print(f"{name:<42}{'  '.join(cells)}")
    for key, value in document.items():
        if key.startswith("packets"):
            print(f"\n{key}: {value}; {document['machine']}")


if __name__ == "__main__":
    sys.exit(main())
