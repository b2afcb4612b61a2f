# SPDX-License-Identifier: Apache-2.0
"""The parser of the commands that people type, and their exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address

from hpcnet import __version__, names, reap
from hpcnet.cli import bench, cleanup, entering, networks, node, nodes, planning, stats
from hpcnet.counters.transports import AUTO, TRANSPORTS
from hpcnet.errors import HpcnetError, UserError

_EXIT_CODES = """\
exit codes:
  0  done; for check: nothing differs
  1  check found a difference; show found no network of that job; stats found no counters of it; cleanup could
     not remove something; doctor found what fails
  2  the command line or the --network option is wrong
  3  the site or the node stands in the way: configuration, slurmctld, the kernel
  exec: that of the command it ran

also:
  hpcnet lab ...                      a whole cluster on this machine, to try things (hpcnet lab --help)
  hpcnet prolog | epilog | prolog-slurmctld | epilog-slurmctld
                                      the hooks; Slurm calls them
"""

_PLAN = """\
examples:
  hpcnet plan --network ib --nodes 'n[1-4]'
  hpcnet plan --network ib,mtu=9000,endpoints=4 --nodes 'n[1-4]' --node n2
  hpcnet plan --network ib --nodes n1,n7 --json
"""

_LIST = """\
examples:
  hpcnet list
  hpcnet list --all --json
"""

_SHOW = """\
examples:
  hpcnet show 1234
  hpcnet show 1234_5      task 5 of an array
  hpcnet show 1234 --json
"""

_STATS = """\
Rates are bits per second, totals bytes, of the job's own interfaces; "-" is what is not known. Without --once,
--watch and --json it shows a table that changes, on a terminal, until you press Ctrl-C or the job ends.

Where it reads, by --transport:
  srun    a step of the job (sacct shows it as hpcnet-stats): the job owner's and root's to use
  agent   the agents of the nodes, where [agent] metrics is set: all jobs, and containers too, for root and whoever
          else may read [agent] token_file
  ssh     one connection to each node, for who may log in there: the owner's and root's
  auto    agent for who may use it, else srun

examples:
  hpcnet stats 1234
  hpcnet stats 1234 --once
  hpcnet stats --json             all of your jobs, once
  hpcnet stats --all              everybody's
  hpcnet stats 1234 --watch 5 | jq -c '[.node, .interfaces[0].rates.rx_bytes]'
"""

_CHECK = """\
Every line of the answer is something that the job's network, or the node's packet filter, should have and has
not (missing), has and should not (foreign), or a node that does not answer a packet of full size (silent).

examples:
  hpcnet check            all jobs of this node
  hpcnet check 1234 --json
"""

_EXEC = """\
The job's owner gets a step of the job (srun --overlap), with a terminal if this is one; on the job's first node,
or on --node. root enters on the node itself. Without a command it is a shell. The exit code is the command's.
An ssh session into a node, adopted into the job or not, is in the node's network: this is the way on from there.

examples:
  hpcnet exec 1234 -- ip -brief address
  hpcnet exec 1234 --node n2
  hpcnet exec 1234 -- ping -c1 n2
"""

_AGENT = """\
Run it on every node where docker=yes is offered, before dockerd starts (etc/hpcnet-agent.service). dockerd asks it
for the addresses and interfaces of containers in networks hpcnet-JOBID. Containers go on without it; it may be
restarted at any time, and ends at SIGTERM. With [agent] metrics in hpcnet.toml it also gives Prometheus the
counters of all jobs of the node, to who has the token.

example:
  hpcnet agent
"""

_ATTACH = """\
CONTAINER is the id of a process in the container, the name or id of a Docker container, or the file of a network
namespace (with a "/" in it). Containers that Docker started with --net=hpcnet-JOB are in the network already.
The interface is removed by "hpcnet detach", or with the job's network when the job ends.

examples:
  hpcnet attach 1234 $(podman inspect -f '{{.State.Pid}}' web)
  hpcnet attach 1234 web --ip 10.128.0.9
  hpcnet attach 1234 /run/netns/mine
"""

_DETACH = """\
example:
  hpcnet detach 1234 web
"""

_DOCTOR = """\
doctor looks at the host: its kernel, uplink and addresses, packet filter, Slurm's settings, plugin, permissions,
clock, dockerd, and what dead jobs have left. "hpcnet check" looks at the networks of the jobs that run now.
It finds out by itself what the host is: a compute node, a controller, a login host, or a host of the fabric
without Slurm. Nothing is changed. Who is not root gets fewer checks, and is told which.

  ok        as it should be
  warn      jobs get their networks, but look at it
  FAIL      jobs do not get what they are promised on this host, or are not protected there
  ->        what to do

exit codes:
  0  nothing failed
  1  something failed
  2  the command line is wrong
  3  a node gave no answer (--nodes)

