# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import fabric
from hpcnet.config import Fabric
from hpcnet.errors import SiteError

HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost
10.1.0.1 n1 n1.cluster   # management
10.2.0.1   n1-ib\tn1-ib.cluster
fd00::2 n2-ib
10.2.0.2 n2-ib  storage  # n3-ib is on another line
10.2.0.99 n2-ib
10.2.0.3 x n3-ib#glued
#10.2.0.4 n4-ib

10.2.0.5
not-an-address n6-ib
"""
NUMBERED = Fabric(peers="number", peers_base=IPv4Address("10.2.0.0"))


def found(*nodes: str, text: str = HOSTS, rule: Fabric = Fabric()) -> dict[str, str]:  # noqa: B008
    return {node: str(address) for node, address in fabric.from_hosts(text, rule, nodes).items()}


def refusal(rule: Fabric, *nodes: str) -> str:
    with pytest.raises(SiteError) as caught:
        fabric.addresses(rule, nodes)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def hosts_file(directory: Path, text: str = HOSTS) -> Fabric:
    file = directory / "hosts"
    file.write_text(text, encoding="utf-8")
    return Fabric(peers_file=str(file))


def test_tabs_several_names_and_comments() -> None:
    assert found("n1", "n3") == {"n1": "10.2.0.1", "n3": "10.2.0.3"}


def test_of_several_ipv4_addresses_the_first_counts_and_ipv6_never() -> None:
    assert found("n2") == {"n2": "10.2.0.2"}


def test_addresses_are_in_the_order_of_the_nodes() -> None:
    assert list(found("n3", "n1", "n2")) == ["n3", "n1", "n2"]


def test_the_name_on_the_fabric_is_the_sites_rule() -> None:
    assert found("n1", rule=Fabric(peers_name="{node}")) == {"n1": "10.1.0.1"}
    assert found("n1", rule=Fabric(peers_name="{node}-ib.cluster")) == {"n1": "10.2.0.1"}


def test_a_hosts_file_is_read_from_disk(tmp_path: Path) -> None:
    assert fabric.addresses(hosts_file(tmp_path), ["n2", "n1"]) == {
        "n2": IPv4Address("10.2.0.2"),
        "n1": IPv4Address("10.2.0.1"),
    }


def test_a_hosts_file_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    rule = hosts_file(tmp_path)
    Path(rule.peers_file).write_bytes(b"# caf\xe9\n10.2.0.1 n1-ib\n")
    assert fabric.addresses(rule, ["n1"]) == {"n1": IPv4Address("10.2.0.1")}


@pytest.mark.parametrize("node", ["n4", "n5", "n9"])
def test_a_missing_node_is_named_with_what_to_add_where(tmp_path: Path, node: str) -> None:
    rule = hosts_file(tmp_path)
    message = refusal(rule, "n1", node, "n10")
    assert f"node {node} has no address" in message and f"add {node}-ib to {rule.peers_file}" in message


def test_a_node_whose_address_is_none_is_named(tmp_path: Path) -> None:
    assert "n6-ib has 'not-an-address', not an IPv4 address" in refusal(hosts_file(tmp_path), "n6")


def test_a_missing_hosts_file_is_the_sites(tmp_path: Path) -> None:
    rule = Fabric(peers_file=str(tmp_path / "absent"))
    assert f"[fabric] peers_file {rule.peers_file}: No such file" in refusal(rule, "n1")


def test_a_hosts_file_of_a_large_cluster() -> None:
    nodes = [f"n{number}" for number in range(16384)]
    text = "".join(f"{IPv4Address(0x0A020000 + i)} {node}-ib\n" for i, node in enumerate(nodes))
    assert len(set(found(*nodes, text=text).values())) == len(nodes)


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("n0", "10.2.0.0"),
        ("n12", "10.2.0.12"),
        ("n007", "10.2.0.7"),
        ("n300", "10.2.1.44"),
        ("r2n5", "10.2.0.5"),
        ("n3-gpu", "10.2.0.3"),
    ],
)
def test_by_number_the_last_number_of_a_name_counts(node: str, address: str) -> None:
    assert fabric.addresses(NUMBERED, [node]) == {node: IPv4Address(address)}


@given(st.integers(0, 2**32 - 1 - 0x0A020000))
def test_by_number_an_address_is_the_base_and_the_number(number: int) -> None:
    assert fabric.addresses(NUMBERED, [f"n{number}"]) == {f"n{number}": IPv4Address(0x0A020000 + number)}


def test_by_number_a_name_without_one_is_named() -> None:
    message = refusal(NUMBERED, "n1", "login")
    assert "node login has no number in its name" in message and 'peers = "hosts"' in message


@pytest.mark.parametrize("node", ["n4127064064", "n99999999999999999999", "n" + "9" * 5000])
def test_by_number_an_overflow_is_named(node: str) -> None:
    message = refusal(NUMBERED, node)
    assert node[:20] in message and "is no IPv4 address" in message
