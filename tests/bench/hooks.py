# SPDX-License-Identifier: Apache-2.0
"""What the hooks cost: each a cold process, by the command that Slurm runs, beside other ways of the same work.

    python -m tests.bench.hooks [--runs 21] [--json]

In a lab of three nodes, in turns: a hook that is "exit 0"; ours for a job that did not ask; Prolog and Epilog of a
job with a network, with a way out (the default) and without; the same network by iproute2 (a shell script of plain
commands, and in batches); a macvlan by CNI's plugin, ADD and DEL; Python alone, with pyroute2, and with hpcnet's
own netlink. On the controller PrologSlurmctld, and "scontrol update".
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from hpcnet.errors import HpcnetError
from hpcnet.lab.cluster import Lab
from hpcnet.lab.layout import CONTROLLER, PREFIX, addresses
from tests.bench import measure
from tests.kernel.hosts import job_environment, lease_of

_HOOKS = f"{PREFIX}/libexec/hpcnet"
_PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_NODES = 3

# What hpcnet builds with egress=none, in iproute2's words; $1 is this node's address, the others its peers'.
_BUILD = """
set -e
own=$1; shift
ip netns add bench
ip link add bvx mtu 65470 netns bench type vxlan id 77 dev ib0 local $own dstport 4789 maxaddr 66
ip -n bench link add link bvx name b0 address 02:42:0a:09:00:01 type macvlan mode bridge
ip -n bench link set b0 alias hpcnet:bench:1:1
ip -n bench link set lo up
ip -n bench link set bvx up
ip -n bench link set b0 up
ip -n bench addr add 10.9.0.1/24 dev b0
ip -n bench addr add fd09::1/64 dev b0 nodad
number=1
for peer; do
	number=$((number + 1))
	mac=02:42:0a:09:00:0$number
	bridge -n bench fdb append $mac dev bvx dst $peer
	ip -n bench neigh replace 10.9.0.$number lladdr $mac dev b0 nud permanent
	ip -n bench neigh replace fd09::$number lladdr $mac dev b0 nud permanent
	nft add element inet hpcnet vtep "{ 77 . $peer }"
done
"""
_REMOVE = """
set -e
own=$1; shift
for peer; do nft delete element inet hpcnet vtep "{ 77 . $peer }"; done
ip -n bench link delete bvx
ip netns delete bench
"""
# The same with as few processes as iproute2 allows.
_BUILD_BATCH = """
set -e
ip netns add bench
ip link add bvx mtu 65470 netns bench type vxlan id 77 dev ib0 local $1 dstport 4789 maxaddr 66
ip -n bench -batch - <<END
link add link bvx name b0 address 02:42:0a:09:00:01 type macvlan mode bridge
link set b0 alias hpcnet:bench:1:1
link set lo up
link set bvx up
link set b0 up
addr add 10.9.0.1/24 dev b0
addr add fd09::1/64 dev b0 nodad
neigh replace 10.9.0.2 lladdr 02:42:0a:09:00:02 dev b0 nud permanent
neigh replace fd09::2 lladdr 02:42:0a:09:00:02 dev b0 nud permanent
neigh replace 10.9.0.3 lladdr 02:42:0a:09:00:03 dev b0 nud permanent
neigh replace fd09::3 lladdr 02:42:0a:09:00:03 dev b0 nud permanent
END
bridge -n bench -batch - <<END
fdb append 02:42:0a:09:00:02 dev bvx dst $2
fdb append 02:42:0a:09:00:03 dev bvx dst $3
END
nft add element inet hpcnet vtep "{ 77 . $2, 77 . $3 }"
"""
_REMOVE_BATCH = """
set -e
nft delete element inet hpcnet vtep "{ 77 . $2, 77 . $3 }"
ip -n bench link delete bvx
ip netns delete bench
"""
_CNI_CONFIGURATION = json.dumps(
    {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "macvlan",
        "master": "ib0",
        "mode": "bridge",
        "ipam": {"type": "host-local", "subnet": "10.10.0.0/24", "dataDir": "/run/bench-cni"},
    }
)
_CNI = """
set -e
export CNI_CONTAINERID=bench CNI_NETNS=/run/netns/bench CNI_IFNAME=hpc0 CNI_PATH=/usr/lib/cni CNI_COMMAND=$1
[ $1 = DEL ] || ip netns add bench
echo "$2" | /usr/lib/cni/macvlan
[ $1 = ADD ] || ip netns delete bench
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the hooks cost, in a lab of their own.")
    parser.add_argument("--runs", type=int, default=21, help="of each (default 21)")
    parser.add_argument("--json", action="store_true", help="every single time, on stdout")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs: at least 1")
    try:
        with measure.lab(nodes=_NODES) as lab:
            document = report(on_node(lab, arguments.runs), on_controller(lab, arguments.runs))
    except HpcnetError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    return 0


