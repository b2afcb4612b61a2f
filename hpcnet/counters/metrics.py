# SPDX-License-Identifier: Apache-2.0
"""Samples as Prometheus' text format. Pure: samples and jobs in, text out; a scrape is one call.

The counters carry the job's number only; who and what the job is stands once, in hpcnet_job_info, and is joined:

    rate(hpcnet_interface_transmit_bytes_total[1m]) * on (slurmjobid) group_left (user) hpcnet_job_info

Names and suffixes are those of node_exporter's netdev collector.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hpcnet.counters.model import CONTAINER, PORT, Counters, Interface, JobInfo, NodeSample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = (
    ("receive_bytes", "rx_bytes", "Bytes received"),
    ("transmit_bytes", "tx_bytes", "Bytes sent"),
    ("receive_packets", "rx_packets", "Packets received"),
    ("transmit_packets", "tx_packets", "Packets sent"),
    ("receive_errs", "rx_errors", "Packets received with errors"),
    ("transmit_errs", "tx_errors", "Packets not sent because of errors"),
    ("receive_drop", "rx_dropped", "Packets received and dropped"),
    ("transmit_drop", "tx_dropped", "Packets dropped instead of sent"),
)

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """One metric: its name, type and help, and its values by labels."""

    name: str
    kind: str
    help: str
    values: tuple[tuple[Labels, float], ...]


def render(samples: Iterable[NodeSample], jobs: Iterable[JobInfo], version: str) -> str:
    """The answer to a scrape. What is not known has no line; a port has its lines once for all jobs."""
    found = list(samples)
    families = [
        *_interfaces(found),
        *_ports(found),
        _job_info(jobs),
        Family("hpcnet_jobs", "gauge", "Jobs with a network on this node.", (((), len(found)),)),
        Family("hpcnet_build_info", "gauge", "Version of hpcnet.", (((("version", version),), 1),)),
    ]
    return "".join(line + "\n" for family in families if family.values for line in _lines(family))


def _interfaces(samples: list[NodeSample]) -> Iterator[Family]:
    own = [(_labels(sample, each), each) for sample in samples for each in sample.interfaces if each.kind != PORT]
    for name, field, help_text in _COUNTERS:
        values = _known((labels, _counter(each.counters, field)) for labels, each in own)
        yield Family(f"hpcnet_interface_{name}_total", "counter", f"{help_text} by an interface of a job.", values)
    mtu = _known((labels, each.mtu) for labels, each in own)
    yield Family("hpcnet_interface_mtu_bytes", "gauge", "MTU of an interface of a job.", mtu)
    speed = _known((labels, each.speed and each.speed / 8) for labels, each in own)
    yield Family("hpcnet_interface_speed_bytes", "gauge", "Speed of the link under it, bytes per second.", speed)


def _ports(samples: list[NodeSample]) -> Iterator[Family]:
    ports = {
        (("node", sample.node), ("port", each.device)): each
        for sample in samples
        for each in sample.interfaces
        if each.kind == PORT
    }
    for name, field, help_text in _COUNTERS:
        values = _known((labels, _counter(each.counters, field)) for labels, each in ports.items())
        yield Family(f"hpcnet_port_{name}_total", "counter", f"{help_text} by a fabric port, of all jobs.", values)
    speed = _known((labels, each.speed and each.speed / 8) for labels, each in ports.items())
    yield Family("hpcnet_port_speed_bytes", "gauge", "Speed of a fabric port, bytes per second.", speed)


def _job_info(jobs: Iterable[JobInfo]) -> Family:
    values = tuple(
        (
            (("slurmjobid", str(job.job_id)), ("user", job.user), ("account", job.account), ("mode", job.mode)),
            1.0,
        )
        for job in jobs
    )
    return Family(
        "hpcnet_job_info", "gauge", "A job with a network on this node: 1, and who and what it is.", values
    )


def _labels(sample: NodeSample, interface: Interface) -> Labels:
    container: Labels = ()
    if interface.kind == CONTAINER:
        container = (("namespace", interface.namespace), ("container", interface.name))
    return (
        ("slurmjobid", str(sample.job_id)),
        ("node", sample.node),
        ("device", interface.device),
        ("kind", interface.kind),
        *container,
    )


def _counter(counters: Counters, field: str) -> int | None:
    value: int | None = getattr(counters, field)
    return value


def _known(values: Iterable[tuple[Labels, float | None]]) -> tuple[tuple[Labels, float], ...]:
    return tuple((labels, value) for labels, value in values if value is not None)


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.values:
        text = ",".join(f'{name}="{_escaped(label)}"' for name, label in labels)
        number = int(value) if value == int(value) else value
        yield f"{family.name}{{{text}}} {number}" if text else f"{family.name} {number}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
