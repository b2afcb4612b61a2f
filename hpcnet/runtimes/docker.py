# SPDX-License-Identifier: Apache-2.0
"""A job's Docker network on one node: made when the job starts, removed with its containers when the job ends.

Its driver is hpcnet's own, which ``hpcnet agent`` serves to dockerd (:mod:`hpcnet.agent.driver`).

At the job's end, a container that was started in the network is the job's, and is killed; one of another network
that was connected to it later is only disconnected.
"""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import quote

from hpcnet import names
from hpcnet.errors import NodeError, UserError
from hpcnet.frozen import frozen
from hpcnet.model import Plan
from hpcnet.runtimes.engine import Engine

LABEL = "hpcnet.job"
"""Label of the networks that are ours; its value is the job's id."""

_SIDE_BY_SIDE = 8  # containers that are stopped at a time


def labels(plan: Plan) -> dict[str, str]:
    """What names the job on its network, for who lists networks by label."""
    return {
        LABEL: str(plan.job_id),
        "hpcnet.cluster": plan.cluster,
        "hpcnet.serial": str(plan.lease.serial),
        "hpcnet.user": str(plan.uid),
        "hpcnet.mode": plan.lease.mode,
    }


def create(plan: Plan, engine: Engine, known: str) -> None:
    """The job's network, as this lease wants it; one of an earlier lease goes first. Raises NodeError.

    ``known``: id of the one that the agent knows to be the job's; another one goes too: nobody serves it.
    """
    _require_agent(plan)
    name = names.docker_network(plan.job_id)
    document = {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": names.DOCKER_DRIVER,
        "Options": {"job": str(plan.job_id)},
        "Labels": labels(plan),
        "IPAM": {
            "Driver": names.DOCKER_DRIVER,
            "Config": [{"Subnet": str(plan.lease.ipv4)}],
            "Options": {"job": str(plan.job_id)},
        },
    }
    found = engine.call("GET", f"/networks/{name}")
    if found.good:
        if _label(found.body, LABEL) is None:
            raise NodeError(
                f"Docker on {plan.node} has a network {name} that hpcnet did not make; docker network rm {name}"
            )
        if found.body.get("Labels") == labels(plan) and found.body["Id"] == known:
            return
        _remove(found.body["Id"], name, engine)
    made = engine.call("POST", "/networks/create", document)
    if not made.good:
        raise NodeError(f"dockerd on {plan.node} made no network {name}: {made.message}")


def _require_agent(plan: Plan) -> None:
    """dockerd itself would look for it for half a minute."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect(names.DOCKER_PLUGIN)
        except OSError as error:
            raise NodeError(
                f"docker=yes, but hpcnet agent does not serve {names.DOCKER_PLUGIN} on {plan.node} "
                f"({error.strerror}); systemctl start hpcnet-agent"
            ) from None


def remove(job_id: int, engine: Engine) -> None:
    """Remove the job's network, and kill its containers; gone already is fine. Raises NodeError."""
    for network in ours(engine):
        if _label(network, LABEL) == str(job_id):
            _remove(network["Id"], network["Name"], engine)


def ours(engine: Engine) -> list[dict[str, Any]]:
    """dockerd's networks that hpcnet made. Raises NodeError."""
    answer = engine.call("GET", "/networks", filters={"label": [LABEL]})
    if not answer.good or not isinstance(answer.body, list):
        raise NodeError(f"dockerd does not list its networks: {answer.message}")
    return answer.body


def process_of(container: str, engine: Engine) -> int:
    """Process id of a running container, by its name or id. Raises UserError, NodeError."""
    answer = engine.call("GET", f"/containers/{quote(container, safe='')}/json")
    if not answer.good:
        raise UserError(f"{container}: {answer.message}")
    process = int(answer.body["State"]["Pid"])
    if not process:
        raise UserError(f"container {container} is not running")
    return process


def container_of(job_id: int, endpoint: str, engine: Engine) -> str:
    """Name of the container that has an endpoint in the job's network; empty: none (yet). Raises NodeError."""
    answer = engine.call("GET", f"/networks/{names.docker_network(job_id)}")
    containers = (answer.body.get("Containers") or {}) if answer.good else {}
    return next((str(each["Name"]) for each in containers.values() if each["EndpointID"] == endpoint), "")


@frozen
class Network:
    """A Docker network of a job on this node, live or dead, as its labels tell."""

    job_id: int
    cluster: str
    serial: int
    """Of the lease."""
    identity: str
    name: str


def by_job(engine: Engine) -> dict[int, Network]:
    """All of them. Raises NodeError."""
    found = {}
    for network in ours(engine):
        job, serial = _label(network, LABEL) or "", _label(network, "hpcnet.serial") or ""
        if job.isdecimal() and serial.isdecimal():
            cluster = _label(network, "hpcnet.cluster") or ""
            found[int(job)] = Network(int(job), cluster, int(serial), str(network["Id"]), str(network["Name"]))
    return found


def _label(network: dict[str, Any], key: str) -> str | None:
    value = (network.get("Labels") or {}).get(key)
    return None if value is None else str(value)


def _remove(identity: str, name: str, engine: Engine) -> None:
    answer = engine.call("GET", "/containers/json", all="1", filters={"network": [identity]})
    containers = answer.body if answer.good and isinstance(answer.body, list) else []
    if containers:
        from concurrent.futures import ThreadPoolExecutor

        try:
            with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
                list(pool.map(lambda container: _release(container, identity, name, engine), containers))
        except RuntimeError:  # the system gives no thread: one after another, some perhaps twice
            for container in containers:
                _release(container, identity, name, engine)
    gone = engine.call("DELETE", f"/networks/{identity}")
    if not gone.good and gone.status != 404:
        raise NodeError(f"Docker network {name} is left: {gone.message}")


def _release(container: dict[str, Any], network: str, name: str, engine: Engine) -> None:
    started_in = (container.get("HostConfig") or {}).get("NetworkMode")
    if started_in in (network, name):
        engine.call("POST", f"/containers/{container['Id']}/stop", t="0")
    # Also of a container that could not be stopped. One that ended is not in it any more, which is no error here.
    engine.call("POST", f"/networks/{network}/disconnect", {"Container": container["Id"], "Force": True})
