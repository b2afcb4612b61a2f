# SPDX-License-Identifier: Apache-2.0
"""How doctor judges what slurmctld says, its programs and its clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcnet import config
from hpcnet.config import Site
from hpcnet.doctor import slurm
from hpcnet.doctor.model import FAIL, OK, WARN
from hpcnet.slurm import configuration
from hpcnet.slurm.configuration import Configuration
from hpcnet.slurm.jobs import ControllerUnreachable
from tests.unit.test_doctor import only

CONFIG = """\
Configuration data as of 1000000
AuthInfo                = (null)
BOOT_TIME               = 999000
ClusterName             = lab
Epilog                  = /opt/hpcnet/libexec/hpcnet/epilog
EpilogSlurmctld         = /opt/hpcnet/libexec/hpcnet/epilog_slurmctld
HASH_VAL                = Match
JobSubmitPlugins        = lua
Licenses                = hpcnet:4096,matlab:3
Prolog                  = /opt/hpcnet/libexec/hpcnet/prolog
PrologEpilogTimeout     = 90
PrologFlags             = Alloc,Contain,DeferBatch
PrologSlurmctld         = /opt/hpcnet/libexec/hpcnet/prolog_slurmctld
SchedulerParameters     = (null)
SlurmUser               = slurm(64030)
SlurmctldHost[0]        = ctl(10.0.0.1)
SlurmctldHost[1]        = ctl2
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8

