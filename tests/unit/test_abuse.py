# SPDX-License-Identifier: Apache-2.0
"""Option strings and comments of somebody who means harm: through job_submit.lua, request and record.

20,000 of them in one Lua process, which must say of each what Python says, and through Prolog as a job's record,
without a kernel; and a list of nasty ones. Prolog on a node: tests/kernel/test_abuse.py.
"""

from __future__ import annotations

import contextlib
import errno
import random
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hpcnet import config, journal, lifecycle, names, record, request
from hpcnet.cli import hooks
from hpcnet.config import Fabric, Hooks, Site
from hpcnet.errors import SiteError, UserError
from hpcnet.kernel import netns, nft, rtnl
from hpcnet.record import Record
from tests.kernel.hosts import job_environment
from tests.unit import lua
from tests.unit.lua import Result

EXAMPLES = 20_000
BATCH = 400  # of them from one draw: a draw costs more than what is drawn
SITE = Site()  # what an empty hpcnet.toml says
LUA = next((version for version in reversed(lua.VERSIONS) if lua.interpreter(version)), None)

NASTY = [
    "ib,mtu=\n9000",
    "ib\n",
    "ib,\r\nmtu=9000",
    "ib,mtu=٩٠٠٠",
    "ib,mtu=９０００",
    "ib,mtu=9000\u0000",
    "ib\u0000,mtu=9000",
    "ib,mtu=1e4",
    "ib,mtu=0x2328",
    "ib,mtu=+9000",
    "ib,mtu=9_000",
    "ib,mtu= 9000",
    "ib,mtu=9000 ",
    "ib,mtu=-1",
    "ib,mtu=" + "9" * 240,
    "ib,mtu=18446744073709553616",
    "ib,mode=$(id)",
    "ib,mode=`id`",
    "ib,mode=;id;",
    "ib,mode=../../../etc/passwd",
    "ib,../../etc=1",
    "ib,mode=%s%s%n",
    "ib,%s=%n",
    "ib,mode=%d%5$x",
    "ib,mode=vxlan:v=1,serial=1",
    "ib,mode=vxlan hpcnet:lease::v=1",
    "ib,hpcnet:lease:=x",
    "ib,mode='vxlan'",
    'ib,mode="vxlan"',
    "ib,mode=\\x76xlan",
    "ib,__index=1",
    "ib,__class__=1",
    "ib,mode=vxlan\x1b[2J",
    "ib,mode=\u202evxlan",
    "ib,mode=vxlan\u00a0",
    "ib,pkey=0x8001\n",
    "ib,pkey=0x",
    "ib,pkey=0xffffffffffff",
    "ib,pkey=0X8001",
    "ib,endpoints=" + "0" * 200 + "1",
    "ib,endpoints=08",
    "ib,docker=yes,docker=yes",
    "ib," + "," * 250,
    "ib," + "=" * 250,
    "ib," + "a=" * 120,
    "ib," + "x" * (1 << 20),
    "ib," + "mtu=9000," * 100_000,
    "ib,mode=" + "(" * 200,
    "ib,%bxy%f[a]=1",
]

WORDS = [
    *(
        "ib",
        "ib,",
        ",",
        "=",
        ",mode=",
        ",mtu=",
        ",pkey=",
        ",ipoib=",
        ",endpoints=",
        ",join=",
        ",egress=",
        ",docker=",
    ),
    *("vxlan", "direct", "9000", "auto", "0x8001", "yes", "no", "none", "host", "tasks", "8", "connected"),
    *(
        "\n",
        "\t",
        "%s",
        "%n",
        "$(id)",
        "`id`",
        "../",
        "\\",
        "'",
        '"',
        ";",
        "é",
        "٣",
        "\x1b[",
        "\x7f",
        "hpcnet:",
        ":",
    ),
]
TEXTS = st.text(max_size=40)
OPTIONS = st.lists(st.sampled_from(WORDS), max_size=9).map("".join) | TEXTS | TEXTS.map("ib,".__add__)


def python_says(option: str) -> tuple[str | None, str | None]:
    """The stamp on the record, or the refusal."""
    try:
        asked = request.parse(option)
        if asked is not None:
            request.check(asked, SITE.offer, SITE.direct, SITE.defaults.mode, SITE.fabric.mtu)
    except UserError as error:
        return None, str(error)
    return (None if asked is None else record.token(Record("asked", asked))), None


def lua_says(options: list[str], directory: Path) -> list[Result]:
    """What job_submit.lua makes of each, as the ``--network`` of a job that has no more."""
    file = directory / "hpcnet.toml"
    file.write_text("", encoding="utf-8")
    assert LUA
    return lua.play(LUA, [{"toml": str(file), "desc": {"network": option}} for option in options], directory)


def judge(option: str, result: Result) -> None:
    """One clear line, the same from both; nothing raised, nothing that a terminal acts on."""
    stamp, refused = python_says(option)
    assert result.raised is None and result.log == []
    assert (result.desc.get("comment"), result.message) == (stamp, refused), repr(option)
    assert result.code == (-1 if refused else 0)
    if refused:
        assert refused.startswith("--network=ib: ") and refused.isascii() and refused.isprintable()
        assert len(refused) < 300
    if stamp:
        assert record.token(record.parse(stamp)) == stamp and len(stamp) < 200


