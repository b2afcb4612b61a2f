# SPDX-License-Identifier: Apache-2.0
"""Reading what Slurm's commands print, and the words they are called with.

The 22.05 texts are a real 22.05.8's (fields that nobody reads left out). Those of 24.11 and 26.05 are made after
Slurm's source, PARSER_ARRAY(JOB_INFO) of data_parser v0.0.41 (24.11) and v0.0.45 (26.05). The commands are
scripts that record how they were called; tests/cluster asks a real slurmctld.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hpcnet.errors import SiteError
from hpcnet.slurm import jobs
from hpcnet.slurm.environment import Job

SQUEUE_22_05 = r"""{
 "meta": {"plugin": {"type": "openapi\/v0.0.38", "name": "Slurm OpenAPI v0.0.38"},
          "Slurm": {"version": {"major": 22, "micro": 8, "minor": 5}, "release": "22.05.8"}},
 "errors": [],
 "jobs": [
  {"account": "", "array_job_id": 0, "array_task_id": null, "array_task_string": "", "cluster": "alloc",
   "comment": "user says \"hi\", a=b \\ jobid=7\nnext line hpcnet:fake", "end_time": 1826953140, "het_job_id": 0,
   "job_id": 1, "job_resources": {"nodes": "n[1-2]"}, "job_state": "RUNNING", "name": "wrap", "nodes": "n[1-2]",
   "partition": "main", "start_time": 1795417140, "user_id": 65534, "user_name": "nobody"},
  {"account": "", "array_job_id": 2, "array_task_id": 1, "array_task_string": "", "cluster": "alloc",
   "comment": "arr", "end_time": 1826953140, "het_job_id": 0, "job_id": 3, "job_resources": {"nodes": "n1"},
   "job_state": "COMPLETING", "name": "wrap", "nodes": "n1", "partition": "main", "start_time": 1795417140,
   "user_id": 65534, "user_name": "nobody"}]}"""

SQUEUE_22_05_UNREACHABLE = r"""{"meta": {}, "errors": [{"description": "Failed while looking for jobs",
 "error_number": -1, "error": "Unspecified error", "source": "slurm_load_jobs"}], "jobs": []}"""

NODES_22_05 = """\
NodeName=n1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=4 OS=Linux 6.18.44 #1 SMP @0  State=MIXED ThreadsPerCore=1 \
Partitions=main  BootTime=1795415743 SlurmdStartTime=1795417093 ExtSensorsTemp=n/s
NodeName=n2 CoresPerSocket=1  State=IDLE+NOT_RESPONDING ThreadsPerCore=1 BootTime=1795415743 ExtSensorsTemp=n/s
NodeName=n3 CoresPerSocket=1  State=DOWN*+DRAIN BootTime=None Reason=Epilog error [slurm@1795418294]
NodeName=n4 CoresPerSocket=1  State=IDLE+POWERED_DOWN+NOT_RESPONDING ThreadsPerCore=1 BootTime=None
NodeName=n5 CoresPerSocket=1  State=IDLE+DRAIN BootTime=1795415743 Reason=Epilog error [slurm@1795418294]
"""


class Commands:
    """A directory of stand-ins for Slurm's commands."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def make(self, name: str, out: str = "", err: str = "", status: int = 0, body: str = "") -> None:
        (self._directory / f"{name}.out").write_text(out)
        (self._directory / f"{name}.err").write_text(err)
        script = self._directory / name
        script.write_text(
            f'#!/bin/sh\ncd {self._directory}\nfor word; do printf "%s\\0" "$word"; done >> {name}.argv\n'
            f"printf '\\1' >> {name}.argv\nenv > {name}.env\n{body}\n"
            f"cat {name}.out; cat {name}.err >&2\nexit {status}\n"
        )
        script.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        raw = (self._directory / f"{name}.argv").read_text()
        return [call.split("\0")[:-1] for call in raw.split("\1")[:-1]]

    def environment(self, name: str) -> dict[str, str]:
        lines = (self._directory / f"{name}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Commands(tmp_path)


def test_jobs_of_22_05(commands: Commands) -> None:
    commands.make("squeue", SQUEUE_22_05)
    first, second = jobs.jobs()
    assert first == jobs.SlurmJob(
        id=1,
        array="",
        states=frozenset({"RUNNING"}),
        uid=65534,
        user="nobody",
        account="",
        partition="main",
        nodelist="n[1-2]",
        comment='user says "hi", a=b \\ jobid=7\nnext line hpcnet:fake',
        extra="",
        start=1795417140,
        end=1826953140,
    )
    assert (second.id, second.array, second.states) == (3, "2_1", frozenset({"COMPLETING"}))


def later(number: int | None) -> dict[str, Any]:
    return {"set": number is not None, "infinite": False, "number": number or 0}


@pytest.mark.parametrize("unset", [None, 0])
def test_jobs_of_24_11_and_26_05(commands: Commands, unset: int | None) -> None:
    entry = {
        "account": "physics",
        "array_job_id": later(6),
        "array_task_id": later(0),
        "comment": "mine",
        "extra": "hpcnet:asked:",
        "job_id": 9,
        "job_state": ["COMPLETED", "COMPLETING"],
        "nodes": "n[1-4]",
        "partition": "main",
        "start_time": later(1795417140),
        "end_time": later(None),
        "user_id": 1000,
        "user_name": "ada",
    }
    single = {**entry, "array_job_id": later(unset), "array_task_id": later(None), "job_state": ["PENDING"]}
    commands.make("squeue", json.dumps({"jobs": [entry, single], "errors": [], "warnings": [], "meta": {}}))
    task, job = jobs.jobs()
    assert (task.array, task.states, task.extra) == (
        "6_0",
        frozenset({"COMPLETED", "COMPLETING"}),
        "hpcnet:asked:",
    )
    assert (task.start, task.end, task.uid, task.user) == (1795417140, 0, 1000, "ada")
    assert (job.array, job.states) == ("", frozenset({"PENDING"}))


def test_22_05_reports_its_errors_in_the_document_and_exits_0(commands: Commands) -> None:
    commands.make("squeue", SQUEUE_22_05_UNREACHABLE)
    with pytest.raises(jobs.ControllerUnreachable, match="Failed while looking for jobs"):
        jobs.jobs()


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"jobs": [{}]}', '{"jobs": [7]}'])
def test_what_is_no_list_of_jobs_is_no_answer(commands: Commands, text: str) -> None:
    """It must never read as "there are no jobs"."""
    commands.make("squeue", text)
    with pytest.raises(jobs.ControllerUnreachable):
        jobs.jobs()


