# SPDX-License-Identifier: Apache-2.0
"""hpcnet's Docker network driver and address management: one answer to each request of dockerd.

    driver = Driver(load_site)
    driver.answer("/NetworkDriver.GetCapabilities", {})     # {"Scope": "local", "ConnectivityScope": "local"}

It keeps nothing in memory: which Docker network is which job's, and which address is which container's, stands in
the job's directory, so that the agent and dockerd may restart as they like. Docker moves the interface that
:meth:`Driver.join` makes from the node's namespace into the container's; until then it is down.

Source: libnetwork docs/remote.md and docs/ipam.md; drivers/remote/driver.go and ipams/remote/remote.go.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from hpcnet import attachment, journal, lifecycle, names, slots
from hpcnet.config import Site
from hpcnet.errors import HpcnetError, NodeError, UserError
from hpcnet.kernel import attachment as devices
from hpcnet.kernel import netns
from hpcnet.model import Endpoint

Joined = Callable[[int, Endpoint, str], None]
"""Told of each container that joins: job id, its endpoint, the slot's owner ("docker" and Docker's id of it)."""

_GENERIC = "com.docker.network.generic"
_GATEWAY = "com.docker.network.gateway"
_PORTS = "com.docker.network.portmap"
_OWNER = "docker"
_JOB_ID = re.compile("[1-9][0-9]{0,9}")

Request = Mapping[str, Any]
Response = dict[str, Any]


class Driver:
    """Answers dockerd; ``site`` reads the configuration anew, as it may change while an agent runs."""

    def __init__(self, site: Callable[[], Site], joined: Joined = lambda *_: None) -> None:
        self._site, self._joined = site, joined
        self._answers: Mapping[str, Callable[[Request], Response]] = {
            "/Plugin.Activate": lambda request: {"Implements": ["NetworkDriver", "IpamDriver"]},
            "/NetworkDriver.GetCapabilities": lambda request: {"Scope": "local", "ConnectivityScope": "local"},
            "/NetworkDriver.CreateNetwork": self._create_network,
            "/NetworkDriver.DeleteNetwork": self._nothing,
            "/NetworkDriver.CreateEndpoint": self._create_endpoint,
            "/NetworkDriver.EndpointOperInfo": lambda request: {"Value": {}},
            "/NetworkDriver.DeleteEndpoint": self._delete_endpoint,
            "/NetworkDriver.Join": self._join,
            "/NetworkDriver.Leave": self._nothing,
            "/NetworkDriver.DiscoverNew": self._nothing,
            "/NetworkDriver.DiscoverDelete": self._nothing,
            "/NetworkDriver.ProgramExternalConnectivity": self._nothing,
            "/NetworkDriver.RevokeExternalConnectivity": self._nothing,
            "/IpamDriver.GetCapabilities": lambda request: {"RequiresMACAddress": False},
            "/IpamDriver.GetDefaultAddressSpaces": self._address_spaces,
            "/IpamDriver.RequestPool": self._request_pool,
            "/IpamDriver.ReleasePool": self._nothing,
            "/IpamDriver.RequestAddress": self._request_address,
            "/IpamDriver.ReleaseAddress": self._release_address,
        }

    def answer(self, method: str, request: Request) -> Response:
        """The response to one request; ``{"Err": ...}``, which Docker shows to its user, when it cannot be met."""
        if method not in self._answers:
            return _refusal(f"hpcnet has no {method}")
        try:
            return self._answers[method](request)
        except HpcnetError as error:
            return _refusal(str(error))
        except OSError as error:
            return _refusal(f"the kernel refused: {error.strerror or error}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return _refusal(f"not a request that hpcnet understands: {type(error).__name__}: {error}")

    @staticmethod
    def _nothing(request: Request) -> Response:
        return {}

    @staticmethod
    def _address_spaces(request: Request) -> Response:
        return {"LocalDefaultAddressSpace": "hpcnet", "GlobalDefaultAddressSpace": "hpcnet"}

    def _create_network(self, request: Request) -> Response:
        job_id = _job_option((request.get("Options") or {}).get(_GENERIC))
        if journal.read(job_id) is None:
            raise UserError(f"job {job_id} has no network on this node")
        journal.write_docker(job_id, str(request["NetworkID"]))
        return {}

    def _request_pool(self, request: Request) -> Response:
        job_id = _job_option(request.get("Options"))
        entry = journal.read(job_id)
        if entry is None:
            raise UserError(f"job {job_id} has no network on this node")
        plan = lifecycle.plan_of(entry, self._site(), with_peers=False)
        if request.get("V6") or IPv4Network(str(request["Pool"])) != plan.lease.ipv4:
            raise UserError(f"the subnet of job {job_id} is {plan.lease.ipv4}")
        own = IPv4Interface((plan.tasks.ipv4, plan.lease.ipv4.prefixlen))
        # No container gets it as its gateway (see _join); without one Docker would take a container's address.
        return {"PoolID": _pool_id(job_id), "Pool": str(plan.lease.ipv4), "Data": {_GATEWAY: str(own)}}

    def _request_address(self, request: Request) -> Response:
        job_id = _job_of_pool(str(request["PoolID"]))
        wanted = IPv4Address(str(request["Address"])) if request.get("Address") else None
        endpoint = attachment.take(job_id, wanted, _OWNER, self._site())
        plan = attachment.plan_here(job_id, self._site())
        return {"Address": str(IPv4Interface((endpoint.ipv4, plan.lease.ipv4.prefixlen))), "Data": {}}

    def _release_address(self, request: Request) -> Response:
        job_id = _job_of_pool(str(request["PoolID"]))
        attachment.give_back(job_id, IPv4Address(str(request["Address"])), self._site())
        return {}

    def _create_endpoint(self, request: Request) -> Response:
        job_id = _job_of_network(request)
        interface = request.get("Interface") or {}
        if (request.get("Options") or {}).get(_PORTS):
            raise UserError("a container in a job's network is reached by its own address; leave -p/--publish out")
        plan = attachment.plan_here(job_id, self._site())
        endpoint = _endpoint(plan.own, IPv4Interface(str(interface["Address"])).ip)
        if interface.get("MacAddress") and (plan.ipoib or interface["MacAddress"] != endpoint.mac):
            raise UserError("a container in a job's network has the MAC of its address; leave --mac-address out")
        slots.assign(job_id, endpoint.slot, f"{_OWNER} {request['EndpointID']}")
        answer = {"AddressIPv6": f"{endpoint.ipv6}/{plan.lease.ipv6.prefixlen}"}
        if not plan.ipoib and not interface.get("MacAddress"):
            answer["MacAddress"] = endpoint.mac
        return {"Interface": answer}

    def _join(self, request: Request) -> Response:
        job_id, identity = _job_of_network(request), str(request["EndpointID"])
        owned = [slot for slot, owner in slots.taken(job_id).items() if owner == f"{_OWNER} {identity}"]
        if not owned:
            raise NodeError(f"endpoint {identity[:12]} has no address of job {job_id}; start the container again")
        name = names.handover(identity)
        with netns.own() as here:
            devices.remove(name, here)  # of a start that failed
            endpoint = attachment.make(job_id, owned[0], name, here, self._site())
        self._joined(job_id, endpoint, f"{_OWNER} {identity}")
        return {"InterfaceName": {"SrcName": name, "DstPrefix": "hpc"}, "DisableGatewayService": True}

    def _delete_endpoint(self, request: Request) -> Response:
        with netns.own() as here:
            devices.remove(names.handover(str(request["EndpointID"])), here)
        return {}


def _refusal(reason: str) -> Response:
    return {"Err": " ".join(reason.split())}


def _job_option(options: Any) -> int:
    text = str((options or {}).get("job", ""))
    if not _JOB_ID.fullmatch(text):
        raise UserError("hpcnet's Docker networks are made by a job that asks for it: --network=ib,docker=yes")
    return int(text)


def _pool_id(job_id: int) -> str:
    return f"job/{job_id}"


def _job_of_pool(pool: str) -> int:
    text = pool.partition("/")[2]
    if not _JOB_ID.fullmatch(text):
        raise ValueError(f"pool {pool!r}")
    return int(text)


def _job_of_network(request: Request) -> int:
    identity = str(request["NetworkID"])
    for job_id in journal.jobs():
        if identity and journal.docker(job_id) == identity:
            return job_id
    raise UserError("the job of this Docker network has ended")


def _endpoint(own: tuple[Endpoint, ...], address: IPv4Address) -> Endpoint:
    with contextlib.suppress(StopIteration):
        return next(endpoint for endpoint in own[1:] if endpoint.ipv4 == address)
    raise UserError(f"{address} is not an address for containers of this job here")