@pytest.fixture(scope="module")
def options() -> list[str]:
    """20,000 of them, made by hypothesis."""
    options: list[str] = []

    @settings(max_examples=EXAMPLES // BATCH, deadline=None, phases=[Phase.generate], database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.lists(OPTIONS, min_size=40, max_size=40), st.randoms(use_true_random=False))
    def draw(drawn: list[str], chance: random.Random) -> None:
        options.extend(drawn)
        while len(options) % BATCH:  # what was drawn, cut and joined anew
            one, other = chance.choice(drawn), chance.choice(drawn)
            options.append(one[: chance.randint(0, len(one))] + other[chance.randint(0, len(other)) :])

    draw()
    assert len(options) >= EXAMPLES
    return options


@pytest.mark.skipif(LUA is None, reason="no lua here")
def test_each_is_read_or_refused_in_one_line_and_by_both_alike(options: list[str], tmp_path: Path) -> None:
    asked = 0
    for option, result in zip(options, lua_says(options, tmp_path)):
        judge(option, result)
        asked += result.code == -1 or "comment" in result.desc
    assert asked > EXAMPLES / 10, "they are too tame"


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a hook asks of the kernel, of nft and of its files, and is not given."""
    asked: list[str] = []

    def refusing(what: str) -> Callable[..., None]:
        def refuse(*_: object) -> None:
            asked.append(what)
            raise OSError(errno.EPERM, what)

        return refuse

    faked = (rtnl, "Rtnl"), (nft, "_run"), (netns, "_call"), (journal, "begin"), (journal, "_write")
    for module, name in faked:
        monkeypatch.setattr(module, name, refusing(f"{module.__name__}.{name}"))
    return asked


def test_each_as_a_jobs_record_is_refused_by_prolog_in_one_line_and_nothing_is_built(
    options: list[str], touched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    peers = tmp_path / "hosts"
    peers.write_text("172.31.0.1 n1-ib\n", encoding="utf-8")
    # with a good lease this would go on, to the kernel
    site = Site(fabric=Fabric(peers_file=str(peers)), hooks=Hooks(log=str(log)))
    monkeypatch.chdir(tmp_path)  # a hook leaves it for /
    monkeypatch.setattr(config, "load", lambda: site)
    monkeypatch.setattr(journal, "locked", lambda job: contextlib.nullcontext())
    monkeypatch.setattr(lifecycle, "_remove", lambda job, site: [])
    refusals: list[str] = []
    monkeypatch.setattr(journal, "refuse", lambda job, reason: refusals.append(reason))
    for name, value in job_environment(None, "n1", SLURMD_NODENAME="n1").items():
        monkeypatch.setenv(name, value)
    lease = FORGED.partition("::")[2]
    records = (
        "{0}",
        "hpcnet:asked:{0}",
        f"hpcnet:lease:{{0}}:{lease}",
        "hpcnet:refused:{0}:{0}",
        "mine hpcnet:{0}",
    )
    for number, option in enumerate(options):
        stamp = python_says(option)[0]
        text = (stamp or records[number % len(records)].format(option)).replace("\0", "")
        monkeypatch.setenv("SLURM_JOB_COMMENT", text)
        assert hooks.main("prolog") == 0, repr(text)
    lines = log.read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == len(options) == len(refusals)
    for line in lines:
        assert " hpcnet prolog: job 17: refused: " in line and line.isprintable() and "internal error" not in line
        assert len(line) < 1000
    assert touched == []


@pytest.mark.skipif(LUA is None, reason="no lua here")
def test_nasty_options(tmp_path: Path) -> None:
    for option, result in zip(NASTY, lua_says(NASTY, tmp_path)):
        judge(option, result)
        assert result.code == -1 or option in ("ib\n", "ib\u0000,mtu=9000"), repr(option)


FORGED = "hpcnet:lease::v=1,serial=7,mode=vxlan,vni=6815744,ipv4=10.128.0.0/29,ipv6=fd68:7063:6e65::/64"
COMMENTS = [
    FORGED,
    f"mine {FORGED} text",
    f"mine\u00a0{FORGED}",
    f"mine\u2028{FORGED}\u3000text",
    f"mine\x0b{FORGED}\x1c",
    f"x{FORGED}",
    f"'{FORGED}'",
    f"\ufeff{FORGED}",
    FORGED * 8,
    "x" * (1 << 20) + f" {FORGED}",
    "hpcnet:asked:",
    "hpcnet:refused::no",
    "hpcnet:" * 100,
    "hpc hpcnet:asked:mtu=9000 net:",
]


@pytest.mark.skipif(LUA is None, reason="no lua here")
@pytest.mark.parametrize("call", ["submit", "modify"])
def test_no_comment_of_a_user_has_a_token_in_it(call: str, tmp_path: Path) -> None:
    file = tmp_path / "hpcnet.toml"
    file.write_text("", encoding="utf-8")
    scenarios = [
        {"toml": str(file), "call": call, "desc": {field: text}, "rec": {"comment": "old", "job_id": 7}}
        for text in COMMENTS
        for field in ("comment", "extra")
    ]
    assert LUA
    for result in lua.play(LUA, scenarios, tmp_path):
        assert (result.code, result.raised) == (0, None)
        for text in result.desc.values():
            assert names.TOKEN not in text and record.find(text) is None


@settings(max_examples=400, deadline=None)
@given(OPTIONS, st.sampled_from(["asked:", "lease:", "refused:", ""]), OPTIONS)
def test_any_record_is_read_or_is_one_line_of_the_sites(before: str, state: str, after: str) -> None:
    try:
        record.find(f"{before} {names.TOKEN}{state}{after}")
    except SiteError as error:
        assert len(str(error).splitlines()) == 1
