# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcnet import request
from hpcnet.config import Direct, Offer
from hpcnet.errors import UserError
from hpcnet.model import EGRESSES, ENVS, IPOIB_MODES, JOINS, MODES, Request
from tests.grammar import Case, cases


def outcome(case: Case) -> tuple[str | None, str | None]:
    """Canonical text and refusal of an option at the case's site."""
    offered: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in case.offer().items()}
    try:
        asked = request.parse(case.option)
        if asked is None:
            return None, None
        direct = Direct(case.site["allow_shared"], tuple(case.site["pkey_pool"]))
        mode, mtu = case.site.get("default_mode", "vxlan"), case.site.get("uplink_mtu")
        request.check(asked, Offer(**offered), direct, mode, mtu)
        return request.text(asked), None
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("case", cases(), ids=lambda case: ascii(case.option))
def test_table(case: Case) -> None:
    assert outcome(case) == (case.canonical, case.message)


def test_the_table_has_every_key_accepted_and_refused() -> None:
    accepted = ",".join(case.canonical or "" for case in cases())
    refused = " ".join(case.refused or "" for case in cases())
    for key in Request.__dataclass_fields__:
        assert f"{key}=" in accepted
        assert f"{key}=" in refused


def test_text_has_the_keys_in_the_order_of_the_fields() -> None:
    whole = Request("direct", 9000, "0x8001", "connected", 8, "none", "host", False, "none")
    keys = [part.split("=")[0] for part in request.text(whole).split(",")]
    assert keys == list(Request.__dataclass_fields__)


PIECES = [
    "ib",
    ",",
    "=",
    "mode",
    "vxlan",
    "mtu",
    "9000",
    "pkey",
    "0x8001",
    "docker",
    "yes",
    "endpoints",
    "\n",
    "é",
]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join) | st.text().map("ib,".__add__))
@example("ib," + "a=" * 200)
@example("ib,\ud800")
@example("ib,mtu=" + "9" * 5000)
def test_any_text_is_read_or_refused_in_one_line(option: str) -> None:
    try:
        asked = request.parse(option)
    except UserError as error:
        message = str(error)
        assert message.startswith("--network=ib: ")
        assert message.isascii() and message.isprintable()
        assert len(message) < 300
    else:
        assert (asked is None) == (option != "ib" and not option.startswith("ib,"))
        if asked is not None:
            assert request.parse(",".join(filter(None, ["ib", request.text(asked)]))) == asked


REQUESTS = st.builds(
    Request,
    mode=st.none() | st.sampled_from(MODES),
    mtu=st.none() | st.integers(request.MTU_MIN, request.MTU_MAX),
    pkey=st.none() | st.just("auto") | st.integers(0x8001, 0xFFFF).map(hex),
    ipoib=st.none() | st.sampled_from(IPOIB_MODES),
    endpoints=st.none() | st.integers(0, 10).map(lambda power: 1 << power),
    join=st.none() | st.sampled_from(JOINS),
    egress=st.none() | st.sampled_from(EGRESSES),
    docker=st.none() | st.booleans(),
    env=st.none() | st.sampled_from(ENVS),
)


@given(REQUESTS)
def test_text_reads_back_as_the_same_request(asked: Request) -> None:
    said = request.text(asked)
    assert request.parse(f"ib,{said}" if said else "ib") == asked
    assert len(said) <= 150  # what the token on the job record has room for


@given(REQUESTS)
def test_check_raises_only_refusals(asked: Request) -> None:
    try:
        request.check(asked, Offer(), Direct(), "vxlan", 1500)
    except UserError as error:
        assert str(error).startswith("--network=ib: ")


@given(st.integers(1, 1024))
def test_endpoints_is_the_next_power_of_two(number: int) -> None:
    asked = request.parse(f"ib,endpoints={number}")
    assert asked is not None and asked.endpoints is not None
    assert number <= asked.endpoints < 2 * number
    assert asked.endpoints & (asked.endpoints - 1) == 0


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys, hpcnet.request; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert not {"argparse", "json", "asyncio", "tomli", "pyroute2"} & set(loaded.stdout.split())
