# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcnet import record
from hpcnet.errors import SiteError
from hpcnet.model import EGRESSES, ENVS, IPOIB_MODES, JOINS, MODES, NONE, Lease, Request
from hpcnet.record import Record

JOB_SUBMIT = (Path(__file__).parents[2] / "spank_hooks/job_submit.lua").read_text(encoding="utf-8")

powers_of_two = st.sampled_from([1 << bits for bits in range(11)])
requests = st.builds(
    Request,
    mode=st.none() | st.sampled_from(MODES),
    mtu=st.none() | st.integers(1280, 65520),
    pkey=st.none() | st.just("auto") | st.integers(0x8001, 0xFFFF).map("0x{:04x}".format),
    ipoib=st.none() | st.sampled_from(IPOIB_MODES),
    endpoints=st.none() | powers_of_two,
    join=st.none() | st.sampled_from(JOINS),
    egress=st.none() | st.sampled_from(EGRESSES),
    docker=st.none() | st.booleans(),
    env=st.none() | st.sampled_from(ENVS),
)
ipv4_networks = st.builds(
    lambda number, bits: IPv4Network((number >> bits << bits, 32 - bits)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 24),
)
leases = st.builds(
    Lease,
    serial=st.integers(1, 2**63 - 1),
    mode=st.sampled_from(MODES),
    vni=st.integers(1, 2**24 - 1),
    ipv4=ipv4_networks,
    ipv6=st.integers(0, 2**64 - 1).map(lambda number: IPv6Network((number << 64, 64))),
    endpoints=st.just(0) | powers_of_two,
    mtu=st.just(0) | st.integers(1280, 65535),
    join=st.sampled_from(JOINS),
    egress=st.sampled_from(EGRESSES),
    docker=st.booleans(),
    pkey=st.just(NONE) | st.integers(0x8001, 0xFFFF).map("0x{:04x}".format),
    ipoib=st.sampled_from((NONE, *IPOIB_MODES)),
    shared=st.booleans(),
)
reasons = st.lists(st.text("abcXYZ019=,:.-/'[]()", min_size=1, max_size=9), min_size=1, max_size=9).map(" ".join)
accounts = st.just("") | st.from_regex("[A-Za-z0-9_.@+-]{1,64}", fullmatch=True)
records = (
    st.builds(Record, st.just("asked"), requests)
    | st.builds(Record, st.just("lease"), requests, leases, account=accounts)
    | st.builds(Record, st.just("refused"), requests, reason=reasons)
)

LEASE = Lease(
    serial=7,
    mode="vxlan",
    vni=6815744,
    ipv4=IPv4Network("10.128.0.0/29"),
    ipv6=IPv6Network("fd68:7063:6e65::/64"),
    mtu=1450,
)
LEASED = Record("lease", Request(mtu=1450), LEASE)
TOKEN = (
    "hpcnet:lease:mtu=1450:v=1,serial=7,mode=vxlan,vni=6815744,ipv4=10.128.0.0/29,"
    "ipv6=fd68:7063:6e65::/64,endpoints=0,mtu=1450,join=tasks,egress=none,docker=no,pkey=none,ipoib=none,shared=no"
)


def refusal(word: str) -> str:
    """The message with which a token is refused; it must be one line."""
    with pytest.raises(SiteError) as caught:
        record.parse(word)
    message = str(caught.value)
    assert message and len(message.splitlines()) == 1
    return message


def test_a_token_is_written_as_other_versions_expect_it() -> None:
    assert record.token(LEASED) == TOKEN
    assert record.token(Record("asked", Request())) == "hpcnet:asked:"
    assert record.token(Record("refused", Request(docker=True), reason="pool is full")) == (
        "hpcnet:refused:docker=yes:pool_is_full"
    )


@pytest.mark.parametrize("name", ["physics,vni=1", "a b", "größer", "x" * 65, "a:b", "a\n"])
def test_an_account_with_another_name_is_left_out(name: str) -> None:
    assert record.token(replace(LEASED, account=name)) == TOKEN
    assert record.token(replace(LEASED, account="bio.x_1")) == f"{TOKEN},account=bio.x_1"


