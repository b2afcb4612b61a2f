# SPDX-License-Identifier: Apache-2.0
"""What a node's samples say of it that is not well. The same in the lab: tests/cluster/test_tui.py."""

from __future__ import annotations

import pytest

from hpcnet.counters.model import EGRESS, PORT, SEGMENT, TASKS, Interface, JobInfo, NodeSample
from hpcnet.counters.rates import UNKNOWN, Rates
from hpcnet.counters.troubles import ERROR, GROWING, WARNING, Judge

JOB = JobInfo(
    12, mode="vxlan", nodes=("n1", "n2"), subnet="10.128.0.4/30", subnet6="fd68:7063:6e65:1::/64", mtu=65470
)
TASKS_LINK = Interface(
    "hpc0",
    TASKS,
    mtu=65470,
    state="UP",
    addresses=("10.128.0.6/30", "fd68:7063:6e65:1::2/64", "fe80::a80:2/64"),
    namespace="hpcnet-12",
)
SEGMENT_LINK = Interface("hpcvx", SEGMENT, mtu=65470, state="UNKNOWN", namespace="hpcnet-12")
EGRESS_LINK = Interface("hpcout", EGRESS, mtu=1500, state="UP", namespace="hpcnet-12")
HCA = Interface("mlx5_0/1", PORT, state="ACTIVE")
WELL = (TASKS_LINK, SEGMENT_LINK, EGRESS_LINK, HCA)


def sample(*interfaces: Interface, problem: str = "") -> NodeSample:
    return NodeSample(12, "n2", 0.0, interfaces, problem)


def told(judge: Judge, older: NodeSample, latest: NodeSample, rates: Rates = UNKNOWN) -> list[tuple[str, str]]:
    found = judge.look(older, latest, rates)
    assert all(each.remedy for each in found)
    return [(each.grade, each.text) for each in found]


@pytest.mark.parametrize(
    ("interfaces", "problem", "troubles"),
    [
        (WELL, "", []),
        ((), "permission denied", [(ERROR, "permission denied")]),
        ((SEGMENT_LINK, HCA), "", [(ERROR, "hpc0 is gone")]),
        ((EGRESS_LINK,), "", [(ERROR, "hpc0 is gone"), (ERROR, "hpcvx is gone")]),
        ((TASKS_LINK._replace(state="DOWN"), *WELL[1:]), "", [(ERROR, "hpc0 is DOWN")]),
        (
            (TASKS_LINK._replace(state="LOWERLAYERDOWN"), SEGMENT_LINK._replace(state="DOWN")),
            "",
            [(ERROR, "hpcvx is DOWN")],
        ),
        (
            (TASKS_LINK._replace(state="DOWN"), SEGMENT_LINK, EGRESS_LINK._replace(state="DOWN")),
            "",
            [(ERROR, "hpc0 is DOWN"), (ERROR, "hpcout is DOWN")],
        ),
        (
            (TASKS_LINK._replace(addresses=("fd68:7063:6e65:1::2/64",)), SEGMENT_LINK),
            "",
            [(ERROR, "hpc0 lacks its address 10.128.0.6")],
        ),
        (
            (TASKS_LINK._replace(addresses=(*TASKS_LINK.addresses, "10.9.9.9/8")), SEGMENT_LINK),
            "",
            [(WARNING, "hpc0 has 10.9.9.9, which is not the job's")],
        ),
        (
            (TASKS_LINK._replace(mtu=1500), SEGMENT_LINK),
            "",
            [(WARNING, "hpc0 has MTU 1500, the job's is 65470")],
        ),
        ((*WELL, HCA._replace(device="mlx5_1/1", state="DOWN")), "", []),
        ((*WELL[:3], HCA._replace(state="DOWN")), "", []),  # never used, for all that is known
        # as /proc tells it: no state, no address, no MTU; nothing can be said of them
        ((Interface("hpc0", TASKS), Interface("hpcvx", SEGMENT)), "", []),
    ],
)
def test_what_a_sample_shows(
    interfaces: tuple[Interface, ...], problem: str, troubles: list[tuple[str, str]]
) -> None:
    seen = sample(*interfaces, problem=problem)
    assert told(Judge(JOB), seen, seen) == troubles


def test_it_is_told_when_two_samples_show_it_and_ends_with_the_next_that_does_not() -> None:
    judge, well, down = Judge(JOB), sample(*WELL), sample(TASKS_LINK._replace(state="DOWN"), SEGMENT_LINK)
    assert judge.look(None, down, UNKNOWN) == ()
    assert told(judge, well, well) == []
    assert told(judge, well, down) == []
    assert told(judge, down, down) == [(ERROR, "hpc0 is DOWN")]
    both = sample(TASKS_LINK._replace(state="DOWN", mtu=1500), SEGMENT_LINK)
    assert told(judge, down, both) == [(ERROR, "hpc0 is DOWN")]
    assert told(judge, both, well) == []


def test_a_port_that_was_active() -> None:
    judge, well, cut = Judge(JOB), sample(*WELL), sample(*WELL[:3], HCA._replace(state="DOWN"))
    assert told(judge, well, well) == told(judge, well, cut) == []
    assert told(judge, cut, cut) == [(ERROR, "no port of the fabric is active any more: mlx5_0/1 DOWN")]
    assert told(judge, cut, well) == told(judge, well, well) == []


def test_drops_that_grow_are_told_until_they_have_not_for_a_while() -> None:
    judge, well = Judge(JOB), sample(*WELL)
    growing, still = Rates(rx_dropped=0.5), Rates(*[0.0] * 8)
    expected = [(GROWING.grade, GROWING.text)]
    assert told(judge, well, well, still) == []
    assert told(judge, well, well, growing) == expected
    looks = [told(judge, well, well, still) for _ in range(20)]
    assert looks[0] == expected and looks[-1] == []
    assert looks == sorted(looks, reverse=True), "it ends once"


def test_a_job_of_another_kind() -> None:
    direct = Judge(JobInfo(12, mode="direct", nodes=("n1", "n2"), subnet=JOB.subnet, subnet6=JOB.subnet6))
    only = sample(TASKS_LINK._replace(mtu=4092))
    assert told(direct, only, only) == [], "its MTU is each uplink's, and there is no segment"
    elsewhere = NodeSample(12, "n7", 0.0, WELL)
    assert told(Judge(JOB), elsewhere, elsewhere) == [], "not in the record: its addresses are not known"