examples:
  hpcnet doctor
  hpcnet doctor --json | jq '.findings[] | select(.status == "fail")'
  hpcnet doctor --local                          asks nobody but this host: for HealthCheckProgram
  hpcnet doctor --nodes 'n[1-40]'                by ssh; also says where hpcnet.toml is another one
  hpcnet doctor --nodes 'n[1-40]' --rsh 'clush -S -N -w'
"""

_CLEANUP = """\
A network is removed when all that can be asked say that its job is not here: no slurmstepd of the job runs on this
node, and slurmctld has the job on no node, or on others. Who gives no answer is no reason to remove: without
slurmctld everything stays, but what was built before this node was booted.

Where the lease store is, also leases of dead jobs are freed. With --nodes, leases in quarantine that wait for
these nodes are freed too, once cleanup there has found nothing of them.

exit codes:
  0  nothing of a dead job is left here; with --dry-run: there was nothing
  1  something could not be removed; with --dry-run: something would be
  3  something is kept because nobody could tell (slurmctld does not answer), or cleanup could not work

examples:
  hpcnet cleanup --dry-run
  hpcnet cleanup --job 1234
  hpcnet cleanup --boot                          before slurmd starts: what an earlier boot left
  hpcnet cleanup --nodes 'n[1-40]'               from the controller, by ssh
  hpcnet cleanup --nodes 'n[1-40]' --rsh 'clush -S -N -w'
"""

_BENCH = """\
Run it as a step of two tasks on two nodes: the first one measures and prints. Without a network of the job it
measures the nodes' own fabric, which is what to compare with. Or outside of a job with --networks: a job for each,
all on the same two nodes at once, measured in turns; "host" is no network. The nodes must take that many jobs.

examples:
  srun -N2 -n2 hpcnet bench --json > host.json
  srun -N2 -n2 --network=ib hpcnet bench --compare host.json
  hpcnet bench --networks host ib ib,mode=direct --rounds 7 --save bench.json --svg bench.svg
"""

_FILTER = """\
  show   print hpcnet's nftables table as nft reads it, without loading it
  load   make /run/hpcnet and load the table; the entries of jobs stay, or come back after somebody flushed them.
         Also keep UDP port 4789 ([fabric] vxlan_port) for the kernel, by a VXLAN device in the network namespace
         "hpcnet", where mode=vxlan is offered.
         Run it at boot on every host of the fabric, and after whatever flushes all of nftables.

examples:
  hpcnet filter show | less
  hpcnet filter load
