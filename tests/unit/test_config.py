# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import config, interfaces
from hpcnet.config import Site
from hpcnet.errors import SiteError

EXAMPLE = (Path(__file__).parents[2] / "etc/hpcnet.toml").read_text(encoding="utf-8")
UNSET = {("fabric", "mtu"), ("fabric", "peers_base")}
"""Keys that have no default; the example has them commented out."""

SCHEMA = {
    (section.name, key.name)
    for section in fields(Site)
    if is_dataclass(getattr(Site(), section.name))
    for key in fields(getattr(Site(), section.name))
}
EXAMPLE_KEYS = SCHEMA | {("environment", name) for name in interfaces.DEFAULTS}

# For each key: one value that is not its default and what becomes of it, and values that it may not have.
VALUES: dict[str, tuple[str, object, list[str]]] = {
    "fabric.uplink": ('"eth1.100"', "eth1.100", ['""', '"a b"', '"a/b"', '"a:b"', '"sixteen-letters-"', "0"]),
    "fabric.mtu": ("9000", 9000, ["1329", "65536", "-1", '"9000"', "9000.0", "true"]),
    "fabric.peers": ('"hosts"', "hosts", ['"dns"', '""', "1", '["hosts"]']),
    "fabric.peers_file": ('"/etc/hosts.ib"', "/etc/hosts.ib", ['"hosts"', '""', '"/a\\nb"', '"/a\\u0000"', "1"]),
    "fabric.peers_name": (
        '"ib-{node}.x"',
        "ib-{node}.x",
        ['"ib"', '"{nodes}"', '"{node} ib"', '"{node}{node}"', "1"],
    ),
    "fabric.peers_base": ('"10.2.0.0"', IPv4Address("10.2.0.0"), ['"10.2.0"', '"fd00::"', '"10.2.0.0/16"', "10"]),
    "fabric.vxlan_port": ("14789", 14789, ["1023", "20000", '"4790"', "4790.0"]),
    "pool.vni": (
        "[100, 199]",
        (100, 199),
        ["[0, 9]", "[1, 16777216]", "[9, 8]", "[1]", "[1, 2, 3]", "[1, 65537]", '["1", "2"]', "7", "[1, true]"],
    ),
    "pool.ipv4": (
        '"172.16.0.0/12"',
        IPv4Network("172.16.0.0/12"),
        ['"172.16.0.1/12"', '"10.0.0.0/7"', '"10.0.0.0/29"', '"10.0.0.0"', '"fd00::/48"', "10", "[10, 8]"],
    ),
    "pool.ipv6": (
        '"fd00:1::/32"',
        IPv6Network("fd00:1::/32"),
        ['"fd00::1/48"', '"fd00::/65"', '"f000::/15"', '"fe80::%ib0/64"', '"10.0.0.0/8"', "1", "{}"],
    ),
    "pool.store": ('"/var/lib/hpcnet"', "/var/lib/hpcnet", ['"hpcnet.sqlite"', '""', "1"]),
    "pool.cooldown": ("0", 0, ["-1", "86401", '"10"', "1.5"]),
    "pool.wait": ("0", 0, ["-1", "301", "true"]),
    "direct.allow_shared": ("true", True, ['"yes"', "1"]),
    "direct.pkey_pool": ('["0x8010", "0xffff"]', ("0x8010", "0xffff"), ['"0x8010"', '["auto"]', '["0x0010"]']),
    "direct.ipv4": ('"172.16.0.0/12"', IPv4Network("172.16.0.0/12"), ['"172.16.0.1/12"', "10"]),
    "direct.ipv6": ('"fd00:1::/32"', IPv6Network("fd00:1::/32"), ['"fd00::/65"', "1"]),
    "defaults.mode": ('"vxlan"', "vxlan", ['"VXLAN"', '"bridge"', "1"]),
    "defaults.endpoints": ("1", 1, ["0", "1025", '"8"']),
    "defaults.join": ('"none"', "none", ['"all"', "true"]),
    "defaults.egress": ('"none"', "none", ['"internet"', "false"]),
    "defaults.docker": ("false", False, ['"no"', "0"]),
    "defaults.env": ('"none"', "none", ['"default"', "false"]),
    "offer.modes": ('["vxlan"]', ("vxlan",), ['"vxlan"', '["bridge"]', "[1]"]),
    "offer.egress": ('["none", "host"]', ("none", "host"), ['"none"', '["nat"]']),
    "offer.docker": ("true", True, ['"no"', "0"]),
    "offer.max_endpoints": ("1024", 1024, ["0", "1025", '"64"']),
    "offer.pkeys": ('["0x8001"]', ("0x8001",), ['"0x8001"', '["0x0001"]', '["8001"]', '["0x80AB"]', "[32769]"]),
    "submit.record": ('"comment"', "comment", ['"admin_comment"', '""', "1"]),
    "submit.licence": ('"hpcnet@db"', "hpcnet@db", ['"a b"', '"hpcnet:4"', "1"]),
    "submit.accounts": ('["a", "b-2"]', ("a", "b-2"), ['"a"', '["a b"]', '[""]', "[1]"]),
    "submit.partitions": ('["p"]', ("p",), ['"p"', '["a,b"]']),
    "submit.qos": ('["high"]', ("high",), ['"high"', "[[]]"]),
    "submit.default_partitions": ('["ib"]', ("ib",), ['"ib"', '["*"]']),
    "egress.resolv_conf": ('"/etc/resolv.jobs"', "/etc/resolv.jobs", ['"resolv.conf"', "1"]),
    "docker.socket": ('"/run/other.sock"', "/run/other.sock", ['"docker.sock"', "1"]),
    "docker.deadline": ("5", 5, ["0", '"5"']),
    "hooks.deadline": ("60", 60, ["0", "3601", '"30"']),
    "agent.metrics": ('"127.0.0.1:9834"', "127.0.0.1:9834", ['"9834"', '":9834"', "9834"]),
    "agent.host": ('"{node}-mgmt"', "{node}-mgmt", ['"node"', '"{node}/"', "1"]),
    "agent.token_file": ('"/root/token"', "/root/token", ['"token"', "1"]),
    "hooks.accounts": ('"/var/spool/hpcnet"', "/var/spool/hpcnet", ['"spool"', "1"]),
    "hooks.log": ('"/var/log/hpcnet.log"', "/var/log/hpcnet.log", ['"stderr"', '""', "1"]),
}
GOOD = [(key, text, value) for key, (text, value, _) in VALUES.items()]
BAD = [(key, text) for key, (_, _, texts) in VALUES.items() for text in texts]


