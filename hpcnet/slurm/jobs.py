# SPDX-License-Identifier: Apache-2.0
"""Asking slurmctld, through Slurm's own commands: jobs, nodes, and stamping a job's record.

    for job in jobs(): ...              every job that slurmctld knows
    occupying()                         {12: {"RUNNING"}}: jobs that still have nodes
    holders()                           {12: Holder({"RUNNING"}, {"n1", "n2"})}: and which
    cluster()                           ClusterName of slurm.conf
    hosts(["n1", "n2"])                 {"n1": Host(...)}: states and boot times
    stamp(job, "text")                  sets the job's comment or extra

All raise ControllerUnreachable when slurmctld gives no answer: then nothing is known, and everything is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hpcnet import nodelist
from hpcnet.errors import SiteError
from hpcnet.frozen import frozen
from hpcnet.slurm.environment import Job

OCCUPYING = "RUNNING,COMPLETING,CONFIGURING,SUSPENDED,STOPPED,SIGNALING,STAGE_OUT,RESIZING"
"""States of a job that has nodes, as ``squeue --states`` takes them."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("SLURM_CONF", "SLURM_JWT", "PATH")
_TIMEOUT = 20.0
_ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)
_UNSET = 0xFFFFFFFE  # NO_VAL (slurm.h)
_LONGEST_ARGUMENT = 100_000  # Linux allows 128 KiB for one


class ControllerUnreachable(SiteError):
    """slurmctld did not answer, or not in time: what the command was to do or tell is not known."""


class JobUnknown(SiteError):
    """slurmctld answered, and has no such job."""


@frozen
class SlurmJob:
    """A job record. Numbers that Slurm has not set are 0, texts empty."""

    id: int
    array: str
    """``ARRAYID_TASKID`` of an array task, else empty."""
    states: frozenset[str]
    """Upper-case words: one base state and any flags, such as ``{"COMPLETED", "COMPLETING"}``."""
    uid: int
    user: str
    account: str
    partition: str
    nodelist: str
    comment: str
    extra: str
    start: int
    """Seconds since the epoch."""
    end: int
    """Seconds since the epoch; of a running job the time limit's."""

    @property
    def ended(self) -> bool:
        """Whether the job is over on all of its nodes."""
        return bool(self.states & _ENDED) and "COMPLETING" not in self.states


@frozen
class Host:
    """A node as slurmctld knows it."""

    name: str
    states: frozenset[str]
    boot: int
    """Seconds since the epoch; 0: not known."""
    reason: str = ""

    @property
    def suspect(self) -> bool:
        """Whether the network of a job that ended there may still stand: nobody can tell, or its Epilog failed.

        A failed Epilog drains its node; one that was drained already keeps its state and its reason.
        """
        lost = self.states & {"DOWN", "NOT_RESPONDING", "UNKNOWN", "DRAIN", "FAIL"}
        return (bool(lost) and "POWERED_DOWN" not in self.states) or self.reason.startswith("Epilog error")