@given(records)
def test_a_token_is_one_ascii_word_that_reads_back_the_same(stamped: Record) -> None:
    word = record.token(stamped)
    assert word.isascii() and word.isprintable() and word.split() == [word]
    assert record.parse(word) == stamped


@given(st.text())
@example("hpcnet:asked:nonsense=1")
@example("hpcnet:asked:mtu=\udcff")
@example("hpcnet:lease::v=1\n2")
@example("hpcnet:")
def test_any_text_is_a_record_or_one_line_of_siteerror(text: str) -> None:
    try:
        record.parse(text)
    except SiteError as error:
        assert len(str(error).splitlines()) == 1


@given(records, st.data())
def test_a_garbled_token_is_a_record_or_one_line_of_siteerror(stamped: Record, data: st.DataObject) -> None:
    word = record.token(stamped)
    place = data.draw(st.integers(0, len(word)))
    length = data.draw(st.integers(0, 12))
    garbled = word[:place] + data.draw(st.text(max_size=4)) + word[place + length :]
    try:
        record.parse(garbled)
    except SiteError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "word",
    [
        "hpcnet",
        "hpcnet:asked",
        "hpcnet:ready:",
        "hpcnet:lease:",
        "hpcnet:asked::more",
        "hpcnet:refused:",
        "other:asked:",
        "hpcnet:asked:mode=token-ring",
        "hpcnet:asked:,",
    ],
)
def test_a_token_of_no_known_form_is_refused_and_shown(word: str) -> None:
    assert repr(word) in refusal(word)


@pytest.mark.parametrize(
    ("was", "forged"),
    [
        ("v=1", "v=2"),
        ("v=1", "v=one\x0btwo"),
        ("v=1,", ""),
        ("serial=7", "serial=0"),
        ("serial=7", "serial=9223372036854775808"),
        ("serial=7", "serial=+7"),
        ("serial=7", "serial=٧"),
        ("mode=vxlan", "mode=gre"),
        ("vni=6815744", "vni=16777216"),
        ("vni=6815744", "vni=-1"),
        ("10.128.0.0/29", "10.128.0.1/29"),
        ("10.128.0.0/29", "10.128.0.0/33"),
        ("10.128.0.0/29", "localhost"),
        ("fd68:7063:6e65::/64", "fd68:7063:6e65::/48"),
        ("fd68:7063:6e65::/64", "fd68:7063:6e65::1/64"),
        ("fd68:7063:6e65::/64", "fd68::%ib0/64"),
        ("endpoints=0", "endpoints=3"),
        ("endpoints=0", "endpoints=2048"),
        (":v=1", ":v=1,mtu=1450"),
        ("mtu=1450,join", "mtu=1,join"),
        ("mtu=1450,join", "mtu=65536,join"),
        ("join=tasks", "join=all"),
        ("egress=none", "egress=anywhere"),
        ("docker=no", "docker=true"),
        ("docker=no", "docker=no,extra=1"),
        (",docker=no", ""),
        ("pkey=none", "pkey=auto"),
        ("pkey=none", "pkey=0x0001"),
        ("pkey=none", "pkey=0x8000"),
        ("ipoib=none", "ipoib=ud"),
        ("shared=no", "shared=maybe"),
        ("shared=no", "shared=no,account="),
        ("shared=no", "shared=no,account=a b"),
        ("shared=no", "shared=no,account=physics,vni=1"),
        ("shared=no", "shared=no,account=" + "x" * 65),
        (",shared=no", ",account=physics,shared=no"),
    ],
)
def test_a_forged_lease_is_refused(was: str, forged: str) -> None:
    assert was in TOKEN
    refusal(TOKEN.replace(was, forged))


def test_a_lease_of_another_version_names_both_versions() -> None:
    message = refusal(TOKEN.replace("v=1", "v=2"))
    assert "'2'" in message and "knows 1" in message and "update hpcnet" in message


def test_a_text_without_a_token_has_no_record() -> None:
    for text in ("", "my job", "see http://hpcnet:80/", "xhpcnet:asked:"):
        assert record.find(text) is None
        assert not record.carries(text)