Cgroup Support Configuration:
Prolog                  = /not/this/one
"""


def answered(text: str = CONFIG) -> Configuration:
    return configuration.parse(text, "n1 n1.example.org\nn2 n2\nn2 n2\n", 1000000.2, 1000000.4)


def test_the_answer_of_slurmctld() -> None:
    found = answered()
    assert found.clock == 1000000
    assert found.get("AuthInfo") == "" and found.get("Nothing") == ""
    assert found.programs("Prolog") == ["/opt/hpcnet/libexec/hpcnet/prolog"]
    assert found.controllers == ["ctl", "ctl2"]
    assert found.user == ("slurm", 64030)
    assert found.nodes == {"n1": "n1.example.org", "n2": "n2"}
    newer = answered(
        CONFIG.replace("Prolog     ", "Prolog[0]  ").replace("SLURM_CONF", "Prolog[1] = /x\nSLURM_CONF")
    )
    assert newer.programs("Prolog") == ["/opt/hpcnet/libexec/hpcnet/prolog", "/x"]
    assert answered(CONFIG.replace("= 90", "= 65534")).seconds("PrologEpilogTimeout") is None


def test_an_answer_that_is_none() -> None:
    with pytest.raises(ControllerUnreachable):
        answered("slurmctld is tired")


def test_hosts_that_slurm_conf_names() -> None:
    text = (
        "# SlurmctldHost=old\nSlurmctldHost=ctl(10.0.0.1)\nslurmctldhost=ctl2\nNodeName=DEFAULT CPUs=4\n"
        "NodeName=n[1-2] NodeHostname=Rack1-[7-8] # two\nnodename=n9 State=UNKNOWN\nNodeName=n[ broken\n"
    )
    found = configuration.named(text)
    assert found.controllers == ("ctl", "ctl2")
    assert found.nodes == {"n1": "Rack1-7", "n2": "Rack1-8", "n9": "n9"}


@pytest.mark.parametrize(
    ("old", "new", "status", "says"),
    [
        ("", "", OK, "as hpcnet needs them"),
        ("Prolog      ", "Nothing     ", FAIL, "Prolog is not set"),
        ("EpilogSlurmctld", "Nothing        ", FAIL, "EpilogSlurmctld is not set"),
        ("Alloc,Contain,DeferBatch", "(null)", FAIL, "has no Alloc"),
        ("Alloc,Contain,DeferBatch", "Contain", FAIL, "has no DeferBatch"),
        ("Alloc,Contain,DeferBatch", "Alloc,DeferBatch", WARN, "has no Contain"),
        ("= lua", "= require_timelimit,lua", OK, ""),
        ("= lua", "= (null)", FAIL, "has no lua"),
        ("hpcnet:4096,", "", FAIL, "no such licence"),
        ("hpcnet:4096", "hpcnet:5000", WARN, "5000 licences hpcnet, and the pool has 4096"),
        ("= 90", "= 60", FAIL, "PrologEpilogTimeout is 60 s; hpcnet's hooks may take 65 s"),
        ("= 90", "= 65534", OK, ""),
        ("= 90", "= 90\nEpilogTimeout = 65534\nPrologTimeout = 30", FAIL, "PrologTimeout is 30 s"),
    ],
)
def test_slurm_conf(old: str, new: str, status: str, says: str) -> None:
    site = replace(Site(), submit=config.Submit(licence="hpcnet"))
    assert old in CONFIG
    found = only(slurm.judge_settings(answered(CONFIG.replace(old, new) if old else CONFIG), site))
    assert found.status == status and says in found.text


@pytest.mark.parametrize(
    ("version", "parameters", "says"),
    [("22.05.8", "(null)", "from 23.02"), ("23.11.1", "bf_max=1,extra_constraints", "extra_constraints")],
)
def test_a_record_field_that_slurm_does_not_have(version: str, parameters: str, says: str) -> None:
    text = CONFIG.replace("22.05.8", version).replace("Parameters     = (null)", f"Parameters     = {parameters}")
    site = replace(Site(), submit=config.Submit(record="extra"))
    found = only(slurm.judge_settings(answered(text), site))
    assert found.status == FAIL and says in found.text
    assert only(slurm.judge_settings(answered(text), Site())).status == OK


def test_programs_of_hooks() -> None:
    assert list(slurm.judge_programs("Prolog", {"/a": "exec /opt/hpcnet/libexec/hpcnet/prolog", "/b": "x"})) == []
    (missing,) = slurm.judge_programs("Prolog", {"/a": None})
    assert missing.status == FAIL and "cannot be run" in missing.text
    (other,) = slurm.judge_programs("Epilog", {"/a": "true"})
    assert other.status == WARN and "says nothing of hpcnet" in other.text and "hpcnet/epilog" in other.remedy


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        (None, FAIL, "cannot be read"),
        ("function slurm_job_submit() end", FAIL, "says nothing of hpcnet"),
        ('dofile("/opt/hpcnet/x.lua")', "", ""),
        (
            'dofile("/opt/hpcnet/x.lua")\nfunction slurm_job_modify() return 0 end',
            FAIL,
            "does not call hpcnet's",
        ),
        ("function slurm_job_modify() return hpcnet.job_modify() end\ndofile(x)", "", ""),
        ("local M = { hpcnet of today }", "", ""),
        ("local M = { hpcnet of yesterday }", WARN, "of another version"),
    ],
)
def test_job_submit_lua(text: str | None, status: str, says: str) -> None:
    script = slurm.Script("/etc/slurm/job_submit.lua", text, 5.0, "local M = { hpcnet of today }", 4.0)
    found = list(slurm.judge_script(script))
    assert [each.status for each in found] == ([status] if status else [])
    assert says in "".join(each.text for each in found)


def test_a_script_that_slurmctld_read_before_the_upgrade() -> None:
    script = slurm.Script("/etc/slurm/job_submit.lua", 'dofile("hpcnet")', 5.0, "local M = {}", 6.0)
    (found,) = slurm.judge_script(script)
    assert found.status == WARN and found.remedy == "touch /etc/slurm/job_submit.lua"


@pytest.mark.parametrize(
    ("clock", "status", "says"),
    [
        (999999, OK, ""),
        (1000000, OK, ""),
        (1000002, OK, ""),
        (1000020, WARN, "behind slurmctld's by 20 s"),
        (999990, WARN, "ahead of slurmctld's by 9 s"),
        (1001000, FAIL, "behind slurmctld's by 1000 s"),
        (900000, FAIL, "ahead of slurmctld's by 99999 s"),
    ],
)
def test_clocks(clock: int, status: str, says: str) -> None:
    found = slurm.judge_clock(replace(answered(), clock=clock))
    assert found.status == status and says in found.text
