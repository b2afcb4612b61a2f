# SPDX-License-Identifier: Apache-2.0
"""Option strings and comments of somebody who means harm: through job_submit.lua, request and record.

20,000 of them in one Lua process, which must say of each what Python says; and a list of nasty ones. What a node's
Prolog makes of such a record: tests/kernel/test_abuse.py.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hpcnet import names, record, request
from hpcnet.config import Site
from hpcnet.errors import SiteError, UserError
from hpcnet.record import Record
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


@pytest.mark.skipif(LUA is None, reason="no lua here")
def test_twenty_thousand_options_are_read_or_refused_in_one_line_and_by_both_alike(tmp_path: Path) -> None:
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
    asked = 0
    for option, result in zip(options, lua_says(options, tmp_path)):
        judge(option, result)
        asked += result.code == -1 or "comment" in result.desc
    assert asked > EXAMPLES / 10, "they are too tame"


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
