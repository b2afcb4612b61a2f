# SPDX-License-Identifier: Apache-2.0
"""Asking agents for samples: real HTTP on loopback; where slurmctld would be asked, a list of jobs."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hpcnet.agent.metrics import MetricsServer
from hpcnet.config import Agent
from hpcnet.counters import agents, reading, steps
from hpcnet.counters.agents import AgentSource, Polling
from hpcnet.counters.model import Counters, Interface, NodeSample
from hpcnet.errors import NodeError, SiteError
from hpcnet.model import Request
from hpcnet.record import Record
from hpcnet.slurm.jobs import ControllerUnreachable, SlurmJob
from hpcnet.slurm.networks import Network

REFUSED = "the agent of localhost: Connection refused"
TOKEN = "0123456789abcdef"
HERE = NodeSample(1, "localhost", 5.0, (Interface("hpc0", "tasks", Counters(rx_bytes=7)),), clock=1.0)


@pytest.fixture
def settings(tmp_path: Path) -> Agent:
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o640)
    return Agent(f"0.0.0.0:{free_port()}", token_file=str(tmp_path / "token"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Hostlists of the jobs that run, by id; every name on loopback is another node."""
    found = {1: "localhost"}

    def ask(wanted: frozenset[int], jobs: object) -> list[Network]:
        if 0 in found:
            raise ControllerUnreachable("no answer")
        records = [
            SlurmJob(job, "", frozenset({"RUNNING"}), 0, "bob", "", "", nodes, "", "", 0, 0)
            for job, nodes in found.items()
            if job in wanted
        ]
        return [Network(each, Record("lease", Request())) for each in records]

    monkeypatch.setattr(agents, "watched", ask)
    monkeypatch.setattr(agents, "_LISTING", 0.1)
    monkeypatch.setattr(agents, "RETRY_FIRST", 0.05)
    return found


@pytest.fixture
def serve(settings: Agent, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MetricsServer]]:
    """Start an agent that gives these samples."""
    servers: list[MetricsServer] = []

    def start(*samples: NodeSample) -> MetricsServer:
        monkeypatch.setattr(reading, "read_node", lambda node, tables: list(samples))
        servers.append(MetricsServer(settings))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def first(watch: Polling, count: int) -> list[NodeSample]:
    found = []
    for each in watch:
        found.append(each)
        if len(found) == count:
            watch.close()
    return found


def test_samples_come_every_interval(
    settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer]
) -> None:
    serve(HERE, HERE._replace(job_id=2))
    begin = time.monotonic()
    found = first(AgentSource(settings).watch([1], 0.1), 4)
    assert found == [HERE] * 4, "of another job, none"
    assert time.monotonic() - begin >= 0.3


def test_a_node_is_called_as_slurm_calls_it(
    settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer]
) -> None:
    serve(HERE._replace(node="some-other-name"))
    assert {each.node for each in first(AgentSource(settings).watch([1], 0.1), 2)} == {"localhost"}


def test_follow_and_the_end(settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer]) -> None:
    serve(HERE, HERE._replace(job_id=2))
    jobs[2] = "localhost"
    watch = AgentSource(settings).watch([1], 0.05)
    seen = set()
    for each in watch:
        seen.add(each.job_id)
        watch.follow([1, 2])
        if seen == {1, 2}:
            break
    jobs.clear()
    watch = AgentSource(settings).watch([1], 0.05)
    assert list(watch) == [], "there is no such job any more"


def test_a_job_that_an_agent_has_no_more_is_asked_for(
    settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer]
) -> None:
    serve()
    watch = AgentSource(settings).watch([1], 0.05)
    threading.Timer(0.3, jobs.clear).start()
    assert list(watch) == []


def test_an_agent_that_is_not_there_is_a_problem_until_it_is(
    settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer]
) -> None:
    found = []
    watch = AgentSource(settings).watch([1], 0.05)
    for each in watch:
        found.append(each)
        if len(found) == 2:
            serve(HERE)
        if not each.problem:
            watch.close()
    assert {(each.node, each.problem) for each in found[:2]} == {("", REFUSED)}
    assert found[-1] == HERE


def test_one_silent_node_of_two_is_no_problem_of_the_job(
    settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer]
) -> None:
    jobs[1] = "localhost,nowhere.invalid"
    serve(HERE)
    found = first(AgentSource(settings).watch([1], 0.1), 6)
    assert [each.problem for each in found[-4:]] == [""] * 4


def test_slurmctld_away_is_a_problem_and_no_end(
    settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer]
) -> None:
    serve(HERE)
    jobs[0] = ""
    watch = AgentSource(settings).watch([1], 0.05)
    found = []
    for each in watch:
        found.append(each)
        jobs.pop(0, None)
        if len(found) == 2:
            watch.close()
    assert [each.problem for each in found] == ["no answer", ""]


def test_a_wrong_token_is_said(
    settings: Agent, jobs: dict[int, str], serve: Callable[..., MetricsServer], tmp_path: Path
) -> None:
    serve(HERE)
    (tmp_path / "token").write_text("another-token-of-16")
    [found] = first(AgentSource(settings).watch([1], 0.05), 1)
    assert found.problem == "the agent of localhost: 401, the token of [agent] token_file is needed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ""}, "metrics is empty; use --transport srun"),
        ({"metrics": "127.0.0.1:9834"}, "reached from their own nodes only"),
        (
            {"token_file": "/nowhere/token"},
            "/nowhere/token: No such file or directory; admins may read it",
        ),
    ],
)
def test_where_no_agent_can_be_asked(settings: Agent, change: dict[str, str], message: str) -> None:
    with pytest.raises(SiteError, match=re.escape(message)):
        AgentSource(replace(settings, **change))


def test_a_token_that_everybody_may_read_is_refused(settings: Agent, tmp_path: Path) -> None:
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(NodeError, match="may be read by everybody"):
        MetricsServer(settings)


def test_who_may_watch_what(monkeypatch: pytest.MonkeyPatch) -> None:
    bobs = Network(
        SlurmJob(7, "", frozenset({"RUNNING"}), 20002, "bob", "", "", "n1", "", "", 0, 0),
        Record("lease", Request()),
    )
    for uid, why in ((0, ""), (20002, ""), (20001, "job 7 is bob's; only its owner and root see it")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert steps.refusal(bobs) == why
