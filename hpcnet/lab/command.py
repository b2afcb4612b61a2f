# SPDX-License-Identifier: Apache-2.0
"""The ``hpcnet lab`` commands."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from hpcnet.errors import HpcnetError, LabError
from hpcnet.lab import enter
from hpcnet.lab.layout import DEFAULT_DIRECTORY, LOGIN, USERS, layout
from hpcnet.lab.state import State, init_of

if TYPE_CHECKING:
    from hpcnet.lab.cluster import Lab

_DESCRIPTION = f"""\
A whole Slurm cluster on this machine: controller (ctl), login node (login) and compute nodes (n1, n2, ...),
each in namespaces of its own, with a management network (eth0) and a fabric (ib0). All its files are in
{DEFAULT_DIRECTORY} (or $HPCNET_LAB), and nothing is left after "down". Needs root. Users on its hosts:
root, {", ".join(USERS)}."""

_EXAMPLES = """\
examples:
  hpcnet lab up --nodes 4 --docker
  hpcnet lab run -- sinfo
  hpcnet lab run --user alice -- srun -N2 --network=ib hostname
  hpcnet lab run --on n2 -- ip -d link
  hpcnet lab shell --user alice
  HPCNET_LAB=/var/tmp/second hpcnet lab up      a second lab beside the first
  hpcnet lab down
"""


def main(argv: list[str]) -> int:
    """Run ``hpcnet lab ARGV``. Exit codes: 0 done, 1 not done, 2 usage; of ``run`` the command's own."""
    parser = argparse.ArgumentParser(prog="hpcnet lab", **_texts())
    _fill(parser)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.lab_action(arguments))
    except HpcnetError as error:
        print(f"hpcnet lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hpcnet lab: interrupted", file=sys.stderr)
        return 130


def _texts() -> dict[str, Any]:
    return {
        "description": _DESCRIPTION,
        "epilog": _EXAMPLES,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _fill(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="COMMAND")

    up = actions.add_parser("up", help="start the lab; returns when every node is idle")
    up.add_argument("--nodes", type=int, default=3, metavar="N", help="compute nodes n1..nN (default 3)")
    up.add_argument("--docker", action="store_true", help="dockerd on every node, with the image hpcnet-lab")
    up.add_argument(
        "--fabric",
        default="ethernet",
        metavar="KIND",
        help="ethernet (default): ib0 is a veth; infiniband: each host gets an adapter of this machine",
    )
    mtu_help = "MTU of ib0 (default 65520, with --fabric infiniband 4092)"
    up.add_argument("--fabric-mtu", type=int, metavar="BYTES", help=mtu_help)
    up.add_argument("--json", action="store_true", help="print the status when done")
    up.set_defaults(lab_action=_up)

    run = actions.add_parser("run", help="run a command on a host; its exit code is returned")
    _add_target(run)
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD", help="the command and its arguments")
    run.set_defaults(lab_action=_run)

    shell = actions.add_parser("shell", help="a login shell on a host")
    _add_target(shell)
    shell.set_defaults(lab_action=_shell)

    status = actions.add_parser("status", help="hosts, addresses and daemons; exit code 1 when no lab is up")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(lab_action=_status)

    down = actions.add_parser("down", help="end the lab and remove all of it, also a half-built one")
    down.set_defaults(lab_action=_down)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--on", default=LOGIN, metavar="HOST", help="the host (default: login)")
    parser.add_argument("--user", default="root", metavar="NAME", help="the user (default: root)")


def _lab() -> Lab:
    # Imported late: "run" is called often, and needs none of what builds a lab.
    from hpcnet.lab.cluster import Lab

    return Lab.at(verbose=True)


def _up(arguments: argparse.Namespace) -> int:
    from hpcnet.lab.cluster import Options

    for number in (signal.SIGTERM, signal.SIGHUP):
        # As Ctrl-C: what was started is taken down again.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    lab = _lab()
    if not lab.up(Options(arguments.nodes, arguments.docker, arguments.fabric_mtu, arguments.fabric)):
        print(f"lab: is up already at {lab.layout.root}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(lab.status(), indent=1))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        print("hpcnet lab run: what command? For example: hpcnet lab run -- sinfo", file=sys.stderr)
        return 2
    return _enter(arguments, argv)


def _shell(arguments: argparse.Namespace) -> int:
    return _enter(arguments, ["bash", "--login"])


def _enter(arguments: argparse.Namespace, argv: list[str]) -> int:
    if os.geteuid():
        raise LabError("entering a lab host needs root")
    try:
        state = State.load(layout().state)
    except (FileNotFoundError, NotADirectoryError):
        raise LabError(f"no lab is up at {layout().root}; start one with: hpcnet lab up") from None
    record = state.hosts.get(arguments.on)
    if record is None:
        raise LabError(f"no host {arguments.on}; hosts: {', '.join(state.hosts)}")
    init = init_of(record.keeper) if record.keeper else None
    if init is None:
        raise LabError(f"host {arguments.on} is off")
    try:
        return enter.enter(init, arguments.user, argv)
    except KeyError:
        raise LabError(f"no user {arguments.user}; users: root, {', '.join(USERS)}") from None
    except OSError as error:
        raise LabError(f"cannot enter {arguments.on}: {error.strerror}") from None


def _status(arguments: argparse.Namespace) -> int:
    status = _lab().status()
    if arguments.json:
        print(json.dumps(status, indent=1))
        return 0
    docker = ", docker" if status["docker"] else ""
    fabric = f"fabric {status['fabric']} with MTU {status['fabric_mtu']}"
    print(f"lab at {status['directory']}: {status['nodes']} nodes{docker}, {fabric}")
    for host in status["hosts"]:
        running = " ".join(d["name"] if d["alive"] else f"{d['name']}(dead)" for d in host["daemons"])
        running = running if host["pid"] else "(off)"
        print(f"{host['name']:<8}{host.get('eth0', '-'):<14}{host.get('ib0', '-'):<14}{running}".rstrip())
    return 0


def _down(arguments: argparse.Namespace) -> int:
    lab = _lab()
    if not lab.down():
        print(f"lab: none at {lab.layout.root}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
