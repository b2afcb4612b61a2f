# SPDX-License-Identifier: Apache-2.0
"""The module goes from under all that uses it, and comes again: the last test. softib warns when it leaks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.ipoib_vm.adapter import PARAMETERS, sh, wait_for_carrier
from tests.kernel.hosts import wait_for

pytestmark = pytest.mark.ipoib_vm

MODULE = Path(__file__).parents[3] / ".ipoib-vm/softib" / os.environ.get("KERNEL", "machine") / "softib.ko"
_USED = """
ip netns add u1; ip netns add u2
for n in 1 2; do
  ip -n u$n link set lo up
  ip link set ib$((n + 5)) netns u$n; ip -n u$n link set ib$((n + 5)) up
  ip -n u$n link add link ib$((n + 5)) name child type ipoib pkey 0x8001 mode connected
  ip -n u$n addr add 10.6.0.$n/24 dev child; ip -n u$n link set child mtu 65520 up
  ip -n u$n link add segment type vxlan id 7 dstport 4789 dev ib$((n + 5)); ip -n u$n link set segment up
done
"""


def adapters() -> int:
    return len(list(Path("/sys/class/infiniband").iterdir()))


def test_it_goes_from_under_traffic_in_namespaces_and_comes_again() -> None:
    """Connections, datagrams and VXLAN devices, while a flood of pings is on its way."""
    sh(_USED)
    wait_for_carrier("child", "u1")
    wait_for_carrier("child", "u2")
    enter = ["ip", "netns", "exec", "u1"]
    once = [*enter, "ping", "-c1", "-W2", "-q", "-s60000", "10.6.0.2"]
    wait_for(lambda: subprocess.run(once, stdout=subprocess.DEVNULL).returncode == 0, "no connection is made", 60)
    flood = subprocess.Popen([*enter, "ping", "-f", "-s60000", "10.6.0.2"], stdout=subprocess.DEVNULL)
    try:
        wait_for(
            lambda: int(sh("ip netns exec u1 cat /sys/class/net/child/statistics/tx_packets")) > 500, "no flood"
        )
        sh("rmmod softib")
    finally:
        flood.kill()
        flood.wait()
    assert adapters() == 0
    assert sh("ip link; ip -n u1 link; ip -n u2 link").count("infiniband") == 0
    assert "segment" not in sh("ip -n u1 link; ip -n u2 link")
    sh("ip netns del u1; ip netns del u2")
    sh(f"insmod {MODULE} hcas=2")
    assert adapters() == 2 and (PARAMETERS / "hcas").read_text() == "2\n"
    sh("ip link set ib0 up")
    wait_for_carrier("ib0")
    sh("rmmod softib")


@pytest.mark.parametrize("number", ["0", "65"])
def test_a_number_of_adapters_that_it_has_not(number: str) -> None:
    refused = subprocess.run(["insmod", str(MODULE), f"hcas={number}"], capture_output=True, text=True)
    assert refused.returncode != 0 and "Invalid" in refused.stderr
    assert adapters() == 0