def refusal(text: str) -> str:
    """The message with which a configuration is refused; it must be one line that begins with the file."""
    with pytest.raises(SiteError) as caught:
        config.parse(text, "/x/hpcnet.toml")
    message = str(caught.value)
    assert message.startswith("/x/hpcnet.toml: ") and len(message.splitlines()) == 1
    return message


def setting(key: str, text: str) -> str:
    section, _, name = key.partition(".")
    return f"[{section}]\n{name} = {text}\n"


def test_the_example_is_the_defaults() -> None:
    assert config.parse(EXAMPLE) == Site()
    assert config.parse("") == Site()


def test_the_example_writes_every_key_of_the_schema_and_nothing_else() -> None:
    documented = {
        (section, key)
        for section, body in re.findall(r"^\[(\w+)\](.*?)(?=^\[|\Z)", EXAMPLE, re.MULTILINE | re.DOTALL)
        for key in re.findall(r"^#?(\w+) = ", body, re.MULTILINE)
    }
    assert documented == EXAMPLE_KEYS
    written = {(section, key) for section, table in tomli.loads(EXAMPLE).items() for key in table}
    assert written == EXAMPLE_KEYS - UNSET


def test_the_examples_commented_keys_may_be_uncommented() -> None:
    site = config.parse(re.sub(r"^#(\w+ = )", r"\1", EXAMPLE, flags=re.MULTILINE))
    assert (site.fabric.mtu, site.fabric.peers_base) == (65520, IPv4Address("10.2.0.0"))


def test_the_tests_know_every_key_of_the_schema() -> None:
    assert {tuple(key.split(".")) for key in VALUES} == SCHEMA


@pytest.mark.parametrize(("key", "text", "value"), GOOD, ids=lambda part: str(part))
def test_a_good_value_arrives(key: str, text: str, value: object) -> None:
    site = config.parse(setting(key, text))
    section, _, name = key.partition(".")
    assert getattr(getattr(site, section), name) == value


@pytest.mark.parametrize(("key", "text"), BAD)
def test_a_bad_value_is_one_line_with_section_key_value_and_what_is_allowed(key: str, text: str) -> None:
    section, _, name = key.partition(".")
    value = tomli.loads(f"x = {text}")["x"]
    message = refusal(setting(key, text))
    start = f"/x/hpcnet.toml: [{section}] {name} = {value!r}: must be "
    assert message.startswith(start) and len(message) > len(start)


@pytest.mark.parametrize("section", sorted({section for section, _ in SCHEMA}))
def test_an_unknown_key_is_named_with_the_known_ones(section: str) -> None:
    message = refusal(f"[{section}]\nuplinks = 1\n")
    assert f"unknown key 'uplinks' in [{section}]" in message
    for known_section, key in SCHEMA:
        assert (re.search(rf"\b{key}\b", message) is not None) or known_section != section


@pytest.mark.parametrize("text", ["[fabrics]\n", 'uplink = "ib0"\n', "[fabric]\n[[ports]]\n", '"a\\nb" = 1\n'])
def test_an_unknown_section_is_named_with_the_known_ones(text: str) -> None:
    message = refusal(text)
    assert "unknown section or key" in message and "[fabric], [pool]" in message


