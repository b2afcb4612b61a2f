# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import names

IFNAMSIZ = 16
"""With the closing zero (linux/if.h)."""

jobs = st.integers(1, 2**32 - 1)


@given(jobs)
def test_a_namespaces_name_gives_the_job_back(job_id: int) -> None:
    assert names.parse_netns(names.netns(job_id)) == job_id


@pytest.mark.parametrize(
    "name", ["", "hpcnet-", "hpcnet-0", "hpcnet-01", "hpcnet-1x", "xhpcnet-1", "hpcnet-1\n", "hpcnet-١", "hpcnet"]
)
def test_other_namespaces_are_not_ours(name: str) -> None:
    assert names.parse_netns(name) is None


@given(jobs)
def test_a_links_name_gives_the_job_back_and_fits(job_id: int) -> None:
    name = names.egress_link(job_id)
    assert names.parse_egress_link(name) == job_id and len(name) < IFNAMSIZ


@pytest.mark.parametrize("name", ["", "hpce", "hpce0", "hpce01", "hpce1x", "xhpce1", "hpce1\n", "eth0"])
def test_other_devices_are_no_links(name: str) -> None:
    assert names.parse_egress_link(name) is None


@given(st.from_regex("[a-z][a-z0-9_-]{0,30}", fullmatch=True), jobs, st.integers(1, 2**63 - 1))
def test_an_alias_gives_cluster_job_and_serial_back(cluster: str, job_id: int, serial: int) -> None:
    assert names.parse_alias(names.alias(cluster, job_id, serial)) == (cluster, job_id, serial)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hpcnet",
        "hpcnet:c:1",
        "hpcnet:c:0:1",
        "hpcnet::1:1",
        "hpcnet:a b:1:1",
        "hpcnet:c:1:x",
        "hpcnet:c:1:1\n",
    ],
)
def test_other_aliases_are_not_ours(text: str) -> None:
    assert names.parse_alias(text) is None


def test_devices_have_names_that_the_kernel_takes() -> None:
    for device in (names.VXLAN_DEVICE, names.TASKS_DEVICE):
        assert 0 < len(device) < IFNAMSIZ
        assert not set("/: \n") & set(device)


@given(jobs)
def test_paths_are_the_jobs_own(job_id: int) -> None:
    assert names.netns_path(job_id) == f"/run/netns/{names.netns(job_id)}"
    assert names.job_dir(job_id) == f"/run/hpcnet/jobs/{job_id}"


def test_the_state_directory_is_looked_up_when_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "STATE_DIR", "/elsewhere")
    assert names.job_dir(7) == "/elsewhere/jobs/7"
