# SPDX-License-Identifier: Apache-2.0
"""dockerd, and hpcnet's driver for it, where the site offers docker=yes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpcnet import names
from hpcnet.config import Docker
from hpcnet.doctor.model import Finding, Host, fail, ok, raised
from hpcnet.errors import NodeError
from hpcnet.runtimes.engine import Engine

_AGENT_SECONDS = 5.0
_START = "systemctl enable --now hpcnet-agent (etc/hpcnet-agent.service)"


@dataclass(frozen=True)
class Answers:
    """What dockerd and the agent say; an empty version or no implementation comes with its error."""

    version: str = ""
    dockerd: str = ""
    """Why dockerd gave no answer."""
    implements: tuple[str, ...] = ()
    agent: str = ""
    """Why the agent gave no answer."""


def check_docker(host: Host) -> Iterable[Finding]:
    """Only of a node, and only where docker=yes is offered."""
    if not host.site.offer.docker:
        return [ok("not offered ([offer] docker)")]
    return judge_docker(read_answers(host.site.docker), host.site.docker)


def read_answers(docker: Docker) -> Answers:
    """Ask both, each within its time."""
    version = dockerd = agent = ""
    implements: tuple[str, ...] = ()
    try:
        answer = Engine(docker.socket, docker.deadline).call("GET", "/version")
        version = str(answer.body["Version"]) if answer.good else ""
        dockerd = "" if version else f"dockerd on {docker.socket} says: {answer.message}"
    except NodeError as error:
        dockerd = str(error)
    except (KeyError, TypeError):
        dockerd = f"what answers on {docker.socket} is no dockerd"
    try:
        agent_engine = Engine(names.DOCKER_PLUGIN, _AGENT_SECONDS)
        body = agent_engine.call("POST", "/Plugin.Activate", {}).body
        scope = agent_engine.call("POST", "/NetworkDriver.GetCapabilities", {}).body
        implements = tuple(body["Implements"]) if scope["Scope"] == "local" else ()
    except NodeError as error:
        agent = str(error).partition(": ")[2].partition(";")[0] or str(error)
    except (KeyError, TypeError):
        agent = "what answers there is no hpcnet agent"
    return Answers(version, dockerd, implements, agent)


def judge_docker(answers: Answers, docker: Docker) -> list[Finding]:
    """Jobs with docker=yes fail their Prolog, and drain the node, when either is missing."""
    found = []
    if answers.dockerd:
        found.append(raised(NodeError(answers.dockerd)))
    if answers.agent:
        what = f"hpcnet agent does not answer on {names.DOCKER_PLUGIN}: {answers.agent}"
        found.append(fail(what, _START))
    elif set(answers.implements) != {"NetworkDriver", "IpamDriver"}:
        what = f"what answers on {names.DOCKER_PLUGIN} is not hpcnet's driver"
        found.append(fail(what, f"end it; {_START}"))
    return found or [ok(f"dockerd {answers.version} on {docker.socket}, hpcnet's driver answers")]
