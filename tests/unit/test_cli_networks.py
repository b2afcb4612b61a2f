# SPDX-License-Identifier: Apache-2.0
"""hpcnet list and hpcnet show, with a program in the place of squeue that prints job records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcnet import journal, names
from hpcnet.cli.commands import main
from tests.unit.cli import complaint, said

pytestmark = pytest.mark.usefixtures("no_jobs_here")

LEASE = (
    "hpcnet:lease:mtu=1450:v=1,serial=7,mode=vxlan,vni=6815744,ipv4=10.128.0.0/29,"
    "ipv6=fd68:7063:6e65::/64,endpoints=0,mtu=1450,join=tasks,egress=none,docker=no,pkey=none,ipoib=none,shared=no"
)

LIST = """\
JOB   USER   STATE                 MODE   VNI      SUBNET         MTU   NODES
12    ada    RUNNING               vxlan  6815744  10.128.0.0/29  1450  n[1-3]
13    ada    PENDING               -      -        -              -     -
20_3  grace  RUNNING               -      -        -              -     refused: the pool is full
15    ada    COMPLETED+COMPLETING  vxlan  6815744  10.128.0.0/29  1450  n2
"""

SHOW = """\
job       12 of ada, RUNNING
asked     --network=ib,mtu=1450
network   vxlan, VNI 6815744, 10.128.0.0/29, fd68:7063:6e65::/64
mtu       1450
join      tasks, egress none, docker no
serial    7

