# SPDX-License-Identifier: Apache-2.0
"""job_submit.lua at scontrol update, in each Lua of this machine, through a harness that imitates slurmctld."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from hpcnet import record
from tests.unit import lua
from tests.unit.lua import Result, Scenario
from tests.unit.test_job_submit import BAD_LICENCE, DENIED, toml, version

__all__ = ["version"]

BAD_NODE_COUNT = 2006
PENDING, RUNNING, SUSPENDED, RUNNING_CONFIGURING = 0, 1, 2, 1 | 0x4000
LEASE = "hpcnet:lease:mtu=9000:v=1,serial=7"
OURS = {"comment": f"mine {LEASE}", "job_state": RUNNING, "job_id": 12}
OTHER = {"comment": "mine", "job_state": RUNNING, "job_id": 12}

Modify = Callable[..., Result]


@pytest.fixture
def modify(version: str, tmp_path: Path) -> Modify:
    """``modify(job, field=value, ...)``: what an update of a job does; by alice, on 23.02, where she sees why."""

    def call(job: dict[str, Any], scenario: Scenario | None = None, **desc: Any) -> Result:
        file = toml(
            tmp_path / "hpcnet.toml", submit={"licence": "hpcnet", "partitions": ["batch"], "accounts": ["phys"]}
        )
        given = {"slurm": "23.02", "toml": str(file), "call": "modify", "desc": desc, "rec": job, "uid": lua.ALICE}
        return lua.play(version, [{**given, **(scenario or {})}], tmp_path)[0]

    return call


class TestText:
    @pytest.mark.parametrize(
        "text, after",
        [
            ("new", f"new {LEASE}"),
            ("", LEASE),
            ("a hpcnet:lease:mtu=1:v=1,serial=1 b\n", f"a  b {LEASE}"),
            (f"mine {LEASE}", f"mine {LEASE}"),
        ],
    )
    def test_the_token_stays(self, modify: Modify, text: str, after: str) -> None:
        assert modify(OURS, comment=text).desc == {"comment": after}

    def test_it_stays_in_its_field(self, modify: Modify) -> None:
        ours = {"extra": LEASE, "comment": "old", "job_state": RUNNING, "job_id": 12}
        result = modify(ours, comment="new hpcnet:asked:", extra="x")
        assert result.desc == {"comment": "new ", "extra": f"x {LEASE}"}

    def test_no_room(self, modify: Modify) -> None:
        result = modify(OURS, comment="x" * 600)
        assert result.code == -1
        assert result.message and "at most 511" in result.message

    @pytest.mark.parametrize("field", ["comment", "extra"])
    def test_a_token_cannot_be_made(self, modify: Modify, field: str) -> None:
        result = modify(OTHER, **{field: "a hpcnet:lease::v=1"})
        assert (result.code, result.desc[field]) == (0, "a ")
        assert record.find(result.desc[field]) is None

    def test_nothing_else_is_touched(self, modify: Modify) -> None:
        desc = {"comment": "new\nline", "min_nodes": 1, "licenses": "a", "partition": "debug", "network": "none"}
        result = modify(OTHER, **desc)
        assert (result.code, result.desc) == (0, desc)


class TestNetwork:
    @pytest.mark.parametrize("network", ["ib,mtu=9000"])
    def test_the_same(self, modify: Modify, network: str) -> None:
        assert modify(OURS, network=network).code == 0

    @pytest.mark.parametrize("network", ["ib", "ib,mtu=1500", "none", "", "sn_all"])
    def test_another(self, modify: Modify, network: str) -> None:
        result = modify(OURS, network=network)
        assert (result.code, result.message) == (
            DENIED,
            "--network=ib: a job's network cannot be changed; submit it again",
        )

    def test_one_for_a_job_that_has_none(self, modify: Modify) -> None:
        result = modify(OTHER, network="ib")
        assert result.code == DENIED
        assert result.message and "submit it again" in result.message


class TestNodes:
    @pytest.mark.parametrize("state", [PENDING, RUNNING, SUSPENDED, RUNNING_CONFIGURING])
    @pytest.mark.parametrize("desc", [{"min_nodes": 1}, {"max_nodes": 1}, {"req_nodes": "n1"}])
    def test_in_any_state(self, modify: Modify, state: int, desc: dict[str, Any]) -> None:
        result = modify({**OURS, "job_state": state}, **desc)
        assert result.code == BAD_NODE_COUNT
        assert result.message and "cannot change its nodes" in result.message


class TestPolicy:
    @pytest.mark.parametrize(
        "desc, code",
        [
            ({"partition": "batch"}, 0),
            ({"partition": "batch,debug"}, DENIED),
            ({"account": "phys"}, 0),
            ({"account": "chem"}, DENIED),
            ({"qos": "low"}, 0),
        ],
    )
    def test_holds_for_changes(self, modify: Modify, desc: dict[str, str], code: int) -> None:
        assert modify(OURS, **desc).code == code

    def test_the_licence_stays(self, modify: Modify) -> None:
        assert modify(OURS, licenses="a:2").desc["licenses"] == "a:2,hpcnet:1"
        assert modify(OURS, licenses="").desc["licenses"] == "hpcnet:1"
        assert modify(OURS, licenses="a|b").code == BAD_LICENCE


class TestWho:
    FORGED = "hpcnet:lease::v=1"

    @pytest.mark.parametrize("uid", [0, lua.SLURM])
    def test_root_and_slurm_user_pass(self, modify: Modify, uid: int) -> None:
        desc = {"comment": self.FORGED, "network": "ib", "min_nodes": 1}
        result = modify(OURS, {"uid": uid}, **desc)
        assert (result.code, result.desc) == (0, desc)

    @pytest.mark.parametrize("uid", [0, lua.SLURM])
    def test_they_do_not_lose_the_token_by_a_comment(self, modify: Modify, uid: int) -> None:
        assert (
            modify(OURS, {"uid": uid}, comment="node n1 looks odd").desc["comment"] == f"node n1 looks odd {LEASE}"
        )
        assert modify(OURS, {"uid": uid}, comment="x" * 1000).desc["comment"] == "x" * 1000
        assert modify(OTHER, {"uid": uid}, comment="x\n").desc["comment"] == "x\n"

    def test_slurm_user_is_the_one_who_runs_it(self, modify: Modify) -> None:
        # The tests do not run under uid 4711; without a readable /proc only root would pass.
        assert modify(OURS, {"uid": 4711}, network="none").code == DENIED

    def test_2205_tells_the_log_only(self, modify: Modify) -> None:
        result = modify(OURS, {"slurm": "22.05"}, network="none")
        assert (result.code, result.user) == (DENIED, [])
        assert "JobId=12 by uid 1000 refused: --network=ib: a job's network cannot" in result.log[0]


class TestDefects:
    BREAK = "ipairs = function() error('broken') end"

    @pytest.mark.parametrize(
        "job, desc, code",
        [
            (OTHER, {"comment": "x"}, 0),
            (OTHER, {"comment": "hpcnet:asked:"}, -1),
            (OTHER, {"network": "ib"}, -1),
            (OURS, {"comment": "x"}, -1),
        ],
    )
    def test_stop_only_jobs_that_concern_us(
        self, modify: Modify, job: dict[str, Any], desc: dict[str, str], code: int
    ) -> None:
        result = modify(job, {"before": self.BREAK}, **desc)
        assert (result.raised, result.code) == (None, code)

    def test_a_broken_file_hinders_only_what_needs_it(self, modify: Modify) -> None:
        assert modify(OURS, {"toml": "/nowhere"}, comment="x").code == 0
        assert modify(OURS, {"toml": "/nowhere"}, licenses="x").code == -1
        assert modify(OTHER, {"toml": "/nowhere"}, licenses="x").code == 0