@pytest.mark.parametrize("text", ["fabric = 1\n", 'fabric = "ib0"\n', "[[fabric]]\n"])
def test_a_section_that_is_no_table(text: str) -> None:
    assert "fabric must be a table: [fabric]" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "[fabric",
        "uplink: ib0",
        "[fabric]\nuplink = ib0\n",
        "[pool]\nwait = 1\nwait = 2\n",
        "\x00",
        "a" + "[" * 9999,
    ],
)
def test_what_is_not_toml_is_said_so(text: str) -> None:
    assert "not TOML" in refusal(text)


def test_deeply_nested_values_are_refused_and_no_crash() -> None:
    refusal("[fabric]\nuplink = " + "[" * 100_000 + "]" * 100_000)


@given(st.text())
def test_any_text_is_a_site_or_one_line_of_siteerror(text: str) -> None:
    try:
        config.parse(text)
    except SiteError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[fabric]\npeers = "number"\n', "needs peers_base"),
        ("[offer]\nmodes = []\n", "[defaults] mode = 'vxlan' is not among [offer] modes"),
        ('[defaults]\nmode = "direct"\n', "[defaults] mode = 'direct' is not among [offer] modes"),
        ('[offer]\nmodes = ["vxlan", "direct"]\n', "[direct] allow_shared = true, or give"),
        ('[offer]\npkeys = ["0x8001"]\n[direct]\npkey_pool = ["0x8001"]\n', "0x8001 is in [offer] pkeys"),
        ("[offer]\negress = []\n", "[defaults] egress = 'host' is not among [offer] egress"),
        ('[offer]\negress = ["none"]\n', "[defaults] egress = 'host' is not among [offer] egress"),
        ("[defaults]\ndocker = true\n", "[defaults] docker = true, but [offer] docker = false"),
        ("[offer]\nmax_endpoints = 4\n", "[defaults] endpoints"),
        ("[defaults]\nendpoints = 65\n", "[defaults] endpoints"),
        ("[defaults]\nendpoints = 33\n[offer]\nmax_endpoints = 40\n", "[defaults] endpoints"),
    ],
)
def test_values_that_contradict_each_other(text: str, says: str) -> None:
    assert says in refusal(text)


def test_the_sites_variables_go_before_the_default_ones() -> None:
    text = '[environment]\nNCCL_SOCKET_IFNAME = ""\nGLOO_SOCKET_IFNAME = "{interface},lo"\nMY_IFACE = "x"\n'
    variables = interfaces.of(config.parse(text).environment, "hpc7")
    assert "NCCL_SOCKET_IFNAME" not in variables and variables["FI_TCP_IFACE"] == "hpc7"
    assert (variables["GLOO_SOCKET_IFNAME"], variables["MY_IFACE"]) == ("hpc7,lo", "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X", value) for value in ("1", "true", '["x"]', "{a = 1}", '"a b"', '"a\\tb"', '"{interfaces}"')),
        *(("X", value) for value in ('"{{interface}}"', '"é"', "'\"'", "'\\'", '"' + 129 * "x" + '"')),
        *((name, '"x"') for name in ("HPCNET_ENV", "SLURM_JOB_ID", "'A B'", "'A=B'", "''", "1A", '"a\\nb"')),
        (65 * "X", '"x"'),
    ],
)
def test_a_bad_variable_of_the_site(name: str, value: str) -> None:
    [(key, read)] = tomli.loads(f"{name} = {value}").items()
    message = refusal(f"[environment]\n{name} = {value}\n")
    assert message.startswith(f"/x/hpcnet.toml: [environment] {key!r} = {read!r}: must be ")


def test_too_many_variables_of_the_site() -> None:
    text = "[environment]\n" + "".join(f'X{number} = "x"\n' for number in range(interfaces.LIMIT))
    assert "at most 64" in refusal(text)


def test_fabric_by_number_with_its_base() -> None:
    site = config.parse('[fabric]\npeers = "number"\npeers_base = "10.2.0.0"\n')
    assert (site.fabric.peers, site.fabric.peers_base) == ("number", IPv4Address("10.2.0.0"))


def test_load_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hpcnet.toml"
    file.write_text(EXAMPLE, encoding="utf-8")
    assert config.load(str(file)) == Site()


def load_refusal(path: Path) -> str:
    with pytest.raises(SiteError) as caught:
        config.load(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and len(message.splitlines()) == 1
    return message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in load_refusal(tmp_path / "absent.toml")
    assert "cannot be read: Is a directory" in load_refusal(tmp_path)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "hpcnet.toml"
    file.write_bytes(b'[fabric]\nuplink = "\xff"\n')
    assert "not UTF-8" in load_refusal(file)


def test_a_files_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hpcnet.toml"
    file.write_text("[pool]\nwait = -1\n", encoding="utf-8")
    assert "[pool] wait = -1: must be an integer from 0 to 300" in load_refusal(file)
