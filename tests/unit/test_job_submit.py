# SPDX-License-Identifier: Apache-2.0
"""job_submit.lua at submit, in each Lua of this machine, through a harness that imitates slurmctld."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest

from hpcnet import record
from tests.grammar import Case, cases
from tests.unit import lua
from tests.unit.lua import Result, Scenario

DENIED, BAD_LICENCE = 2002, 2048
BATCH = {"batch": {"flag_default": 1}, "debug": {"flag_default": 0}}

Submit = Callable[..., Result]


@pytest.fixture(params=lua.VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    if not lua.interpreter(request.param):
        pytest.skip(f"no lua{request.param} here")
    return str(request.param)


def toml(path: Path, **sections: dict[str, Any]) -> Path:
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def submit(version: str, tmp_path: Path) -> Submit:
    """``submit(policy, field=value, ...)``: the job as the site with that [submit] section takes it."""

    def call(policy: dict[str, Any] | None = None, scenario: Scenario | None = None, **desc: Any) -> Result:
        file = toml(tmp_path / "hpcnet.toml", submit=policy or {})
        given = {"toml": str(file), "desc": desc, "parts": BATCH, "call": "submit", **(scenario or {})}
        return lua.play(version, [given], tmp_path)[0]

    return call


def case_scenario(case: Case, number: int, directory: Path) -> Scenario:
    fabric = {"mtu": case.site["uplink_mtu"]} if "uplink_mtu" in case.site else {}
    defaults = {"endpoints": 1, "mode": case.site.get("default_mode", "vxlan"), "egress": "none"}
    file = toml(
        directory / f"{number}.toml", fabric=fabric, defaults=defaults, offer=case.offer(), direct=case.direct()
    )
    built = {"modes": ["vxlan", "direct"], "egress": ["none", "host"]}
    return {"toml": str(file), "built": built, "desc": {"network": case.option}}


def test_the_shared_table(version: str, tmp_path: Path) -> None:
    table = cases()
    scenarios = [case_scenario(case, number, tmp_path) for number, case in enumerate(table)]
    for case, result in zip(table, lua.play(version, scenarios, tmp_path)):
        stamp = None if case.canonical is None else f"hpcnet:asked:{case.canonical}"
        assert (result.desc.get("comment"), result.message, result.raised) == (stamp, case.message, None)
        assert result.code == (-1 if case.refused else 0)
        if stamp:
            found = record.find(stamp)
            assert found and record.token(found) == stamp


def test_only_its_own_globals(submit: Submit) -> None:
    assert submit().globals == ["hpcnet", "slurm_job_modify", "slurm_job_submit"]


class TestOtherJobs:
    @pytest.mark.parametrize("network", [None, "", "none", "sn_all", "IB", "ibx"])
    @pytest.mark.parametrize("file", ["/nowhere", "broken"])
    def test_pass_as_they_are_whatever_the_file(
        self, submit: Submit, tmp_path: Path, network: str, file: str
    ) -> None:
        (tmp_path / "broken").write_text("[submit\n")
        desc = {"comment": "mine\n  %s", **({} if network is None else {"network": network})}
        result = submit(scenario={"toml": str(tmp_path / file)}, **desc)
        assert (result.code, result.desc, result.user) == (0, desc, [])

    def test_a_broken_file_is_logged_for_jobs_that_may_get_a_default(self, submit: Submit) -> None:
        assert "/nowhere" in submit(scenario={"toml": "/nowhere"}).log[0]

    @pytest.mark.parametrize("field", ["comment", "extra"])
    @pytest.mark.parametrize(
        "text, left",
        [
            ("hpcnet:lease:x:v=1", None),
            ("a hpcnet:asked: b", "a  b"),
            ("a\u00a0hpcnet:lease:x", None),
            ("a\x1chpcnet:lease:x b", " b"),
            ("a\nhpcnet:lease:x\n", "a\n\n"),
            ("x" * 2000 + " hpcnet:lease:x", "x" * 2000 + " "),
            ("see hpcnet docs", "see hpcnet docs"),
        ],
    )
    def test_lose_a_forged_token(self, submit: Submit, field: str, text: str, left: str | None) -> None:
        result = submit(**{field: text})
        assert result.desc.get(field) == left
        assert record.find(result.desc.get(field, "")) is None

    def test_a_huge_comment_costs_no_time(self, submit: Submit) -> None:
        assert submit(comment=" " * 500_000 + "hpcnet:" * 100_000).code == 0


class TestStamp:
    def test_in_the_comment_before_2302(self, submit: Submit) -> None:
        assert submit(network="ib,mtu=9000").desc["comment"] == "hpcnet:asked:mtu=9000"

    def test_behind_the_users_text_without_control_characters(self, submit: Submit) -> None:
        text = "\t two\nlines  hpcnet:asked:mtu=9000 end\x1b \x7f"
        assert submit(network="ib", comment=text).desc["comment"] == "two lines   end hpcnet:asked:"

    def test_array_and_batch_fields_are_left_alone(self, submit: Submit) -> None:
        desc = {"network": "ib", "min_nodes": 2, "max_nodes": 4, "partition": "debug"}
        assert submit(**desc).desc == {**desc, "comment": "hpcnet:asked:"}

    @pytest.mark.parametrize("size, code", [(511, 0), (512, -1), (1024, -1), (2000, -1)])
    def test_room_for_the_lease(self, submit: Submit, size: int, code: int) -> None:
        result = submit(network="ib", comment="x" * size)
        assert result.code == code
        if code:
            assert (
                result.message == f"--network=ib: --comment is {size} bytes long; with a job network at most 511"
            )
            assert result.desc["comment"] == "x" * size

    @pytest.mark.parametrize(
        "conf, field",
        [
            ("ClusterName=x\n", "extra"),
            ("#SchedulerParameters=extra_constraints\n", "extra"),
            ("SchedulerParameters=bf_window=1,Extra_Constraints\n", "comment"),
            ("SchedulerParameters=bf_window=1,\\\n  extra_constraints\n", "comment"),
            ("Include more.conf\n", "comment"),
            ("include {}/more.conf\n", "comment"),
            ("Include nowhere.conf\n", "comment"),
            (None, "comment"),
        ],
    )
    def test_auto_since_2302(
        self, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str | None, field: str
    ) -> None:
        if conf is not None:
            (tmp_path / "slurm.conf").write_text(conf.format(tmp_path))
        (tmp_path / "more.conf").write_text("SchedulerParameters=extra_constraints\n")
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        result = submit(scenario={"slurm": "23.02"}, network="ib", extra="mine", comment="too hpcnet:x")
        texts = {"extra": "mine", "comment": "too "}
        assert result.desc == {"network": "ib", **texts, field: texts[field].strip() + " hpcnet:asked:"}

    def test_the_sites_own_choice(self, submit: Submit) -> None:
        for field in ("comment", "extra"):
            result = submit({"record": field}, {"slurm": "23.02"}, network="ib")
            assert result.desc[field] == "hpcnet:asked:"

    def test_extra_is_not_given_to_hooks_before_2302(self, submit: Submit) -> None:
        result = submit({"record": "extra"}, network="ib")
        assert result.code == -1
        assert result.message and "needs Slurm 23.02" in result.message


class TestPolicy:
    @pytest.mark.parametrize(
        "policy, desc, refused",
        [
            ({"accounts": ["phys", "Bio"]}, {"account": "PHYS"}, None),
            ({"accounts": ["phys", "Bio"]}, {"account": "bio"}, None),
            ({"accounts": ["phys"]}, {"default_account": "phys"}, None),
            ({"accounts": ["phys"]}, {"account": "chem", "default_account": "phys"}, 'account "chem"'),
            ({"accounts": ["phys"]}, {}, 'account ""'),
            ({"partitions": ["batch"]}, {}, None),
            ({"partitions": ["debug"]}, {}, 'partition "batch"'),
            ({"partitions": ["batch", "debug"]}, {"partition": "debug,batch"}, None),
            ({"partitions": ["debug"]}, {"partition": "debug,batch"}, 'partition "batch"'),
            ({"partitions": ["debug"]}, {"partition": "Debug"}, 'partition "Debug"'),
            ({"partitions": ["debug"]}, {"reservation": "maintenance"}, None),
            ({"partitions": ["batch"]}, {"reservation": "maintenance"}, 'partition "debug"'),
            ({"partitions": ["batch"]}, {"reservation": "maintenance", "partition": "batch"}, None),
            ({"partitions": ["batch"]}, {"reservation": "anywhere"}, None),
            ({"partitions": ["batch"]}, {"reservation": "nowhere"}, None),
            ({"qos": ["high"]}, {"qos": "high"}, None),
            ({"qos": ["high"]}, {"default_qos": "High"}, None),
            ({"qos": ["high"]}, {"qos": "low"}, 'qos "low"'),
        ],
    )
    def test_who_may_ask(
        self, submit: Submit, policy: dict[str, Any], desc: dict[str, Any], refused: str | None
    ) -> None:
        result = submit(policy, network="ib", **desc)
        if refused is None:
            assert (result.code, result.message) == (0, None)
        else:
            allowed = ", ".join(next(iter(policy.values())))
            assert result.message == f"--network=ib: {refused} may not have a job network; allowed: {allowed}"
            assert result.code == DENIED
            assert "comment" not in result.desc

    def test_no_default_partition(self, submit: Submit) -> None:
        result = submit({"partitions": ["batch"]}, {"parts": {"debug": {"flag_default": 0}}}, network="ib")
        assert result.code == DENIED

    @pytest.mark.parametrize("offset, code", [(4294967294, 0), (0, -1), (1, -1)])
    def test_heterogeneous_jobs(self, submit: Submit, offset: int, code: int) -> None:
        result = submit(network="ib", het_job_offset=offset)
        assert result.code == code
        if code:
            assert result.message and "heterogeneous" in result.message and "for now" in result.message

    @pytest.mark.parametrize(
        "asked, taken",
        [
            (None, "hpc.net:1"),
            ("", "hpc.net:1"),
            ("matlab:2", "matlab:2,hpc.net:1"),
            ("hpc.net", "hpc.net:1"),
            ("hpc.net:5,matlab", "matlab,hpc.net:1"),
            ("a:1;hpc.net=3;b:2,hpc.net:9", "a:1,b:2,hpc.net:1"),
            ("hpc.net2:1,hpcxnet:2,xhpc.net", "hpc.net2:1,hpcxnet:2,xhpc.net,hpc.net:1"),
            ("gpfs(n1,n2):3", "gpfs(n1,n2):3,hpc.net:1"),
        ],
    )
    def test_one_licence(self, submit: Submit, asked: str | None, taken: str) -> None:
        desc = {} if asked is None else {"licenses": asked}
        assert submit({"licence": "hpc.net"}, network="ib", **desc).desc["licenses"] == taken

    def test_licences_are_not_ours_otherwise(self, submit: Submit) -> None:
        assert submit({"licence": "hpcnet"}, licenses="hpcnet:3").desc == {"licenses": "hpcnet:3"}
        assert submit(network="ib", licenses="a|b").desc["licenses"] == "a|b"

    def test_a_choice_of_licences(self, submit: Submit) -> None:
        result = submit({"licence": "hpcnet"}, network="ib", licenses="a|b")
        assert (result.code, result.desc["licenses"]) == (BAD_LICENCE, "a|b")


class TestDefaultPartitions:
    @pytest.mark.parametrize(
        "desc, given",
        [
            ({}, True),
            ({"network": ""}, True),
            ({"partition": "batch"}, True),
            ({"partition": "debug"}, False),
            ({"partition": "batch,debug"}, False),
            ({"network": "none"}, False),
            ({"comment": "x" * 600}, False),
            ({"het_job_offset": 0}, False),
            ({"account": "chem"}, False),
        ],
    )
    def test_who_gets_one(self, submit: Submit, desc: dict[str, Any], given: bool) -> None:
        policy = {"default_partitions": ["batch"], "accounts": ["phys"], "licence": "hpcnet"}
        result = submit(policy, **{"account": "phys", **desc})
        assert (result.code, result.user) == (0, [])
        assert result.desc.get("licenses") == ("hpcnet:1" if given else None)
        assert result.desc.get("comment", "").endswith("hpcnet:asked:") is given


class TestDefects:
    @pytest.mark.parametrize(
        "desc, code",
        [({"network": "ib"}, -1), ({"comment": "hpcnet:lease:x"}, -1), ({}, 0), ({"network": "sn_all"}, 0)],
    )
    def test_stop_only_jobs_that_concern_us(self, submit: Submit, desc: dict[str, str], code: int) -> None:
        before = "ipairs = function() error('broken') end"
        result = submit(scenario={"before": before}, **desc)
        assert (result.raised, result.code) == (None, code)
        if code:
            assert result.message and "job_submit.lua failed" in result.message
            assert "broken" in result.log[0]


def test_a_batch_jobs_environment_says_that_it_asked(submit: Submit) -> None:
    """The SPANK plugin reads it on a node whose Prolog does not know the job."""
    batch: dict[str, Any] = {"script": "#!/bin/sh\n", "environment": {"HOME": "/home/alice"}}
    asked = submit(network="ib", **batch)
    assert asked.desc["environment"] == {"HOME": "/home/alice", "SLURM_NETWORK": "ib"}
    other = submit(network="sn_all", **batch)
    assert other.desc["environment"] == {"HOME": "/home/alice"}
