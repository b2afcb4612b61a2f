# SPDX-License-Identifier: Apache-2.0
"""What Slurm tells a hook through its environment -> Job.

Source: https://slurm.schedmd.com/prolog_epilog.html; variables differ between 22.05 and later, both are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hpcnet import record
from hpcnet.errors import SiteError
from hpcnet.frozen import frozen

_NO_TASK = {"", "4294967294", "4294967295"}  # NO_VAL, INFINITE: not an array task


@frozen
class Job:
    """One run of a job as a hook sees it; text that Slurm did not give is empty."""

    id: int
    uid: int
    """-1 when Slurm does not say: a network is removed all the same, and nobody may join one."""
    user: str
    account: str
    partition: str
    cluster: str
    nodelist: str
    node: str
    """Name of this node; empty on the controller."""
    array: str
    """``ARRAYID_TASKID`` of an array task: SLURM_JOB_ID alone may stand for the whole array."""
    record_field: str
    """``extra`` or ``comment``: where the token is, and where it is stamped again."""
    record_text: str


def job_from_environment(environ: Mapping[str, str]) -> Job:
    """The Job of a hook's environment. Raises SiteError when the environment is not a hook's."""
    field = "extra" if record.carries(environ.get("SLURM_JOB_EXTRA", "")) else "comment"
    array, task = environ.get("SLURM_ARRAY_JOB_ID", ""), environ.get("SLURM_ARRAY_TASK_ID", "")
    return Job(
        id=_number(environ, "SLURM_JOB_ID"),
        uid=_number(environ, "SLURM_JOB_UID") if environ.get("SLURM_JOB_UID") else -1,
        user=environ.get("SLURM_JOB_USER", ""),
        account=environ.get("SLURM_JOB_ACCOUNT", ""),
        partition=environ.get("SLURM_JOB_PARTITION", ""),
        cluster=environ.get("SLURM_CLUSTER_NAME") or "cluster",
        nodelist=environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST", ""),
        node=environ.get("SLURMD_NODENAME", ""),
        array=f"{array}_{task}" if array and task not in _NO_TASK else "",
        record_field=field,
        record_text=environ.get(f"SLURM_JOB_{field.upper()}", ""),
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not re.fullmatch("[0-9]{1,10}", text, re.ASCII):
        raise SiteError(f"{name} is {text!r}, not a number: hooks are started by Slurm, with its environment")
    return int(text)
