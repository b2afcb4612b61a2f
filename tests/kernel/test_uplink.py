# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a node's uplink: who is blamed, what the message says, and that nothing is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpcnet.model import Request
from tests.kernel.hosts import Fabric, Host, built, job_environment, lease_of, require_root

require_root()
pytestmark = pytest.mark.kernel

ENVIRONMENT = job_environment(lease_of(), "n[1-2]")
REFUSED = "/run/hpcnet/jobs/17/refused"


@pytest.fixture(scope="module")
def alone() -> Iterator[Fabric]:
    """A fabric whose uplinks tests may spoil."""
    made = Fabric(1)
    made.hosts[0].write("/etc/hosts", "172.31.0.1 n1-ib\n172.31.0.2 n2-ib\n")
    yield made
    made.close()


SPOILED = {
    "renamed": (
        "ip link set ib0 down; ip link set ib0 name ib7",
        "ip link set ib7 name ib0; ip link set ib0 up",
        "uplink ib0 does not exist on n1; check its driver, or set [fabric] uplink",
    ),
    "down": (
        "ip link set ib0 down",
        "ip link set ib0 up",
        "uplink ib0 is down on n1; bring it up (ip link set ib0 up)",
    ),
    "no address": (
        "ip addr del 172.31.0.1/24 dev ib0",
        "ip addr add 172.31.0.1/24 dev ib0",
        "uplink ib0 on n1 does not have the address 172.31.0.1 that [fabric] peers gives the node",
    ),
    "other address": (
        "ip addr del 172.31.0.1/24 dev ib0; ip addr add 172.31.0.9/24 dev ib0; ip addr add 172.31.0.1/24 dev lo",
        "ip addr del 172.31.0.9/24 dev ib0; ip addr del 172.31.0.1/24 dev lo; ip addr add 172.31.0.1/24 dev ib0",
        "uplink ib0 on n1 does not have the address 172.31.0.1 that [fabric] peers gives the node",
    ),
    "mtu too small": (
        "ip link set ib0 mtu 1329",
        "ip link set ib0 mtu 65520",
        "uplink ib0 on n1 has MTU 1329; a job's network needs 1330",
    ),
}


def drained(host: Host, environment: dict[str, str], before: dict[str, str]) -> str:
    """The message of a Prolog that drained the node and left nothing."""
    result = host.hook("prolog", environment)
    assert result.returncode == 1, result.stderr
    assert host.state() == before
    return result.stderr


def refused(host: Host, environment: dict[str, str]) -> str:
    """The reason of a Prolog that refused the job and left nothing but that."""
    before = host.state()
    result = host.hook("prolog", environment)
    assert result.returncode == 0, result.stderr
    directory = host.run("find", "/run/hpcnet/jobs/17").stdout.split()
    reason = host.run("cat", REFUSED).stdout
    assert directory == ["/run/hpcnet/jobs/17", REFUSED]
    assert host.run("stat", "-c", "%a", REFUSED).stdout == "644\n"
    assert host.hook("epilog", environment).returncode == 0
    assert host.state() == before
    assert reason.strip() in result.stderr
    return reason


@pytest.mark.parametrize("how", SPOILED)
def test_an_uplink_that_cannot_carry_drains_its_node(alone: Fabric, how: str) -> None:
    (host,), (spoil, mend, message) = alone.hosts, SPOILED[how]
    host.run("sh", "-c", spoil)
    try:
        assert message in drained(host, ENVIRONMENT, host.state())
    finally:
        host.run("sh", "-c", mend)


def test_an_uplink_without_a_carrier_drains_its_node(alone: Fabric) -> None:
    (host,) = alone.hosts
    alone.switch.run("ip", "link", "set", "p1", "down")
    try:
        message = drained(host, ENVIRONMENT, host.state())
    finally:
        alone.switch.run("ip", "link", "set", "p1", "up")
    assert "uplink ib0 has no carrier on n1; check its cable and the switch's port" in message


@pytest.mark.parametrize("how", SPOILED)
def test_a_prolog_again_over_a_spoiled_uplink_leaves_nothing_of_the_first(alone: Fabric, how: str) -> None:
    (host,), (spoil, mend, _) = alone.hosts, SPOILED[how]
    host.run("sh", "-c", spoil)
    before = host.state()
    host.run("sh", "-c", mend)
    built([host], ENVIRONMENT)
    host.run("sh", "-c", spoil)
    try:
        drained(host, ENVIRONMENT, before)
    finally:
        host.run("sh", "-c", mend)


def test_an_uplink_below_the_sites_promise_drains_its_node(alone: Fabric) -> None:
    (host,) = alone.hosts
    host.configure("[fabric]\nmtu = 65535")
    message = drained(host, job_environment(lease_of(mtu=65485), "n[1-2]"), host.state())
    assert "uplink ib0 on n1 has MTU 65520, but the site's hpcnet.toml promises 65535" in message


def test_a_users_mtu_above_the_uplinks_is_the_users_when_the_site_promises_none(alone: Fabric) -> None:
    (host,) = alone.hosts
    host.configure()
    reason = refused(host, job_environment(lease_of(mtu=65471), "n[1-2]", request=Request(mtu=65471)))
    assert reason == "mtu=65471 is too large: uplink ib0 on n1 allows 65470; leave mtu out\n"


def test_a_users_mtu_is_what_the_job_gets(alone: Fabric) -> None:
    (host,) = alone.hosts
    host.configure()
    environment = job_environment(lease_of(mtu=9000), "n[1-2]", request=Request(mtu=9000))
    built([host], environment)
    devices = host.in_job(17, "ip", "-o", "link").stdout
    host.hook("epilog", environment)
    assert devices.count(" mtu 9000 ") == 2


def test_an_uplink_that_shrank_since_the_first_prolog_drains_its_node(alone: Fabric) -> None:
    (host,) = alone.hosts
    host.configure()
    host.run("ip", "link", "set", "ib0", "mtu", "4092")
    before = host.state()
    host.run("ip", "link", "set", "ib0", "mtu", "65520")
    built([host], ENVIRONMENT)
    host.run("ip", "link", "set", "ib0", "mtu", "4092")
    try:
        message = drained(host, ENVIRONMENT, before)
    finally:
        host.run("ip", "link", "set", "ib0", "mtu", "65520")
    assert "hpcvx of job 17 has MTU 65470 on n1, not 4042" in message


def test_an_mtu_that_the_kernel_lowers_silently_is_read_back(alone: Fabric) -> None:
    """The uplink shrinks after the plan was made from it, as by a reset of the port."""
    (host,) = alone.hosts
    script = (
        "from tests.kernel.hosts import plan_of, lease_of\n"
        "from hpcnet.kernel import interior, netns, segment\n"
        "netns.create(17)\n"
        "try: segment.make_devices(plan_of(lease_of(), 2))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "interior.remove_devices(17); netns.delete(17)\n"
    )
    host.run("ip", "link", "set", "ib0", "mtu", "4092")
    try:
        said = host.python(script)
    finally:
        host.run("ip", "link", "set", "ib0", "mtu", "65520")
    assert said.startswith("NodeError hpcvx of job 17 has MTU 4042 on n1, not 65470: uplink ib0 carries less")
