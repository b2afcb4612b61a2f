# SPDX-License-Identifier: Apache-2.0
"""The Docker driver's answers, out of a job's directory; what the kernel does is left out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from hpcnet import journal, lifecycle, names, record, slots
from hpcnet.agent.driver import Driver
from hpcnet.config import Site
from hpcnet.errors import SiteError
from hpcnet.journal import Entry
from hpcnet.kernel import attachment as devices
from hpcnet.model import Endpoint, Lease, Plan, Request
from hpcnet.record import Record

NETWORK, FIRST, SECOND = "a" * 64, "b" * 64, "c" * 64
GENERIC = "com.docker.network.generic"
LEASE = Lease(
    serial=7,
    mode="vxlan",
    vni=6815744,
    ipv4=IPv4Network("10.128.0.0/27"),
    ipv6=IPv6Network("fd68:7063:6e65::/64"),
    endpoints=4,
    docker=True,
)


def entry(lease: Lease = LEASE, job_id: int = 12) -> Entry:
    """The intent of a job over n1 and n2, on n2."""
    return Entry(
        cluster="lab",
        job_id=job_id,
        uid=1001,
        user="ada",
        boot_id="0c1d",
        token=record.token(Record("lease", Request(), lease=lease)),
        nodelist="n[1-2]",
        node="n2",
        uplink="ib0",
        uplink_mtu=65520,
        vni=lease.vni,
        underlays={"n1": "10.2.0.1", "n2": "10.2.0.2"},
    )


def own(lease: Lease = LEASE) -> tuple[Endpoint, ...]:
    """n2's endpoints, the tasks' first."""
    return lifecycle.plan_of(entry(lease), Site()).own


@dataclass
class Kernel:
    """Stands for the kernel: what was asked of it, in order."""

    asked: list[tuple[object, ...]] = field(default_factory=list)
    error: OSError | None = None

    def make(self, plan: Plan, endpoint: Endpoint, name: str, namespace: int) -> None:
        self.asked.append(("make", plan.job_id, endpoint.ipv4, name))
        if self.error:
            raise self.error

    def remove(self, name: str, namespace: int) -> None:
        self.asked.append(("remove", name))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(devices, "make", made.make)
    monkeypatch.setattr(devices, "remove", made.remove)
    return made


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> Path:
    """The directory of job 12, whose network is complete."""
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path / "hpcnet"))
    journal.prepare()
    begin(entry())
    return Path(names.job_dir(12))


def begin(made: Entry) -> None:
    journal.begin(made)
    journal.publish(made.job_id, "hosts\n", "network\n")


def ask(method: str, **request: Any) -> dict[str, Any]:
    """The answer of an agent that was started just now: it keeps nothing in memory."""
    return Driver(Site).answer(method, request)


def refusal(method: str, **request: Any) -> str:
    answer = ask(method, **request)
    assert list(answer) == ["Err"], answer
    assert len(answer["Err"].splitlines()) == 1
    return str(answer["Err"])


def create_network(job: str = "12", network: str = NETWORK) -> dict[str, Any]:
    return ask("/NetworkDriver.CreateNetwork", NetworkID=network, Options={GENERIC: {"job": job}})


def address(wanted: str = "") -> str:
    answer = ask("/IpamDriver.RequestAddress", PoolID="job/12", Address=wanted, Options=None)
    return str(answer["Address"])


def start(identity: str, wanted: str = "") -> str:
    """A container's start up to Join; returns its address."""
    got = address(wanted)
    interface = {"Address": got, "AddressIPv6": "", "MacAddress": ""}
    made = ask("/NetworkDriver.CreateEndpoint", NetworkID=NETWORK, EndpointID=identity, Interface=interface)
    assert "Err" not in made, made
    joined = ask("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=identity, SandboxKey="/run/docker/netns/1")
    assert "Err" not in joined, joined
    return got


def test_what_it_is() -> None:
    assert ask("/Plugin.Activate") == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert ask("/NetworkDriver.GetCapabilities") == {"Scope": "local", "ConnectivityScope": "local"}
    assert ask("/IpamDriver.GetCapabilities") == {"RequiresMACAddress": False}
    spaces = ask("/IpamDriver.GetDefaultAddressSpaces")
    assert set(spaces) == {"LocalDefaultAddressSpace", "GlobalDefaultAddressSpace"}
    assert ask("/NetworkDriver.EndpointOperInfo", NetworkID=NETWORK, EndpointID=FIRST) == {"Value": {}}


@pytest.mark.parametrize("name", ["Leave", "DeleteNetwork", "DiscoverNew", "DiscoverDelete"])
def test_what_needs_nothing_done_is_done(state: Path, name: str) -> None:
    before = sorted(state.iterdir())
    assert ask(f"/NetworkDriver.{name}", NetworkID=NETWORK, EndpointID=FIRST) == {}
    assert sorted(state.iterdir()) == before


@pytest.mark.parametrize("method", ["", "/", "/NetworkDriver", "/NetworkDriver.AllocateNetwork", "/a\nb"])
def test_an_unknown_method_is_named(method: str) -> None:
    assert refusal(method).startswith("hpcnet has no")


def test_a_network_is_of_a_job_that_is_here(state: Path) -> None:
    assert create_network() == {}
    assert journal.docker(12) == NETWORK
    assert create_network("13") == {"Err": "job 13 has no network on this node"}


@pytest.mark.parametrize(
    "options",
    [
        None,
        {},
        {GENERIC: None},
        {GENERIC: {}},
        *({GENERIC: {"job": job}} for job in ("", "x", "-1", "0", "²", "9" * 40)),
    ],
)
def test_a_network_without_a_job_is_refused_with_what_to_do(state: Path, options: object) -> None:
    words = "made by a job that asks for it: --network=ib,docker=yes"
    assert words in refusal("/NetworkDriver.CreateNetwork", NetworkID=NETWORK, Options=options)


def test_a_pool_is_the_jobs_own_subnet(state: Path) -> None:
    pool = ask("/IpamDriver.RequestPool", Pool="10.128.0.0/27", Options={"job": "12"}, V6=False)
    tasks = f"{own()[0].ipv4}/27"
    expected = {"PoolID": "job/12", "Pool": "10.128.0.0/27", "Data": {"com.docker.network.gateway": tasks}}
    assert pool == expected
    assert ask("/IpamDriver.ReleasePool", PoolID="job/12") == {}


@pytest.mark.parametrize(
    ("pool", "v6"), [("10.128.0.0/26", False), ("192.0.2.0/27", False), ("10.128.0.0/27", True)]
)
def test_another_subnet_is_refused_with_the_right_one(state: Path, pool: str, v6: bool) -> None:
    words = refusal("/IpamDriver.RequestPool", Pool=pool, V6=v6, Options={"job": "12"})
    assert words == "the subnet of job 12 is 10.128.0.0/27"


@pytest.mark.parametrize("pool", ["", "default", "10.128.0.1/27", "fd68::/64"])
def test_a_subnet_that_is_none_is_refused(state: Path, pool: str) -> None:
    assert refusal("/IpamDriver.RequestPool", Pool=pool, Options={"job": "12"})


def test_a_pool_is_of_a_job_that_is_here(state: Path) -> None:
    request = {"Pool": "10.128.0.0/27", "Options": {"job": "13"}}
    assert refusal("/IpamDriver.RequestPool", **request) == "job 13 has no network on this node"


def test_addresses_come_in_sequence_until_there_are_none(state: Path) -> None:
    assert [address() for _ in range(4)] == [f"{endpoint.ipv4}/27" for endpoint in own()[1:]]
    words = refusal("/IpamDriver.RequestAddress", PoolID="job/12", Address="")
    assert "all 4 container addresses of job 12 on this node are taken" in words
    assert "endpoints=8" in words


def test_an_address_given_back_is_given_again(state: Path) -> None:
    taken = [address().partition("/")[0] for _ in range(4)]
    for _ in range(2):  # twice is fine
        assert ask("/IpamDriver.ReleaseAddress", PoolID="job/12", Address=taken[2]) == {}
    assert address() == f"{taken[2]}/27"
    assert "all 4" in refusal("/IpamDriver.RequestAddress", PoolID="job/12", Address="")


def test_a_preferred_address_is_had_once(state: Path) -> None:
    third = str(own()[3].ipv4)
    assert address(third) == f"{third}/27"
    taken = refusal("/IpamDriver.RequestAddress", PoolID="job/12", Address=third)
    assert taken.startswith(f"{third} is taken by another container of job 12")
    assert address() == f"{own()[1].ipv4}/27"


def test_an_address_that_is_no_containers_is_refused_with_those_that_are(state: Path) -> None:
    peers = lifecycle.plan_of(entry(), Site()).peers
    for wanted in (own()[0].ipv4, peers[1].ipv4, IPv4Address("192.0.2.1")):
        words = refusal("/IpamDriver.RequestAddress", PoolID="job/12", Address=str(wanted))
        assert words.endswith(f"they are {own()[1].ipv4} to {own()[4].ipv4}")
    assert slots.taken(12) == {}


def test_releasing_the_tasks_address_frees_nothing(state: Path) -> None:
    create_network()
    start(FIRST)
    assert ask("/IpamDriver.ReleaseAddress", PoolID="job/12", Address=str(own()[0].ipv4)) == {}
    assert slots.taken(12) == {1: f"docker {FIRST}"}


def test_a_job_without_container_addresses_says_how_to_get_them(state: Path) -> None:
    begin(entry(replace(LEASE, endpoints=0)))
    assert "ask for them: --network=ib,endpoints=" in refusal("/IpamDriver.RequestAddress", PoolID="job/12")


def test_a_job_that_is_being_removed_gives_no_address_and_takes_them_back(state: Path) -> None:
    create_network()
    got = address()
    journal.withdraw(12)
    assert "has no network on this node" in refusal("/IpamDriver.RequestAddress", PoolID="job/12")
    request = {"NetworkID": NETWORK, "EndpointID": FIRST, "Interface": {"Address": got}}
    assert "has no network on this node" in refusal("/NetworkDriver.CreateEndpoint", **request)
    assert ask("/IpamDriver.ReleaseAddress", PoolID="job/12", Address=got.partition("/")[0]) == {}
    assert slots.taken(12) == {}


def test_a_job_that_is_gone_takes_everything_back(state: Path) -> None:
    create_network()
    got = start(FIRST)
    journal.erase(12)
    assert ask("/NetworkDriver.Leave", NetworkID=NETWORK, EndpointID=FIRST) == {}
    assert ask("/NetworkDriver.DeleteEndpoint", NetworkID=NETWORK, EndpointID=FIRST) == {}
    assert ask("/IpamDriver.ReleaseAddress", PoolID="job/12", Address=got.partition("/")[0]) == {}
    assert ask("/NetworkDriver.DeleteNetwork", NetworkID=NETWORK) == {}
    assert ask("/IpamDriver.ReleasePool", PoolID="job/12") == {}
    join = refusal("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert join == "the job of this Docker network has ended"
    assert not state.exists()


def test_a_network_without_an_id_is_no_jobs(state: Path) -> None:
    # Job 12 has none, and an empty id must not find it.
    words = refusal("/NetworkDriver.Join", NetworkID="", EndpointID=FIRST)
    assert words == "the job of this Docker network has ended"


def test_an_endpoint_has_the_planned_addresses_of_its_slot(state: Path) -> None:
    create_network()
    got = address()
    interface = {"Address": got, "MacAddress": ""}
    made = ask("/NetworkDriver.CreateEndpoint", NetworkID=NETWORK, EndpointID=FIRST, Interface=interface)
    expected = own()[1]
    assert made == {"Interface": {"AddressIPv6": f"{expected.ipv6}/64", "MacAddress": expected.mac}}
    assert slots.taken(12) == {1: f"docker {FIRST}"}


def test_a_mac_address_is_the_planned_one_or_refused(state: Path) -> None:
    create_network()
    request: dict[str, Any] = {"NetworkID": NETWORK, "EndpointID": FIRST}
    interface = {"Address": address(), "MacAddress": "02:00:00:00:00:01"}
    words = refusal("/NetworkDriver.CreateEndpoint", **request, Interface=interface)
    assert "leave --mac-address out" in words
    planned = {**interface, "MacAddress": own()[1].mac}
    # libnetwork refuses a driver's MAC where it has given one
    made = ask("/NetworkDriver.CreateEndpoint", **request, Interface=planned)
    assert made == {"Interface": {"AddressIPv6": f"{own()[1].ipv6}/64"}}


def test_ports_are_not_published(state: Path) -> None:
    create_network()
    request: dict[str, Any] = {"NetworkID": NETWORK, "EndpointID": FIRST, "Interface": {"Address": address()}}
    ports = {"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080}]}
    words = refusal("/NetworkDriver.CreateEndpoint", **request, Options=ports)
    assert words.endswith("leave -p/--publish out")
    none = {"com.docker.network.portmap": [], "com.docker.network.endpoint.exposedports": [{"Port": 80}]}
    assert "Err" not in ask("/NetworkDriver.CreateEndpoint", **request, Options=none)


def test_joining_makes_the_interface_of_the_endpoints_address(state: Path, kernel: Kernel) -> None:
    create_network()
    start(FIRST)
    start(SECOND)
    assert kernel.asked == [
        ("remove", "hpd" + "b" * 12),
        ("make", 12, own()[1].ipv4, "hpd" + "b" * 12),
        ("remove", "hpd" + "c" * 12),
        ("make", 12, own()[2].ipv4, "hpd" + "c" * 12),
    ]
    joined = ask("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert joined["InterfaceName"] == {"SrcName": "hpd" + "b" * 12, "DstPrefix": "hpc"}
    assert joined["DisableGatewayService"] is True


def test_leaving_removes_what_no_container_took(state: Path, kernel: Kernel) -> None:
    assert ask("/NetworkDriver.DeleteEndpoint", NetworkID=NETWORK, EndpointID=FIRST) == {}
    assert kernel.asked == [("remove", "hpd" + "b" * 12)]


def test_joining_without_an_address_is_refused(state: Path, kernel: Kernel) -> None:
    create_network()
    words = refusal("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert words == f"endpoint {'b' * 12} has no address of job 12; start the container again"
    assert kernel.asked == []


def test_an_endpoint_whose_address_is_no_containers_is_refused(state: Path) -> None:
    create_network()
    for wrong in (f"{own()[0].ipv4}/27", "192.0.2.1/24"):
        request = {"NetworkID": NETWORK, "EndpointID": FIRST, "Interface": {"Address": wrong}}
        assert "is not an address for containers" in refusal("/NetworkDriver.CreateEndpoint", **request)
    assert slots.taken(12) == {}


def test_what_the_kernel_refuses_is_said_in_its_words(state: Path, kernel: Kernel) -> None:
    create_network()
    start(FIRST)
    kernel.error = OSError(95, "Operation not supported")
    words = refusal("/NetworkDriver.Join", NetworkID=NETWORK, EndpointID=FIRST)
    assert words == "the kernel refused: Operation not supported"


def test_a_configuration_that_cannot_be_read_is_named(state: Path) -> None:
    def broken() -> Site:
        raise SiteError("/etc/hpcnet/hpcnet.toml: line 3 is no TOML")

    answer = Driver(broken).answer("/IpamDriver.RequestAddress", {"PoolID": "job/12"})
    assert answer == {"Err": "/etc/hpcnet/hpcnet.toml: line 3 is no TOML"}


def test_jobs_do_not_mix(state: Path) -> None:
    other = replace(LEASE, serial=8, vni=6815745, ipv4=IPv4Network("10.128.0.32/27"))
    begin(entry(other, 13))
    create_network()
    create_network("13", "d" * 64)
    start(FIRST)
    answer = ask("/IpamDriver.RequestAddress", PoolID="job/13", Address="")
    assert answer["Address"] == f"{own(other)[1].ipv4}/27"
    assert slots.taken(12) == {1: f"docker {FIRST}"}
    assert slots.taken(13) == {1: "docker"}
    # an address of the other job's network is none of this one's
    request = {"NetworkID": NETWORK, "EndpointID": SECOND, "Interface": {"Address": answer["Address"]}}
    assert "is not an address for containers" in refusal("/NetworkDriver.CreateEndpoint", **request)
