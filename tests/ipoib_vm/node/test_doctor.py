# SPDX-License-Identifier: Apache-2.0
"""doctor on an IPoIB uplink: mode, port and partitions, as the kernel's own driver tells them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from hpcnet.config import Direct, Fabric, Offer, Site
from hpcnet.doctor import fabric
from hpcnet.doctor.model import NODE, Finding, Host
from tests.ipoib_vm.adapter import Adapter, sh, wait_for_carrier

pytestmark = pytest.mark.ipoib_vm

UPLINK = Adapter(5)


@pytest.fixture(autouse=True)
def _up() -> Iterator[None]:
    """ib5 is up in the VM's own namespace, with 10.7.0.5."""
    sh("ip addr add 10.7.0.5/24 dev ib5; ip link set ib5 up")
    wait_for_carrier("ib5")
    yield
    sh("ip link set ib5 down; ip addr del 10.7.0.5/24 dev ib5")


def checked(direct: Direct = Direct()) -> list[Finding]:  # noqa: B008
    """What doctor says of ib5 on the node n5."""
    offer = Offer(modes=("vxlan", "direct")) if direct.pkey_pool else Offer()
    rule = replace(Fabric(), uplink="ib5", mtu=4092, peers="number", peers_base=IPv4Address("10.7.0.0"))
    site = Site(fabric=rule, direct=direct, offer=offer)
    return list(fabric.check_uplink(Host("n5", frozenset((NODE,)), site, node="n5")))


def test_an_uplink_as_it_should_be() -> None:
    (found,) = checked()
    said = "ib5 is up, MTU 4092, IPoIB datagram 0xffff, port softib5/1 100 Gb/sec (4X EDR), 10.7.0.5"
    assert (found.status, found.text) == ("ok", said)


def test_a_port_that_is_down() -> None:
    with UPLINK.with_control("port", "down"):
        wait_for_carrier("ib5", there=False)
        found = [(each.status, each.text) for each in checked()]
    assert ("fail", "ib5 has no carrier") in found
    assert ("fail", "port softib5/1 of ib5 is DOWN, not ACTIVE") in found
    wait_for_carrier("ib5")


def test_a_partition_that_the_port_is_not_in() -> None:
    assert checked(Direct(pkey_pool=("0x8001", "0x8002")))[1].text == (
        "port softib5/1 is a full member of 0x8001, 0x8002"
    )
    found = checked(Direct(pkey_pool=("0x8001", "0x8123")))[1]
    assert found.status == "fail" and "not in partition 0x8123" in found.text
