# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcnet import __version__, journal
from hpcnet.cli.commands import main
from hpcnet.cli.table import print_table
from hpcnet.config import Site
from tests.unit.cli import NUMBERED, complaint, said

pytestmark = pytest.mark.usefixtures("no_jobs_here")

PLAN = """\
network   vxlan, VNI 6815744, 10.128.0.0/28, fd68:7063:6e65::/64 (an empty pool's first lease)
mtu       the largest that each uplink allows
join      tasks, egress host, docker no

NODE  FABRIC    IPV4        IPV6               MAC                CONTAINERS
n1    10.2.0.1  10.128.0.1  fd68:7063:6e65::1  02:42:0a:80:00:01  10.128.0.4-5
n2    10.2.0.2  10.128.0.2  fd68:7063:6e65::2  02:42:0a:80:00:02  10.128.0.6-7
n3    10.2.0.3  10.128.0.3  fd68:7063:6e65::3  02:42:0a:80:00:03  10.128.0.8-9
"""


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell's command line in which ``hpcnet`` is this one."""
    words = ["bash", "-c", f'hpcnet() {{ "{sys.executable}" -m hpcnet "$@"; }}; {command}']
    return subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


# The command itself.


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = shell("hpcnet --help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("plan", "list", "show", "check", "filter", "lab", "prolog-slurmctld", "exit codes:"):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["plan", "list", "show", "check", "filter"])
def test_each_commands_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert "examples:" in out and f"  hpcnet {command}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"hpcnet {__version__}\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "required: COMMAND"),
        ("frob", "invalid choice: 'frob'"),
        ("plan", "required: --nodes"),
        ("plan --nodes n1 --frob", "unrecognized arguments: --frob"),
        ("list extra", "unrecognized arguments: extra"),
        ("show", "required: JOB"),
        ("show n1", "'n1' is not a job id"),
        ("show 0", "'0' is not a job id"),
        ("show 4294967296", "is not a job id"),
        ("show ١", "is not a job id"),
        ("check -- -1", "'-1' is not a job id"),
        ("filter drop", "invalid choice: 'drop'"),
        ("filter show --json", "unrecognized arguments: --json"),
    ],
)
def test_a_wrong_command_line_is_2(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert says in err.splitlines()[-1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "plan --help", "plan --nodes n[1-2000]"])
def test_a_reader_that_leaves_early_is_no_error(words: str, unbuffered: str, config: str) -> None:
    option = "" if "help" in words else f"--config {config}"
    done = shell(f"hpcnet {words} {option} | head -0; echo ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED=unbuffered)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_closed_stdout_is_no_error(config: str) -> None:
    done = shell(f"hpcnet plan --nodes n1 --config {config} >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_an_error_in_one_line(config: str) -> None:
    done = shell(f"hpcnet plan --nodes n1 --config {config} >/dev/full")
    assert done.returncode == 3
    assert "No space left" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_unforeseen_error_is_one_line_and_a_traceback_only_when_asked_for(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("why")

    monkeypatch.setattr("hpcnet.nodelist.expand", broken)
    assert main(["plan", "--nodes", "n1", "--config", config]) == 3
    assert "internal error, please report: ZeroDivisionError: why" in capsys.readouterr().err
    monkeypatch.setenv("HPCNET_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["plan", "--nodes", "n1", "--config", config])


# The configuration.


@pytest.mark.parametrize(
    "words", [["plan", "--nodes", "n1"], ["check"], ["filter", "show"], ["filter", "load"]], ids=" ".join
)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "hpcnet.toml: cannot be read: No such file or directory"),
        ("[fabric", "hpcnet.toml: not TOML"),
        ("[fabric]\nuplnk = 1\n", "hpcnet.toml: unknown key 'uplnk' in [fabric]"),
        ("[pool]\nwait = -1\n", "hpcnet.toml: [pool] wait = -1: must be an integer from 0 to 300"),
    ],
)
def test_a_bad_configuration_is_3_and_one_line(
    words: list[str],
    text: str | None,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file = tmp_path / "hpcnet.toml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert says in complaint(capsys, 3, *words, "--config", str(file))


def test_a_configuration_that_may_not_be_read_is_3(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(path: str, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("hpcnet.config.open", denied, raising=False)  # root may read everything
    message = complaint(capsys, 3, "plan", "--nodes", "n1", "--config", config)
    assert f"{config}: cannot be read: Permission denied" in message


# hpcnet plan


def test_plan_prints_the_lease_and_every_nodes_addresses(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--network", "ib,endpoints=2", "--nodes", "n[1-3]", "--config", config]
    assert said(capsys, 0, *words) == PLAN


def test_plan_with_a_node_prints_what_it_builds(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(
        capsys, 0, "plan", "--network", "ib,mtu=1400", "--nodes", "n[1-2]", "--node", "n2", "--config", config
    )
    *_, builds, tasks = out.split("\n\n")
    assert "  NCCL_SOCKET_IFNAME==hpc0\n" in tasks
    assert builds + "\n" == (
        "n2 builds namespace hpcnet-JOBID with\n"
        "  address 10.128.0.2/30 on hpc0\n"
        "  address fd68:7063:6e65::2/64 on hpc0\n"
        "  address fe80::a80:2/64 on hpc0\n"
        "  device hpc0 macvlan mac 02:42:0a:80:00:02 mtu 1400 up\n"
        "  device hpcout veth mac 02:68:70:6e:65:02 mtu 1500 up\n"
        "  device hpcvx vxlan id 6815744 local 10.2.0.2 port 4789 mtu 1400 up\n"
        "  filter admits VNI 6815744 from 10.2.0.1\n"
        "  filter lets out 10.128.0.2 by hpceJOBID\n"
        "  forwarding 02:42:0a:80:00:01 to 10.2.0.1\n"
        "  neighbour 10.128.0.1 has 02:42:0a:80:00:01\n"
        "  neighbour 192.0.0.8 has 02:68:70:6e:65:01\n"
        "  neighbour fd68:7063:6e65::1 has 02:42:0a:80:00:01\n"
        "  on the node: device hpceJOBID veth mac 02:68:70:6e:65:01 mtu 1500 up\n"
        "  on the node: neighbour 10.128.0.2 has 02:68:70:6e:65:02\n"
        "  on the node: route 10.128.0.2 on hpceJOBID\n"
        "  route default by 192.0.0.8 on hpcout from 10.128.0.2\n"
    )


def test_plan_says_that_only_the_node_knows_an_mtu_that_nobody_gave(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(capsys, 0, "plan", "--nodes", "n1", "--node", "n1", "--config", config)
    assert out.count("mtu (the MTU of ib0 less 50) up") == 2
    assert out.count("1500") == 2 and "1450" not in out  # the link to the node


def test_plan_knows_the_mtu_that_the_site_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hpcnet.toml"
    file.write_text(NUMBERED.replace("[pool]", "mtu = 9000\n[pool]"), encoding="utf-8")
    out = said(capsys, 0, "plan", "--nodes", "n1", "--node", "n1", "--config", str(file))
    assert "mtu       8950\n" in out and out.count(" mtu 8950 up") == 2


def test_plan_as_json(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--network", "ib,endpoints=2", "--nodes", "n[1-2]", "--node", "n2", "--json"]
    document = json.loads(said(capsys, 0, *words, "--config", config))
    assert document["lease"] == {
        "mode": "vxlan",
        "vni": 6815744,
        "ipv4": "10.128.0.0/28",
        "ipv6": "fd68:7063:6e65::/64",
        "endpoints": 2,
        "mtu": 0,
        "join": "tasks",
        "egress": "host",
        "docker": False,
        "pkey": "none",
        "ipoib": "none",
        "shared": False,
    }
    assert document["lease_source"] == "first"
    assert [node["node"] for node in document["nodes"]] == ["n1", "n2"]
    assert document["nodes"][1] == {
        "node": "n2",
        "rank": 1,
        "fabric": "10.2.0.2",
        "ipv4": "10.128.0.2",
        "ipv6": "fd68:7063:6e65::2",
        "mac": "02:42:0a:80:00:02",
        "containers": ["10.128.0.6", "10.128.0.7"],
    }
    assert "address 10.128.0.2/28 on hpc0" in document["builds"]["lines"]
    assert document["builds"]["variables"]["NCCL_SOCKET_IFNAME"] == "=hpc0"


def test_plan_as_json_without_a_node_builds_nothing(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(said(capsys, 0, "plan", "--nodes", "n1", "--json", "--config", config))
    assert "builds" not in document


def test_plan_shows_a_span_of_containers_beyond_one_octet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hpcnet.toml"
    file.write_text(NUMBERED + "[offer]\nmax_endpoints = 1024\n", encoding="utf-8")
    out = said(capsys, 0, "plan", "--network", "ib,endpoints=1024", "--nodes", "n1", "--config", str(file))
    assert out.splitlines()[-1].split()[-1] == "10.128.4.0-10.128.7.255"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--network", "ib,foo=1", "--nodes", "n1"], 'unknown key "foo"'),
        (["--network", "ib,mtu=x", "--nodes", "n1"], "mtu="),
        (["--network", "ib,mode=direct", "--nodes", "n1"], "mode=direct is not offered here"),
        (["--network", "sn_all", "--nodes", "n1"], "--network='sn_all' is not hpcnet's; its first word is ib"),
        (["--network", "a\nb", "--nodes", "n1"], "is not hpcnet's"),
        (["--nodes", "n[1-"], "nodes 'n[1-'"),
        (["--nodes", ""], "an empty name"),
        (["--nodes", "n1,n[1-2]"], "a name twice"),
        (["--nodes", "n[1-4]", "--node", "n5"], "node 'n5' is not among n[1-4]"),
        (["--nodes", "n1", "--node", "x\ny"], "is not among n1"),
    ],
)
def test_plan_for_what_the_user_may_not_have_is_2(
    words: list[str], says: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in complaint(capsys, 2, "plan", *words, "--config", config)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [("login", "no number in its name"), ("n[1-16385]", "networks of 1 to 16384 nodes")],
)
def test_plan_for_what_the_site_cannot_give_is_3(
    nodes: str, says: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in complaint(capsys, 3, "plan", "--nodes", nodes, "--config", config)


# hpcnet check, hpcnet filter: what needs no kernel


@pytest.mark.parametrize("words", [["check"], ["check", "12"], ["filter", "load"]], ids=" ".join)
def test_what_needs_root_says_so(
    words: list[str], config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert "run it as root" in complaint(capsys, 3, *words, "--config", config)


def test_check_of_a_job_that_is_not_here_is_1(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    out = said(capsys, 1, "check", "12", "--config", config)
    assert out == "job 12: no journal of this job on this node\n"
    journal.refuse(12, "pool is full")
    assert said(capsys, 1, "check", "12", "--config", config) == "job 12: refused: pool is full\n"
    (report,) = json.loads(said(capsys, 1, "check", "12", "--json", "--config", config))
    assert (report["job_id"], report["clean"], report["problem"]) == (12, False, "refused: pool is full")


def test_check_of_a_node_without_jobs_is_0(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("hpcnet.check.jobs", list)
    assert said(capsys, 0, "check", "--config", config) == "no job has a network on this node\n"
    assert said(capsys, 0, "check", "--json", "--config", config) == "[]\n"


def test_filter_show_prints_the_sites_table_for_anyone(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    out = said(capsys, 0, "filter", "show", "--config", config)
    site = Site()
    assert f'oifname "{site.fabric.uplink}"' in out and "@th,96,24 < 6815744 accept" in out


# Tables


def test_a_tables_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "LONG", "C"), [(1, 2, "three"), ("four", None, "")])
    assert capsys.readouterr().out == "A     LONG  C\n1     2     three\nfour  None\n"