def jobs(timeout: float = _TIMEOUT, only: Iterable[int] = ()) -> list[SlurmJob]:
    """Every job that slurmctld still has a record of, array tasks one by one, pending ones too; or ``only`` some.

    An array's number stands for all of its tasks. Raises JobUnknown when there is one number and no such job.
    """
    import json

    some = [f"--jobs={','.join(map(str, only))}"] if only else []
    text = run(["squeue", "--all", "--local", "--states=all", "--json", *some], timeout)
    try:
        document = json.loads(text, strict=False)  # users' texts may have any control character
        if document.get("errors"):
            why = "; ".join(str(error.get("description", error)) for error in document["errors"])
            raise ControllerUnreachable(f"slurmctld gives no list of jobs; is it running? (squeue: {why[:200]})")
        return [_job(entry) for entry in document["jobs"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControllerUnreachable(f"squeue --json gave no list of jobs: {error!r:.200}") from None


def occupying(timeout: float = _TIMEOUT) -> dict[int, frozenset[str]]:
    """States of each job that has nodes, by job id: one call, and no text of a user's in its answer."""
    states = f"--states={OCCUPYING}"
    text = run(["squeue", "--all", "--local", "--noheader", states, "--format=%A %T"], timeout)
    found: dict[int, frozenset[str]] = {}
    for line in text.splitlines():
        number, _, state = line.strip().partition(" ")
        found[int(number)] = found.get(int(number), frozenset()) | {state}
    return found


@frozen
class Holder:
    """A job that has nodes; of one that is COMPLETING only the nodes that are not done yet."""

    states: frozenset[str]
    nodes: frozenset[str]


def holders(timeout: float = _TIMEOUT) -> dict[int, Holder]:
    """Each job that has nodes, by job id, in one call."""
    states = f"--states={OCCUPYING}"
    text = run(["squeue", "--all", "--local", "--noheader", states, "--format=%A %T %N"], timeout)
    found: dict[int, Holder] = {}
    for line in text.splitlines():
        number, state, *nodes = line.split()
        older = found.get(int(number), Holder(frozenset(), frozenset()))
        held = nodelist.expand(nodes[0]) if nodes else []
        found[int(number)] = Holder(older.states | {state}, older.nodes | frozenset(held))
    return found


def cluster(timeout: float = _TIMEOUT) -> str:
    """Name of the cluster whose slurmctld answers. Raises ControllerUnreachable."""
    text = run(["scontrol", "show", "config"], timeout)
    found = re.search(r"^ClusterName\s*=\s*(\S+)", text, re.MULTILINE)
    if found is None:
        raise ControllerUnreachable("scontrol show config does not say ClusterName")
    return found[1]


def hosts(nodes: Iterable[str], timeout: float = _TIMEOUT) -> dict[str, Host]:
    """States and boot times of nodes by name, in one call; a node that Slurm does not know is left out."""
    wanted = set(nodes)
    names = ",".join(sorted(wanted))
    some = [names] if len(names) < _LONGEST_ARGUMENT else []
    text = run(["scontrol", "--oneliner", "show", "nodes", *some], timeout, partial=True)
    found = (_host(line) for line in text.splitlines() if line.startswith("NodeName="))
    return {host.name: host for host in found if host.name in wanted}


def stamp(job: Job, text: str, timeout: float = _TIMEOUT) -> None:
    """Sets the job's record field to ``text``, whatever is in it: it is one argument, cut at its first ``=``
    only (scontrol's update_job.c). Raises JobUnknown, ControllerUnreachable, SiteError.

    One run's record, never a sibling's: an array task goes by its array's id and its own number, a single job
    by ``+0``, since the plain id of a heterogeneous job's first part means all of its parts.
    """
    change = f"{job.record_field}={text}"
    if job.array:
        run(["scontrol", "update", f"jobid={job.array}", change], timeout)
        return
    try:
        run(["scontrol", "update", f"jobid={job.id}+0", change], timeout)
    except JobUnknown:  # a later part of a heterogeneous job has a number of its own there
        run(["scontrol", "update", f"jobid={job.id}", change], timeout)


def environment() -> dict[str, str]:
    """What Slurm's commands get: their answers must not depend on the caller's language or job."""
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    return {"PATH": _PATH, **kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}


def run(command: list[str], timeout: float, partial: bool = False) -> str:
    """What one of Slurm's commands prints. ``partial``: an answer counts though the command failed."""
    import subprocess

    try:
        done = subprocess.run(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ControllerUnreachable(f"{command[0]}: no answer from slurmctld in {timeout:g} s") from None
    except OSError as error:
        raise ControllerUnreachable(f"{command[0]} cannot be started: {error.strerror}") from None
    out, complaint = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    if done.returncode == 0 or (partial and out):
        return out
    raise _failure(command, done.returncode, " ".join(complaint.split()))


_UNREACHABLE = re.compile(
    r"Unable to contact|Unable to establish|Connection refused|Connection timed out|timed out|"
    r"Socket timed out|Zero Bytes|authentication|in standby|Unexpected message|not running",
    re.IGNORECASE,
)


def _failure(command: list[str], status: int, complaint: str) -> SiteError:
    message = f"{command[0]}: {complaint[-300:] or f'exit status {status}'}"
    if _UNREACHABLE.search(complaint) or not complaint:
        return ControllerUnreachable(message)
    if re.search("invalid job ?id", complaint, re.IGNORECASE):
        return JobUnknown(message)
    return SiteError(message)


def _job(entry: Mapping[str, Any]) -> SlurmJob:
    array, task = _number(entry.get("array_job_id")), entry.get("array_task_id")
    is_task = array and _is_set(task)
    states = entry.get("job_state") or ()
    return SlurmJob(
        id=_number(entry["job_id"]),
        array=f"{array}_{_number(task)}" if is_task else "",
        states=frozenset([states] if isinstance(states, str) else states),
        uid=_number(entry.get("user_id")),
        user=_text(entry.get("user_name")),
        account=_text(entry.get("account")),
        partition=_text(entry.get("partition")),
        nodelist=_text(entry.get("nodes")),
        comment=_text(entry.get("comment")),
        extra=_text(entry.get("extra")),
        start=_number(entry.get("start_time")),
        end=_number(entry.get("end_time")),
    )


def _is_set(value: Any) -> bool:
    """Whether a number has been set: from 23.11 one is ``{"set": ..., "infinite": ..., "number": ...}``."""
    if isinstance(value, dict):
        return bool(value.get("set"))
    return isinstance(value, int) and value < _UNSET


def _number(value: Any) -> int:
    if not _is_set(value):
        return 0
    return int(value["number"] if isinstance(value, dict) else value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_NODE = re.compile(r"NodeName=(\S+)")
_STATE = re.compile(r" State=(\S+)")
_BOOT = re.compile(r" BootTime=([0-9]+)")
_REASON = re.compile(r" Reason=(.*)")


def _host(line: str) -> Host:
    state, boot, reason, name = (found.search(line) for found in (_STATE, _BOOT, _REASON, _NODE))
    words = state[1].upper() if state else "UNKNOWN"
    flags = set(re.findall("[A-Z_]+", words))
    if "*" in words:
        flags.add("NOT_RESPONDING")
    if "~" in words:
        flags.add("POWERED_DOWN")
    return Host(
        name=name[1] if name else "",
        states=frozenset(flags),
        boot=int(boot[1]) if boot else 0,
        reason=reason[1] if reason else "",
    )
