# SPDX-License-Identifier: Apache-2.0
"""What the user or the site has to mend: the job is refused on the node, with the reason, and no node drains."""

from __future__ import annotations

import pytest

from hpcnet import record
from hpcnet.model import Request
from hpcnet.record import Record
from tests.kernel.hosts import Host, built, job_environment, lease_of, require_root

require_root()
pytestmark = pytest.mark.kernel

ENVIRONMENT = job_environment(lease_of(), "n[1-2]")
TOKEN = ENVIRONMENT["SLURM_JOB_COMMENT"]
REFUSED_BY_CONTROLLER = record.token(Record("refused", Request(), reason="no free network in the pool"))


def reason(host: Host, environment: dict[str, str]) -> str:
    """Why a Prolog that exits 0 refuses the job; nothing but the reason is there."""
    before = host.state()
    result = host.hook("prolog", environment)
    assert result.returncode == 0, result.stderr
    after = host.state()
    assert after.pop("files").split() == [*before.pop("files").split(), *REFUSAL]
    assert after == before
    found = host.run("cat", REFUSAL[1]).stdout.strip()
    assert f"job 17: refused: {found}" in result.stderr
    return found


REFUSAL = ("/run/hpcnet/jobs/17", "/run/hpcnet/jobs/17/refused")

CASES = {
    "no lease": (job_environment(None, "n[1-2]"), "the controller gave it no lease"),
    "no token": ({**ENVIRONMENT, "SLURM_JOB_COMMENT": ""}, "the controller gave it no lease"),
    "refused by the controller": (
        {**ENVIRONMENT, "SLURM_JOB_COMMENT": REFUSED_BY_CONTROLLER},
        "no free network in the pool",
    ),
    "cut token": ({**ENVIRONMENT, "SLURM_JOB_COMMENT": TOKEN[:-10]}, "hpcnet"),
    "broken token": ({**ENVIRONMENT, "SLURM_JOB_COMMENT": "hpcnet:lease:x:y"}, "hpcnet:lease:x:y"),
    "a node without a fabric address": (
        job_environment(lease_of(), "n[1-4]"),
        "node n4 has no address on the fabric: add n4-ib to /etc/hosts",
    ),
    "this node is not the job's": (
        job_environment(lease_of(), "n[2-3]"),
        "node 'n1' is not among the job's nodes",
    ),
    "too many nodes for the lease": (
        job_environment(lease_of(endpoints=32), "n[1-3]"),
        "10.128.0.0/26 is too small for 3 nodes",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_job_is_refused_for_the_sites_sake(hosts: list[Host], case: str) -> None:
    environment, expected = CASES[case]
    assert expected in reason(hosts[0], environment)


@pytest.mark.parametrize("text", ["fabric = [", "[fabric]\nuplnk = 'ib0'", "[pool]\nvni = 7"])
def test_a_job_is_refused_for_a_broken_configuration(hosts: list[Host], text: str) -> None:
    hosts[0].configure(text)
    assert "/etc/hpcnet/hpcnet.toml" in reason(hosts[0], ENVIRONMENT)


def test_a_job_is_refused_for_two_nodes_with_one_address(hosts: list[Host]) -> None:
    hosts[0].write("/run/peers", "172.31.0.1 n1-ib n2-ib\n")
    hosts[0].configure('[fabric]\npeers_file = "/run/peers"')
    assert "have one address on the fabric; correct [fabric] peers" in reason(hosts[0], ENVIRONMENT)


def test_epilog_removes_a_network_under_a_broken_configuration(
    hosts: list[Host], pristine: list[dict[str, str]]
) -> None:
    built(hosts[:1], ENVIRONMENT)
    hosts[0].configure("fabric = [")
    assert hosts[0].hook("epilog", ENVIRONMENT).returncode == 0
    assert hosts[0].state() == pristine[0]


def test_a_refusal_takes_an_earlier_network_away(hosts: list[Host]) -> None:
    before = hosts[0].state()["filter"]
    built(hosts[:1], ENVIRONMENT)
    hosts[0].hook("prolog", job_environment(None, "n[1-2]"))
    after = hosts[0].state()
    assert "hpcnet-17" not in after["namespaces"]
    assert after["filter"] == before
    assert after["files"].split()[-2:] == list(REFUSAL)


def test_a_network_takes_an_earlier_refusal_away(hosts: list[Host]) -> None:
    hosts[0].hook("prolog", job_environment(None, "n[1-2]"))
    built(hosts[:1], ENVIRONMENT)
    assert hosts[0].run("sh", "-c", "cd /run/hpcnet/jobs/17; echo *").stdout == "hosts journal network\n"


def test_epilog_takes_a_refusal_away(hosts: list[Host], pristine: list[dict[str, str]]) -> None:
    hosts[0].hook("prolog", job_environment(None, "n[1-2]"))
    assert hosts[0].hook("epilog", ENVIRONMENT).returncode == 0
    assert hosts[0].state() == pristine[0]
