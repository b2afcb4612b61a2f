# SPDX-License-Identifier: Apache-2.0
"""One list of jobs, asked in two ways: the same contract for squeue and for pyslurm.

pyslurm X.Y is for Slurm X.Y alone: its setup.py refuses any other. Neither PyPI (17.11, 18.8, 25.11) nor Debian
has one for a Slurm that Debian has (22.05, 24.11, 26.05), so CI, which builds from package registries, asks squeue
alone. By hand, on Debian 12:

    git clone --branch v22.5.3 https://github.com/PySlurm/pyslurm DIR; cd DIR
    SLURM_LIB_DIR=/usr/lib/x86_64-linux-gnu python3 setup.py build_ext --inplace
    HPCNET_PYSLURM=DIR pytest tests/cluster/test_joblist.py
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hpcnet.slurm.jobs import SlurmJob
from tests.cluster.cluster import Cluster, eventually

pytestmark = pytest.mark.cluster

_PYSLURM = os.environ.get("HPCNET_PYSLURM", "")
WAYS = {
    "squeue": "from hpcnet.slurm.jobs import jobs as ask",
    **({"pyslurm": "from hpcnet.slurm.joblist import by_pyslurm as ask"} if _PYSLURM else {}),
}
_SCRIPT = """
import json, sys
from dataclasses import asdict
sys.path.insert(0, "/opt/hpcnet/beside")
{way}
print(json.dumps([{{**asdict(job), "states": sorted(job.states)}} for job in ask()]))
"""


@pytest.fixture
def beside(cluster: Cluster) -> Iterator[Cluster]:
    """The lab, whose hosts find pyslurm, if there is one."""
    target = cluster.lab.layout.prefix / "beside"
    if _PYSLURM:
        shutil.copytree(Path(_PYSLURM) / "pyslurm", target / "pyslurm")
    yield cluster
    shutil.rmtree(target, ignore_errors=True)


def ask(cluster: Cluster, way: str) -> dict[int, SlurmJob]:
    script = _SCRIPT.format(way=WAYS[way])
    found: list[dict[str, Any]] = json.loads(
        cluster.run("/opt/hpcnet/bin/python", "-I", "-c", script, user="bob").stdout
    )
    return {each["id"]: SlurmJob(**{**each, "states": frozenset(each["states"])}) for each in found}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_list_of_jobs_tells(beside: Cluster, way: str) -> None:
    begin = int(time.time())
    job = beside.hold("--network=ib", "-N2", "-w", "n[2-3]", "--comment=mine", "--account=physics")
    array = beside.sbatch("sleep 60", "--array=7", "-w", "n1", user="bob")
    pending = beside.sbatch("sleep 60", "--begin=now+1hour")
    ended = beside.sbatch("true", "-w", "n1")
    eventually("it has ended", lambda: beside.state_of(ended) == "COMPLETED")
    eventually("the array's task runs", lambda: beside.state_of(f"{array}_7") == "RUNNING")
    found = ask(beside, way)
    seen = found[job]
    assert (seen.user, seen.uid, seen.account, seen.partition) == ("alice", 20001, "physics", "batch")
    assert (seen.states, seen.nodelist, seen.array, seen.ended) == (frozenset({"RUNNING"}), "n[2-3]", "", False)
    assert seen.comment.startswith("mine hpcnet:lease:") and seen.extra == ""
    assert begin <= seen.start <= time.time() < seen.end
    assert (found[array].array, found[array].user, found[array].nodelist) == (f"{array}_7", "bob", "n1")
    assert (found[pending].states, found[pending].nodelist, found[pending].comment) == (
        frozenset({"PENDING"}),
        "",
        "",
    )
    assert found[ended].ended and found[ended].nodelist == "n1"
    # and all that the other ways tell, to the letter
    for other in WAYS:
        again = ask(beside, other)
        assert {number: _fixed(each) for number, each in again.items()} == {
            number: _fixed(each) for number, each in found.items()
        }


def _fixed(job: SlurmJob) -> dict[str, Any]:
    """Without what time may have changed between two questions: a job of an earlier test that goes by."""
    return asdict(replace(job, states=frozenset(), end=0))