def test_the_last_token_of_a_text_is_the_record() -> None:
    assert record.find(f"my job hpcnet:asked: {TOKEN}") == LEASED


def test_a_broken_token_is_carried_and_refused() -> None:
    assert record.carries("my job hpcnet:rubbish")
    with pytest.raises(SiteError):
        record.find("my job hpcnet:rubbish")


users_texts = st.lists(st.text("aé:= ,'\"\\\t\u00a0", max_size=12)).map(" ".join)
tokens = st.lists(st.text("abc:=,.0", max_size=12).map("hpcnet:".__add__), max_size=3)


@given(users_texts, tokens, users_texts, records)
def test_replacing_keeps_the_users_text_and_leaves_one_token_at_the_end(
    before: str, older: list[str], after: str, stamped: Record
) -> None:
    text = record.replace(" ".join([before, *older, after]), stamped)
    *users, last = text.split()
    assert users == [*before.split(), *after.split()]
    assert last == record.token(stamped)
    assert record.find(text) == stamped


def test_replacing_keeps_blanks_inside_the_users_text() -> None:
    assert record.replace("two  blanks\tand a tab", LEASED) == f"two  blanks\tand a tab {TOKEN}"


def test_replacing_again_changes_nothing() -> None:
    once = record.replace("my job", LEASED)
    assert record.replace(once, LEASED) == once


def test_a_text_without_the_users_words_is_the_token_alone() -> None:
    assert record.replace("", LEASED) == TOKEN
    assert record.replace("hpcnet:asked:mtu=1450", LEASED) == TOKEN


def test_what_slurm_keeps_is_filled_to_the_last_byte_and_not_beyond() -> None:
    own = "x" * (record.LIMIT - len(TOKEN) - 1)
    assert len(record.replace(own, LEASED)) == record.LIMIT
    with pytest.raises(SiteError, match="no room for hpcnet's token"):
        record.replace(own + "x", LEASED)


def test_the_limit_is_of_bytes() -> None:
    with pytest.raises(SiteError, match="1024 bytes"):
        record.replace("é" * 500, LEASED)


def test_a_comment_that_is_not_utf8_is_kept() -> None:
    comment = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert record.replace(comment, LEASED) == f"{comment} {TOKEN}"


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        ("no IPv4 /20 is free; wait", "no IPv4 /20 is free; wait"),
        ("two\nlines\tand\x1b[31m colour", "two lines and [31m colour"),
        ("a:b::c", "a:b::c"),
        ("größer", "gr??er"),
        ("", ""),
    ],
)
def test_the_reason_of_a_refusal_stays_readable(reason: str, read: str) -> None:
    word = record.token(Record("refused", Request(mtu=9000), reason=reason))
    assert record.parse(word) == Record("refused", Request(mtu=9000), reason=read)


@given(requests, st.text())
def test_any_reason_makes_one_word(asked: Request, reason: str) -> None:
    word = record.token(Record("refused", asked, reason=reason))
    assert word.split() == [word] and word.isascii()
    assert record.parse(word).request == asked


def test_the_longest_tokens_fit_the_room_that_job_submit_keeps() -> None:
    lua = re.search(r"FIELD_LIMIT, ROOM = (\d+), (\d+)", JOB_SUBMIT)
    assert lua and int(lua[1]) == record.LIMIT
    asked = Request("direct", 65520, "0x8001", "connected", 1024, "tasks", "none", False)
    widest = replace(
        LEASE,
        serial=2**63 - 1,
        mode="direct",
        vni=2**24 - 1,
        ipv4=IPv4Network("255.255.255.240/28"),
        ipv6=IPv6Network("fd68:7063:6e65:ffff::/64"),
        endpoints=1024,
        mtu=65535,
        docker=True,
        pkey="0xffff",
        ipoib="connected",
        shared=True,
    )
    for stamped in (Record("lease", asked, widest, account="x" * 64), Record("refused", asked, reason="x" * 2000)):
        assert len(record.token(stamped)) <= int(lua[2])