"""


def main(words: Sequence[str]) -> int:
    """Parse and run; an error is one line on stderr."""
    try:
        try:
            words, command = _split(words)
            arguments = _parser().parse_args(words)
            arguments.command = command
            code: int = arguments.run(arguments)
            return code
        finally:
            if sys.stdout is not None:  # None: closed by the caller (>&-)
                sys.stdout.flush()  # here, so that a reader who left early is noticed, of --help too
    except UserError as error:
        print(f"hpcnet: {error}", file=sys.stderr)
        return 2
    except HpcnetError as error:
        print(f"hpcnet: {error}", file=sys.stderr)
        return 3
    except PermissionError as error:
        print(f"hpcnet: {error.filename or 'the kernel'}: {error.strerror}; run it as root", file=sys.stderr)
        return 3
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if "HPCNET_TRACEBACK" in os.environ:
            raise
        what = f"{type(error).__name__}: {error}"
        print(f"hpcnet: internal error, please report: {what} (HPCNET_TRACEBACK=1 shows where)", file=sys.stderr)
        return 3


def _split(words: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """hpcnet's own words, and for exec the command behind "--"."""
    if "--" not in words or words[0] != "exec":
        return words, []
    position = list(words).index("--")
    return words[:position], list(words[position + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpcnet",
        description="Per-job networks for Slurm: #SBATCH --network=ib gives a job a network of its own.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hpcnet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: object, summary: str, details: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=details,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        default = names.CONFIG_FILE
        site = f"the site's configuration (default {default})"
        made.add_argument("--config", metavar="FILE", default=default, help=site)
        if name not in ("filter", "agent", "exec"):
            made.add_argument("--json", action="store_true", help="machine-readable, on stdout")
        return made

    plan = command("plan", planning.run, "print what would be built for a job; touches nothing", _PLAN)
    plan.add_argument("--network", metavar="ib[,KEY=VALUE]...", default="ib", help="as sbatch takes it")
    plan.add_argument("--nodes", metavar="LIST", required=True, help="the job's nodes, such as n[1-4,7]")
    plan.add_argument("--node", metavar="NAME", help="show what this node builds")
    listing = command("list", networks.run_list, "the jobs' networks, from the job records", _LIST)
    listing.add_argument("--all", action="store_true", help="also jobs that have ended, while Slurm knows them")
    show = command("show", networks.run_show, "one job's network", _SHOW)
    show.add_argument(
        "job", metavar="JOB", type=_job_or_task, help="a job's number, or ARRAY_TASK as list prints it"
    )
    counters = command("stats", stats.run, "what a job's network carries, per node and interface", _STATS)
    counters.add_argument(
        "job", metavar="JOB", type=_job_or_task, nargs="?", help="default: all of your running jobs"
    )
    counters.add_argument("--all", action="store_true", help="jobs of all users; root's are without it")
    counters.add_argument(
        "--transport", choices=TRANSPORTS, default=AUTO, help="the way to the counters (default: auto)"
    )
    how = counters.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="one table; so it is where stdout is no terminal")
    how.add_argument("--watch", metavar="S", type=_interval, help="one JSON document a line, every S seconds")
    check = command("check", node.run_check, "compare a job's network on this node with its journal", _CHECK)
    check.add_argument("job", metavar="JOB", type=_job_id, nargs="?", help="default: all jobs of this node")
    enter = command("exec", entering.run_exec, "run a command or a shell in a job's network", _EXEC)
    enter.usage = "hpcnet exec [--node NAME] JOB [-- COMMAND [ARGUMENT]...]"
    enter.add_argument("--node", metavar="NAME", help="on this node of the job")
    enter.add_argument("job", metavar="JOB", type=_job_or_task, help="a job's number, or ARRAY_TASK")
    command("agent", node.run_agent, "serve Docker's driver for jobs with docker=yes, and metrics", _AGENT)
    attach = command(
        "attach", node.run_attach, "give a container by hand an interface in a job's network", _ATTACH
    )
    detach = command("detach", node.run_detach, "take that interface away again", _DETACH)
    for each in (attach, detach):
        each.add_argument("job", metavar="JOB", type=_job_id)
        each.add_argument(
            "container", metavar="CONTAINER", help="a process's id, a Docker container or a namespace"
        )
    attach.add_argument(
        "--ip", metavar="ADDRESS", type=_address, help="default: the first free one of the job here"
    )
    examining = command("doctor", _doctor, "whether this host is as hpcnet needs it", _DOCTOR)
    examining.add_argument(
        "--role",
        action="append",
        choices=("node", "controller", "login", "host"),
        help="what this host is, instead of finding it out; may be given twice",
    )
    examining.add_argument("--local", action="store_true", help="do not ask slurmctld")
    examining.add_argument("--nodes", metavar="LIST", help="on these hosts, such as n[1-40], not here")
    cleaning = command("cleanup", cleanup.run, "remove networks and leases that have no live job", _CLEANUP)
    cleaning.add_argument("--dry-run", action="store_true", help="only say what would be removed, and why")
    cleaning.add_argument("--job", metavar="N", type=_job_id, default=0, help="only this job's")
    cleaning.add_argument(
        "--min-age",
        metavar="S",
        type=_seconds,
        default=reap.MIN_AGE,
        help="leave networks younger than this alone (seconds, default %(default)g; 0: none is too young)",
    )
    cleaning.add_argument("--boot", action="store_true", help="only what an earlier boot left; asks nobody")
    cleaning.add_argument("--nodes", metavar="LIST", help="do it on these nodes, such as n[1-40], not here")
    for each in (examining, cleaning):
        each.add_argument(
            "--rsh",
            metavar="COMMAND",
            default=nodes.RSH,
            help="what reaches a node: called with its name and a command line (default: %(default)s)",
        )
    measure = command("bench", bench.run, "measure what the job's network carries between two nodes", _BENCH)
    measure.add_argument("--seconds", metavar="S", type=_interval, default=1.0, help="of each test (default 1)")
    measure.add_argument("--rounds", metavar="N", type=_count, default=5, help="of all tests (default 5)")
    measure.add_argument("--networks", metavar="NETWORK", nargs="+", help="start a job for each; host, ib, ib,...")
    measure.add_argument("--nodes", metavar="LIST", help="with --networks: the two nodes, such as n[1-2]")
    measure.add_argument("--save", metavar="FILE", help="write all figures as JSON")
    measure.add_argument("--svg", metavar="FILE", help="write a chart of both ways at once")
    measure.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    measure.add_argument("--compare", metavar="FILE", help="an answer with --json of another network")
    load = command("filter", node.run_filter, "hpcnet's own packet filter on this host", _FILTER)
    load.add_argument("action", choices=("show", "load"))
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    from hpcnet.cli import doctor

    return doctor.run(arguments)


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 address, such as 10.128.0.9") from None


def _job_or_task(text: str) -> str:
    job, separator, task = text.partition("_")
    if separator and not (task.isascii() and task.isdigit()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a job id, such as 1234, or an array's task, such as 1234_5"
        )
    _job_id(job)
    return text


def _seconds(text: str) -> float:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return float(text)


def _job_id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a job id, a number such as 1234")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 3600")
    return int(text)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return seconds