NODE  IPV4        IPV6               MAC                FABRIC
n1    10.128.0.1  fd68:7063:6e65::1  02:42:0a:80:00:01  10.2.0.1
n2    10.128.0.2  fd68:7063:6e65::2  02:42:0a:80:00:02  10.2.0.2
n3    10.128.0.3  fd68:7063:6e65::3  02:42:0a:80:00:03  10.2.0.3
"""


def job(job_id: int, state: list[str], nodes: str = "", **more: Any) -> dict[str, Any]:
    return {"job_id": job_id, "job_state": state, "nodes": nodes, "user_name": "ada", "user_id": 1001, **more}


JOBS = [
    job(11, ["RUNNING"], "n9", comment="see http://hpcnet:80/", extra="nothing of ours"),
    job(12, ["RUNNING"], "n[1-3]", extra=f"for the paper {LEASE}"),
    job(13, ["PENDING"], comment="hpcnet:asked:mtu=1450"),
    job(
        14,
        ["RUNNING"],
        "n4",
        extra="see http://hpcnet:80/",
        comment="hpcnet:refused::the_pool_is_full",
        array_job_id=20,
        array_task_id=3,
        user_name="grace",
    ),
    job(15, ["COMPLETED", "COMPLETING"], "n2", comment=LEASE),
    job(16, ["FAILED"], "n2", comment=LEASE),
]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A squeue that prints JOBS; the path of what it prints."""
    directory = tmp_path / "bin"
    directory.mkdir()
    answer = directory / "answer.json"
    answer.write_text(json.dumps({"jobs": JOBS, "errors": []}), encoding="utf-8")
    program = directory / "squeue"
    program.write_text(f"#!/bin/sh\ncat {answer}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return answer


def test_list_has_a_line_for_each_job_that_asked(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, 0, "list") == LIST


def test_list_as_json(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running, pending, refused, completing = json.loads(said(capsys, 0, "list", "--json"))
    assert running == {
        "job": 12,
        "array": None,
        "user": "ada",
        "state": ["RUNNING"],
        "nodes": "n[1-3]",
        "asked": "ib,mtu=1450",
        "lease": {
            "serial": 7,
            "mode": "vxlan",
            "vni": 6815744,
            "ipv4": "10.128.0.0/29",
            "ipv6": "fd68:7063:6e65::/64",
            "endpoints": 0,
            "mtu": 1450,
            "join": "tasks",
            "egress": "none",
            "docker": False,
            "pkey": "none",
            "ipoib": "none",
            "shared": False,
        },
        "refused": None,
    }
    assert (pending["lease"], pending["refused"], pending["asked"]) == (None, None, "ib,mtu=1450")
    assert (refused["array"], refused["refused"], refused["asked"]) == ("20_3", "the pool is full", "ib")
    assert completing["state"] == ["COMPLETED", "COMPLETING"]


def test_list_all_has_the_ended_jobs_too(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry["job"] for entry in json.loads(said(capsys, 0, "list", "--json"))] == [12, 13, 14, 15]
    assert [entry["job"] for entry in json.loads(said(capsys, 0, "list", "--all", "--json"))] == [
        12,
        13,
        14,
        15,
        16,
    ]


def test_show_takes_an_arrays_task(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_number = said(capsys, 0, "show", "14", "--json")
    assert json.loads(by_number)["refused"] == "the pool is full"
    assert said(capsys, 0, "show", "20_3", "--json") == by_number


def test_list_of_no_networks_is_its_heads(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.write_text('{"jobs": [], "errors": []}', encoding="utf-8")
    assert said(capsys, 0, "list").split() == "JOB USER STATE MODE VNI SUBNET MTU NODES".split()
    assert json.loads(said(capsys, 0, "list", "--json")) == []


@pytest.mark.parametrize("token", ["hpcnet:rubbish", "hpcnet:asked:frob=1", LEASE.replace("v=1", "v=2")])
def test_a_broken_token_is_one_line_and_the_other_jobs_are_listed(
    token: str, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [job(5, ["RUNNING"], "n5", comment=token), *JOBS]
    slurm.write_text(json.dumps({"jobs": listed, "errors": []}), encoding="utf-8")
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert out == LIST
    assert err.startswith("hpcnet: job 5: the job record's token") and len(err.splitlines()) == 1


def test_show_prints_all_of_a_job(slurm: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, 0, "show", "12", "--config", config) == SHOW


def test_show_as_json(slurm: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(said(capsys, 0, "show", "12", "--json", "--config", config))
    assert (document["job"], document["here"]) == (12, None)
    assert document["addresses"][2] == {
        "node": "n3",
        "ipv4": "10.128.0.3",
        "ipv6": "fd68:7063:6e65::3",
        "mac": "02:42:0a:80:00:03",
        "fabric": "10.2.0.3",
    }


def test_show_gives_a_completing_job_no_addresses(
    slurm: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Slurm lists the nodes that are not done yet: n2 would be the first of them, and was the second.
    assert json.loads(said(capsys, 0, "show", "15", "--json", "--config", config))["addresses"] == []
    out = said(capsys, 0, "show", "15", "--config", config)
    assert "network   vxlan, VNI 6815744" in out and "10.128.0.1" not in out


def test_show_of_a_job_that_waits(slurm: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, 0, "show", "13", "--config", config)
    assert "network   none yet: it is leased when the job starts" in out


def test_show_of_a_job_that_was_refused(slurm: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "refused   the pool is full\n" in said(capsys, 0, "show", "14", "--config", config)


@pytest.mark.parametrize("unknown", ["11", "99"])
def test_show_of_a_job_without_a_network_is_1(
    unknown: str, slurm: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"job {unknown} has no network" in complaint(capsys, 1, "show", unknown, "--config", config)


def test_show_without_a_configuration_still_shows_the_network(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "12", "--config", str(tmp_path / "absent.toml")]) == 0
    out, err = capsys.readouterr()
    assert "VNI 6815744" in out and "NODE" not in out
    assert "addresses cannot be computed here" in err and len(err.splitlines()) == 1


def test_show_says_what_this_node_holds(slurm: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    journal.refuse(12, "no such uplink")
    assert "here      refused: no such uplink\n" in said(capsys, 0, "show", "12", "--config", config)
    journal.erase(12)
    Path(names.job_dir(12)).mkdir()
    assert "here      half-built\n" in said(capsys, 0, "show", "12", "--config", config)
    journal.publish(12, "", "")
    assert "here      complete\n" in said(capsys, 0, "show", "12", "--config", config)


def test_show_of_a_job_that_only_this_node_knows(
    slurm: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.refuse(99, "why")
    out = said(capsys, 0, "show", "99", "--config", config)
    assert out == "job       99, not known to Slurm any more\nhere      refused: why\n"
    document = json.loads(said(capsys, 0, "show", "99", "--json", "--config", config))
    here = {"complete": False, "refused": "why", "steps": []}
    assert document == {"job": 99, "addresses": [], "here": here, "accounts": []}


@pytest.mark.parametrize("words", [["list"], ["show", "12"]], ids=" ".join)
def test_a_slurmctld_that_does_not_answer_is_3(
    words: list[str], slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = slurm.with_name("squeue")
    failure = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    program.write_text(f"#!/bin/sh\necho '{failure}' >&2\nexit 1\n", encoding="utf-8")
    assert "Unable to contact slurm controller" in complaint(capsys, 3, *words)


INTERFACE = {"device": "hpc0", "kind": "tasks", "counters": {"rx_bytes": 5}}
ACCOUNT = {
    "schema": 1, "job": 12, "serial": 7, "node": "n1", "user": "ada", "mode": "vxlan", "started": 1, "ended": 3,
    "seconds": 2.0, "interfaces": [INTERFACE], "problem": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"interfaces": [{**INTERFACE, "device": "\x1b]0;root\x07\x1b[2Jhpc0"}]},
        {"node": "n1\nforged line", "user": "\u202eada"},
        {"interfaces": 5},
        {"interfaces": [[[]]]},
        {"interfaces": [{**INTERFACE, "counters": {"rx_bytes": "\x1b[2J"}}]},
        {"seconds": "\x1b[2J"},
        {"seconds": None},
        {"schema": 2},
        {"problem": 10**400},
        {"extra": "\x1b[2J" * 1000},
    ],
)
def test_an_account_that_its_owner_rewrote_does_nothing_to_who_reads_it(
    tmp_path: Path, slurm: Path, config: str, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "7.n1.json").write_text(json.dumps({**ACCOUNT, **changes}), encoding="utf-8")
    with open(config, "a", encoding="utf-8") as file:
        file.write(f'\n[hooks]\naccounts = "{tmp_path}"\n')
    out = said(capsys, 0, "show", "12", "--config", config)
    assert "forged" not in {line.split()[0] for line in out.splitlines() if line}
    assert all(line.isprintable() for line in out.splitlines())