def test_occupying(commands: Commands) -> None:
    commands.make("squeue", "12 RUNNING\n13 COMPLETING\n")
    assert jobs.occupying() == {12: {"RUNNING"}, 13: {"COMPLETING"}}
    assert "--format=%A %T" in commands.calls("squeue")[0]


def test_variables_that_change_squeues_output_do_not_reach_it(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "LD_PRELOAD_X"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    commands.make("squeue")
    jobs.occupying()
    kept = commands.environment("squeue").keys() - {"PWD", "OLDPWD", "SHLVL", "_"}
    assert kept == {"PATH", "SLURM_CONF", "LC_ALL", "SLURM_TIME_FORMAT"}
    assert commands.environment("squeue")["SLURM_TIME_FORMAT"] == "%s"


def test_hosts(commands: Commands) -> None:
    commands.make("scontrol", NODES_22_05, "Node n9 not found\n", status=1)
    found = jobs.hosts(["n1", "n2", "n3", "n4", "n9"])
    assert set(found) == {"n1", "n2", "n3", "n4"}
    assert found["n1"] == jobs.Host("n1", frozenset({"MIXED"}), 1795415743)
    assert {name for name, host in found.items() if host.suspect} == {"n2", "n3"}
    assert found["n3"].boot == 0
    assert found["n3"].states == {"DOWN", "NOT_RESPONDING", "DRAIN"}
    assert commands.calls("scontrol") == [["--oneliner", "show", "nodes", "n1,n2,n3,n4,n9"]]


def test_a_node_that_failed_an_epilog_is_suspect(commands: Commands) -> None:
    commands.make("scontrol", NODES_22_05)
    assert jobs.hosts(["n5"])["n5"].suspect


def test_very_many_hosts_are_asked_for_without_naming_them(commands: Commands) -> None:
    commands.make("scontrol", NODES_22_05)
    jobs.hosts(f"a-long-name-of-a-node-{number}" for number in range(10000))
    assert commands.calls("scontrol") == [["--oneliner", "show", "nodes"]]


def job(id: int = 7, array: str = "", field: str = "comment") -> Job:
    return Job(id, 0, "", "", "", "", "n1", "", array, field, "")


@pytest.mark.parametrize("text", ["a=b jobid=8 'x' \"y\" \\ , + -\nname=z", "-h", "", " "])
def test_a_stamp_is_one_argument_whatever_the_users_text(commands: Commands, text: str) -> None:
    commands.make("scontrol")
    jobs.stamp(job(), text)
    assert commands.calls("scontrol") == [["update", "jobid=7+0", f"comment={text}"]]


def test_an_array_task_is_addressed_alone(commands: Commands) -> None:
    commands.make("scontrol")
    jobs.stamp(job(7, "7_3", "extra"), "t")
    assert commands.calls("scontrol") == [["update", "jobid=7_3", "extra=t"]]


def test_a_later_part_of_a_heterogeneous_job(commands: Commands) -> None:
    """``+0`` is the first part's number, so slurmctld knows no such job."""
    commands.make(
        "scontrol",
        body='case "$2" in *+0) echo "Invalid job id specified for job 7+0" >&2; exit 1;; *) exit 0;; esac',
    )
    jobs.stamp(job(), "t")
    assert [call[1] for call in commands.calls("scontrol")] == ["jobid=7+0", "jobid=7"]


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [
        ("Invalid job id specified for job 99", jobs.JobUnknown),
        ("2_9: Invalid job id specified", jobs.JobUnknown),
        (
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
            jobs.ControllerUnreachable,
        ),
        ("scontrol: error: Unable to establish control machine address", jobs.ControllerUnreachable),
        ("slurm_update error: Protocol authentication error", jobs.ControllerUnreachable),
        ("slurm_update error: Slurm backup controller in standby mode", jobs.ControllerUnreachable),
        ("slurm_update error: Socket timed out on send/recv operation", jobs.ControllerUnreachable),
        ("", jobs.ControllerUnreachable),
        ("Access/permission denied for job 7", SiteError),
    ],
)
def test_what_failed(commands: Commands, complaint: str, kind: type[SiteError]) -> None:
    commands.make("scontrol", err=complaint, status=1)
    with pytest.raises(SiteError) as error:
        jobs.stamp(job(), "t")
    assert type(error.value) is kind
    assert complaint in str(error.value)


def test_no_answer_in_time(commands: Commands) -> None:
    commands.make("scontrol", body="exec sleep 30")
    started = time.monotonic()
    with pytest.raises(jobs.ControllerUnreachable, match=r"no answer from slurmctld in 0\.3 s"):
        jobs.stamp(job(), "t", timeout=0.3)
    assert time.monotonic() - started < 20


def test_slurm_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(jobs.ControllerUnreachable, match="squeue cannot be started: No such file"):
        jobs.occupying()
