# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from hpcnet.errors import SiteError
from hpcnet.slurm.environment import Job, job_from_environment

# What Slurm 22.05.8 gave a node's Prolog, and 26.05.5 a PrologSlurmctld of an array task.
OLD_NODE = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_UID": "1001",
    "SLURM_JOB_USER": "ada",
    "SLURM_JOB_PARTITION": "batch",
    "SLURM_JOB_COMMENT": "my job hpcnet:asked:",
    "SLURM_NODELIST": "n[1-3]",
    "SLURMD_NODENAME": "n2",
    "SLURM_CLUSTER_NAME": "lab",
    "SLURM_CONF": "/etc/slurm/slurm.conf",
    "SLURM_SCRIPT_CONTEXT": "prolog_slurmd",
}
NEW_CONTROLLER = {
    "SLURM_JOB_ID": "21",
    "SLURM_JOB_UID": "1002",
    "SLURM_JOB_USER": "grace",
    "SLURM_JOB_ACCOUNT": "physics",
    "SLURM_JOB_PARTITION": "batch",
    "SLURM_JOB_COMMENT": "for the paper",
    "SLURM_JOB_EXTRA": "hpcnet:asked:mtu=9000",
    "SLURM_JOB_NODELIST": "n[4-5]",
    "SLURM_NODELIST": "n[4-5]",
    "SLURM_CLUSTER_NAME": "lab",
    "SLURM_ARRAY_JOB_ID": "20",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_SCRIPT_CONTEXT": "prolog_slurmctld",
}


def test_a_node_of_slurm_22_05() -> None:
    assert job_from_environment(OLD_NODE) == Job(
        id=17,
        uid=1001,
        user="ada",
        account="",
        partition="batch",
        cluster="lab",
        nodelist="n[1-3]",
        node="n2",
        array="",
        record_field="comment",
        record_text="my job hpcnet:asked:",
    )


def test_the_controller_of_slurm_26_05() -> None:
    assert job_from_environment(NEW_CONTROLLER) == Job(
        id=21,
        uid=1002,
        user="grace",
        account="physics",
        partition="batch",
        cluster="lab",
        nodelist="n[4-5]",
        node="",
        array="20_3",
        record_field="extra",
        record_text="hpcnet:asked:mtu=9000",
    )


@pytest.mark.parametrize("extra", ["", "note", "see http://hpcnet:80/", "xhpcnet:asked:"])
def test_the_comment_is_the_record_when_extra_has_no_token(extra: str) -> None:
    job = job_from_environment({**OLD_NODE, "SLURM_JOB_EXTRA": extra})
    assert (job.record_field, job.record_text) == ("comment", OLD_NODE["SLURM_JOB_COMMENT"])


def test_a_token_in_extra_goes_before_one_in_the_comment() -> None:
    job = job_from_environment({**OLD_NODE, "SLURM_JOB_EXTRA": "mine hpcnet:refused::full"})
    assert (job.record_field, job.record_text) == ("extra", "mine hpcnet:refused::full")


def test_a_job_without_a_record_has_an_empty_one() -> None:
    environ = {key: value for key, value in OLD_NODE.items() if key != "SLURM_JOB_COMMENT"}
    assert job_from_environment(environ).record_text == ""


def test_the_jobs_nodelist_goes_before_the_older_variable() -> None:
    environ = {**OLD_NODE, "SLURM_JOB_NODELIST": "n[7-9]"}
    assert job_from_environment(environ).nodelist == "n[7-9]"
    assert job_from_environment({**OLD_NODE, "SLURM_JOB_NODELIST": ""}).nodelist == "n[1-3]"


@pytest.mark.parametrize(
    ("array", "task", "expected"),
    [
        ("20", "0", "20_0"),
        ("20", "4000000", "20_4000000"),
        ("20", "4294967294", ""),  # NO_VAL
        ("20", "4294967295", ""),  # INFINITE
        ("20", "", ""),
        ("", "3", ""),
    ],
)
def test_array_tasks(array: str, task: str, expected: str) -> None:
    environ = {**OLD_NODE, "SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}
    assert job_from_environment(environ).array == expected


@pytest.mark.parametrize("name", [None, ""])
def test_a_cluster_without_a_name_has_one_that_an_ifalias_can_hold(name: str | None) -> None:
    environ = {key: value for key, value in OLD_NODE.items() if key != "SLURM_CLUSTER_NAME"}
    assert job_from_environment(environ if name is None else {**environ, "SLURM_CLUSTER_NAME": name}).cluster


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "SLURM_JOB_UID"])
@pytest.mark.parametrize("value", [None, "", "12a", "-1", "1.0", " 1", "1\n", "١", "12345678901"])
def test_a_missing_or_bad_number_is_one_line_that_names_the_variable(variable: str, value: str | None) -> None:
    environ = {key: text for key, text in OLD_NODE.items() if key != variable}
    if value is not None:
        environ[variable] = value
    if variable == "SLURM_JOB_UID" and not value:
        assert job_from_environment(environ).uid == -1  # an Epilog removes without it, and no task joins
        return
    with pytest.raises(SiteError, match=f"^{variable} is .* started by Slurm") as caught:
        job_from_environment(environ)
    assert len(str(caught.value).splitlines()) == 1
