# SPDX-License-Identifier: Apache-2.0
"""job_submit.lua reads hpcnet.toml as hpcnet.config does."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hpcnet import config
from hpcnet.config import Site
from hpcnet.errors import SiteError
from tests.grammar import HARNESS
from tests.unit import lua
from tests.unit.lua import Result
from tests.unit.test_job_submit import version

__all__ = ["version"]

EXAMPLE = HARNESS.parents[2] / "etc" / "hpcnet.toml"
JUDGED = ("defaults", "offer", "submit")
"""Sections that a submit needs whole; of [fabric] it needs the mtu, of [direct] two keys."""

EVERY_KEY = """
[fabric]
mtu = 4_092 # bytes
[defaults]
endpoints=+16
join = 'none'
egress = "none"
docker = false
env = "none"
  [ offer ]  # spaces
modes = ["vxlan", "direct",]
egress = [ 'none' , "none" ]
max_endpoints = 1024
pkeys = ["0x8001","0xffff"]
[direct]
allow_shared = true
pkey_pool = ["0x9000"]
ipv4 = "10.0.0.0/8"
[submit]
record = "comment"    # a "comment"
licence = "a.b@c-d_e"
accounts = ["a", "b.c"]
partitions = []
qos = ["x"] # , "y"]
default_partitions = [ ]
"""


def read(version: str, text: str | bytes, directory: Path) -> Result:
    file = directory / "hpcnet.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    [result] = lua.play(version, [{"call": "site", "toml": str(file)}], directory)
    return result


def as_lua(site: Site) -> dict[str, dict[str, Any]]:
    """What Lua should have of a site: lists for tuples, no key where the value is None."""
    sections = {name: asdict(getattr(site, name)) for name in JUDGED}
    sections["direct"] = {key: getattr(site.direct, key) for key in ("allow_shared", "pkey_pool")}
    sections["fabric"] = {"mtu": site.fabric.mtu} if site.fabric.mtu is not None else {}
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        for name, values in sections.items()
    }


def judged(result: Result) -> dict[str, dict[str, Any]]:
    """The same of a result, whose empty lists come as empty tables."""
    assert result.site, result.raised
    mtu = {key: value for key, value in result.site["fabric"].items() if key == "mtu"}
    direct = {key: result.site["direct"][key] for key in ("allow_shared", "pkey_pool")}
    sections = {"fabric": mtu, "direct": direct, **{name: result.site[name] for name in JUDGED}}
    return {
        name: {key: [] if value == {} else value for key, value in values.items()}
        for name, values in sections.items()
    }


def test_the_example(version: str, tmp_path: Path) -> None:
    result = read(version, EXAMPLE.read_text(), tmp_path)
    assert judged(result) == as_lua(config.load(str(EXAMPLE))) == as_lua(Site())


@pytest.mark.parametrize("text", ["", EVERY_KEY, EVERY_KEY.replace("\n", "\r\n"), "[submit]\nrecord = 'extra'"])
def test_texts_and_defaults(version: str, tmp_path: Path, text: str) -> None:
    assert judged(read(version, text, tmp_path)) == as_lua(config.parse(text))


def test_every_key_is_known(version: str, tmp_path: Path) -> None:
    """A key that Python learns and Lua does not would refuse every job; the example file has them all."""
    text = re.sub(r"(?m)^#(?=\w+ = )", "", EXAMPLE.read_text())
    config.parse(text)
    known = {name: set(keys) for name, keys in config._KEYS.items()}
    taken = {name: set(values) for name, values in read(version, text, tmp_path).site.items()}
    assert taken.pop("environment") == set()  # for Lua to pass over, whatever variables are listed
    assert taken == known


BAD = {
    "no section": "record = 'auto'",
    "unknown section": "[submits]",
    "unknown key": "[submit]\nlicense = ''",
    "section twice": "[submit]\n[submit]",
    "key twice": "[submit]\nrecord = 'auto'\nrecord = 'auto'",
    "not a choice": "[submit]\nrecord = 'admin_comment'",
    "wrong type": "[submit]\naccounts = 'a'",
    "wrong entry": "[submit]\naccounts = ['a', 1]",
    "two names in one": "[submit]\naccounts = ['a b']",
    "not closed": "[submit]\naccounts = ['a'",
    "no comma": "[submit]\naccounts = ['a' 'b']",
    "two commas": "[submit]\naccounts = ['a',,]",
    "bare word": "[submit]\nrecord = auto",
    "no value": "[submit]\nrecord =",
    "rest": "[submit]\nrecord = 'auto' 'x'",
    "half a string": "[submit]\nrecord = 'auto",
    "leading zero": "[offer]\nmax_endpoints = 064",
    "not an integer": "[offer]\nmax_endpoints = 64.0",
    "too large": "[offer]\nmax_endpoints = 1025",
    "underscores": "[offer]\nmax_endpoints = 6__4",
    "last underscore": "[offer]\nmax_endpoints = 64_",
    "boolean": "[offer]\nmax_endpoints = true",
    "number for boolean": "[defaults]\ndocker = 0",
    "pkey": "[offer]\npkeys = ['0x0001']",
    "not a mode": "[offer]\nmodes = ['vxlan', 'bridge']",
    "nothing separates": "[offer]\nmodes = ['vxlan', 'direct']",
    "pkey for one and for several": "[offer]\npkeys = ['0x8001']\n[direct]\npkey_pool = ['0x8002', '0x8001']",
    "pkey of the pool": "[direct]\npkey_pool = ['auto']",
    "shared by a word": "[direct]\nallow_shared = 'yes'",
    "word for boolean": "[offer]\ndocker = 'yes'",
    "not an egress": "[offer]\negress = ['host', 'nat']",
    "default not offered": "[offer]\negress = ['none']",
    "default mode not offered": "[offer]\nmodes = []",
    "default too large": "[offer]\nmax_endpoints = 4",
    "default docker": "[defaults]\ndocker = true",
    "mtu": "[fabric]\nmtu = 1000",
    "garbage": "[submit]\n<<<<<<< HEAD",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_python_refuses_is_refused(version: str, tmp_path: Path, text: str) -> None:
    with pytest.raises(SiteError):
        config.parse(text)
    result = read(version, text, tmp_path)
    assert not result.site
    assert result.raised and "tell the site's admins" in result.raised and "hpcnet.toml" in result.raised
    assert "\n" not in result.raised


@pytest.mark.parametrize(
    "text", ["[submit]\naccounts = [\n'a'\n]", 'submit = {qos = ["a"]}', '[submit]\nrecord = "au\\u0074o"']
)
def test_toml_beyond_one_key_a_line_is_refused(version: str, tmp_path: Path, text: str) -> None:
    config.parse(text)
    result = read(version, text, tmp_path)
    assert result.raised and "not key = value on one line" in result.raised


def test_a_changed_file_is_read_again(version: str, tmp_path: Path) -> None:
    file = tmp_path / "hpcnet.toml"
    file.write_text("[submit]\nlicence = 'one'")
    before = f"""
        hpcnet.site()
        local file = io.open("{file}", "w")
        file:write("[submit]\\nlicence = 'two'")
        file:close()
    """
    scenario = {"toml": str(file), "before": f"hpcnet.config_file = '{file}'\n{before}", "call": "site"}
    [result] = lua.play(version, [scenario], tmp_path)
    assert result.site["submit"]["licence"] == "two"