def on_node(lab: Lab, rounds: int) -> dict[str, Any]:
    """Times of all that a node runs."""
    nodes = [f"n{number}" for number in range(1, _NODES + 1)]
    underlays = [addresses(node)["ib0"] for node in nodes]
    node = {**_PATH, "SLURMD_NODENAME": "n1"}
    plain = {key: value for key, value in job_environment(None, "n[1-3]").items() if key != "SLURM_JOB_COMMENT"}
    inner = job_environment(lease_of(), "n[1-3]", job_id=17)
    outer = job_environment(lease_of(1, egress="host"), "n[1-3]", job_id=18)
    lab.run("n1", ["/bin/sh", "-c", "printf '#!/bin/sh\\nexit 0\\n' >/run/bench-hook; chmod 755 /run/bench-hook"])

    def hook(name: str, environment: dict[str, str], hook: str) -> dict[str, Any]:
        return {"name": name, "argv": [f"{_HOOKS}/{hook}"], "env": {**node, **environment}}

    def script(name: str, text: str, *arguments: str) -> dict[str, Any]:
        return {"name": name, "argv": ["/bin/sh", "-c", text, "sh", *arguments], "env": _PATH}

    def python(name: str, text: str) -> dict[str, Any]:
        return {"name": name, "argv": [f"{PREFIX}/bin/python", "-Ic", text], "env": _PATH}

    groups = [
        [{"name": "exit 0", "argv": ["/run/bench-hook"], "env": {**node, **plain}}],
        [hook("prolog, not asked", plain, "prolog")],
        [hook("epilog, not asked", plain, "epilog")],
        [hook("prolog", outer, "prolog"), hook("epilog", outer, "epilog")],
        [hook("prolog, egress=none", inner, "prolog"), hook("epilog, egress=none", inner, "epilog")],
        [script("ip, build", _BUILD, *underlays), script("ip, remove", _REMOVE, *underlays)],
        [
            script("ip -batch, build", _BUILD_BATCH, *underlays),
            script("ip -batch, remove", _REMOVE_BATCH, *underlays),
        ],
        [
            script("cni macvlan, ADD", _CNI, "ADD", _CNI_CONFIGURATION),
            script("cni macvlan, DEL", _CNI, "DEL", _CNI_CONFIGURATION),
        ],
        [python("python", "pass")],
        [python("python, pyroute2", "import pyroute2")],
        [python("python, hpcnet's netlink", "import hpcnet.kernel.rtnl")],
    ]
    return _timed(lab, "n1", "root", groups, rounds)


def on_controller(lab: Lab, rounds: int) -> dict[str, Any]:
    """Times of PrologSlurmctld, each for a new run of one held job, and of a "scontrol update" alone."""
    held = ["sbatch", "--parsable", "--hold", "--chdir=/tmp", "--wrap=true"]
    job = lab.run("login", held, user="alice").stdout.strip()
    environment = {**job_environment(None, "", job_id=int(job)), "SLURM_NODELIST": "n[@ROUND@]"}
    update = ["/usr/bin/scontrol", "update", f"jobid={job}", "comment=bench"]
    groups = [
        [{"name": "prolog_slurmctld", "argv": [f"{_HOOKS}/prolog_slurmctld"], "env": {**_PATH, **environment}}],
        [{"name": "scontrol update", "argv": update, "env": _PATH}],
    ]
    return _timed(lab, CONTROLLER, "slurm", groups, rounds)


def _timed(lab: Lab, host: str, user: str, groups: list[list[dict[str, Any]]], rounds: int) -> dict[str, Any]:
    work = json.dumps({"rounds": rounds, "groups": groups, "pause": measure.PAUSE})
    argv = ["/usr/bin/python3", "-Ic", measure.TIMED]
    done = lab.run(host, argv, user=user, stdin=work, timeout=60 + 10 * rounds)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def report(node: dict[str, Any], controller: dict[str, Any]) -> dict[str, Any]:
    """Medians and ratios to the peers of the same rounds."""
    times = {**node, **controller}
    # iproute2's script has no way out, as CNI's macvlan
    peers = {"prolog": ("build", "ADD"), "epilog": ("remove", "DEL")}
    ratios = {
        f"{ours}, egress=none / {peer}": measure.ratio(
            times[f"{ours}, egress=none"]["wall"], times[f"{peer}, {verbs[peer.startswith('cni')]}"]["wall"]
        )
        for ours, verbs in peers.items()
        for peer in ("ip", "ip -batch", "cni macvlan")
    }
    return {
        "what": "hooks, one cold process each",
        "milliseconds": {
            name: {"wall": measure.spread(found["wall"]), "cpu": measure.spread(found["cpu"])}
            for name, found in times.items()
        },
        "ratios": ratios,
        "not_asked_ms_more": _more(times["prolog, not asked"], times["exit 0"]),
        "pyroute2_ms_more": _more(times["python, pyroute2"], times["python, hpcnet's netlink"]),
        "aims": [_aim(times, name, 100.0) for name in ("prolog", "epilog", "prolog_slurmctld")],
        "all": times,
        "machine": measure.machine(),
    }


def _more(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    return measure.spread([ours - theirs for ours, theirs in zip(one["wall"], other["wall"])])


def _aim(times: dict[str, Any], name: str, most: float) -> dict[str, Any]:
    """Met: three of four were within it."""
    wall = measure.spread(times[name]["wall"])
    verdict = "met" if wall["high"] <= most else "met in the median only" if wall["median"] <= most else "missed"
    return {"aim": name, "most ms": most, "wall": wall, "verdict": verdict}


def show(document: dict[str, Any]) -> None:
    """For people."""
    print(f"{'ms':<28}{'median':>9}{'quartiles':>18}{'least':>9}{'processor':>11}")
    for name, found in document["milliseconds"].items():
        wall = found["wall"]
        quartiles = f"{wall['low']:.1f} to {wall['high']:.1f}"
        print(f"{name:<28}{wall['median']:>9.1f}{quartiles:>18}{wall['min']:>9.1f}{found['cpu']['median']:>11.1f}")
    for name, found in document["ratios"].items():
        print(f"{name:<36}{found['median']:>9.2f}")
    more = document["not_asked_ms_more"]
    print(f"a job that did not ask: {more['median']:.1f} ms more than a hook that is exit 0")
    print(
        f"pyroute2 instead of hpcnet's own netlink: {document['pyroute2_ms_more']['median']:.0f} ms more to start"
    )
    for each in document["aims"]:
        print(f"{each['aim']}: at most {each['most ms']:.0f} ms: {each['verdict']}")


if __name__ == "__main__":
    sys.exit(main())
