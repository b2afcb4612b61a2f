# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcnet import nodelist
from hpcnet.errors import UserError

EXPANDED = {
    "n1": ["n1"],
    "n[1-3,7]": ["n1", "n2", "n3", "n7"],
    "n[08-11]": ["n08", "n09", "n10", "n11"],
    "n[8-11]": ["n8", "n9", "n10", "n11"],
    "n[098-101]": ["n098", "n099", "n100", "n101"],
    "n[001-2]": ["n001", "n002"],
    "n[01-02,007]": ["n01", "n02", "n007"],
    "n[3,1-2]": ["n3", "n1", "n2"],
    "n[1,1]": ["n1", "n1"],
    "n[0]": ["n0"],
    "a[1-2]b[3-4]": ["a1b3", "a1b4", "a2b3", "a2b4"],
    "n[1-2][3-4]": ["n13", "n14", "n23", "n24"],
    "a[01-02]-[1-2]": ["a01-1", "a01-2", "a02-1", "a02-2"],
    "login,n[1-2],gpu-[09-10]": ["login", "n1", "n2", "gpu-09", "gpu-10"],
    "n[1-2]-x[3]": ["n1-x3", "n2-x3"],
    "node.cluster[1-2]": ["node.cluster1", "node.cluster2"],
    "n_1,N-2": ["n_1", "N-2"],
    "n[1234567890-1234567891]": ["n1234567890", "n1234567891"],
    "[1-3]": ["1", "2", "3"],
}

SUFFIXED = {
    "n[1-2]-ib": ["n1-ib", "n2-ib"],
    "r[1-2]n[1-2].example.org": ["r1n1.example.org", "r1n2.example.org", "r2n1.example.org", "r2n2.example.org"],
}
"""Slurm 22.05 refuses these; no scontrol prints them, people write them."""

FOLDED = {
    "": [],
    "n1": ["n1"],
    "n[1-3,7]": ["n1", "n2", "n3", "n7"],
    "n[08-10]": ["n08", "n09", "n10"],
    "n[09-10,99-100]": ["n09", "n10", "n99", "n100"],
    "n[098-100]": ["n098", "n099", "n100"],
    "n[98,099-100]": ["n98", "n099", "n100"],
    "n[9-11]": ["n9", "n10", "n11"],
    "n[8,08]": ["n8", "n08"],
    "n[00,1]": ["n00", "n1"],
    "n[3,2,1]": ["n3", "n2", "n1"],
    "n[1,1]": ["n1", "n1"],
    "n[1-2,2-3]": ["n1", "n2", "n2", "n3"],
    "n[5-6],x,n7": ["n5", "n6", "x", "n7"],
    "x,y": ["x", "y"],
    "x,x": ["x", "x"],
    "a1b[3-4],a2b[3-4]": ["a1b3", "a1b4", "a2b3", "a2b4"],
    "a1b[9-10]": ["a1b9", "a1b10"],
    "a9b1,a10b1": ["a9b1", "a10b1"],
    "a-[1-2],b": ["a-1", "a-2", "b"],
    "n1-ib,n2-ib": ["n1-ib", "n2-ib"],
    "[01-02]": ["01", "02"],
    "n[999999999-1000000000]": ["n999999999", "n1000000000"],
    "n[1234567890-1234567891]": ["n1234567890", "n1234567891"],
}

names = st.from_regex(r"[a-z]{1,3}(-[a-z]|[0-9]{1,4}[a-z])?", fullmatch=True)
numbers = st.from_regex(r"0{0,2}[0-9]{1,4}", fullmatch=True)
hosts = st.builds("{}{}".format, names, st.just("") | numbers)
runs = st.builds(
    lambda name, start, count, width: [f"{name}{number:0{width}}" for number in range(start, start + count)],
    names,
    st.sampled_from([0, 1, 8, 95, 998]),
    st.integers(1, 12),
    st.integers(1, 4),
)
host_lists = st.lists(runs | hosts.map(lambda host: [host]), min_size=1, max_size=6).map(
    lambda parts: [host for part in parts for host in part]
)

Scontrol = Callable[[str, str], str]


@pytest.fixture(scope="module")
def scontrol(tmp_path_factory: pytest.TempPathFactory) -> Scontrol:
    """``scontrol show hostnames|hostlist TEXT``; it reads a slurm.conf, but asks no slurmctld."""
    command = shutil.which("scontrol")
    if command is None:
        pytest.skip("scontrol is not installed")
    conf: Path = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=n1\n", encoding="utf-8")

    def show(what: str, text: str) -> str:
        done = subprocess.run(
            [command, "show", what, text],
            env={**os.environ, "SLURM_CONF": str(conf)},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert not done.stderr, done.stderr
        return done.stdout

    return show


@pytest.mark.parametrize("text", [*EXPANDED, *SUFFIXED])
def test_expand(text: str) -> None:
    assert nodelist.expand(text) == {**EXPANDED, **SUFFIXED}[text]


@pytest.mark.parametrize("text", EXPANDED)
def test_expand_is_scontrol_show_hostnames(text: str, scontrol: Scontrol) -> None:
    assert nodelist.expand(text) == scontrol("hostnames", text).split()


@pytest.mark.parametrize("text", FOLDED)
def test_fold(text: str) -> None:
    assert nodelist.fold(FOLDED[text]) == text


@pytest.mark.parametrize("text", [text for text in FOLDED if text])
def test_fold_is_scontrol_show_hostlist(text: str, scontrol: Scontrol) -> None:
    assert nodelist.fold(FOLDED[text]) == scontrol("hostlist", ",".join(FOLDED[text])).strip()


def test_random_lists_are_folded_and_expanded_as_scontrol_does(scontrol: Scontrol) -> None:
    @given(host_lists)
    def same(listed: list[str]) -> None:
        folded = scontrol("hostlist", ",".join(listed)).strip()
        assert nodelist.fold(listed) == folded
        assert nodelist.expand(folded) == scontrol("hostnames", folded).split() == listed

    same()


@given(host_lists)
@example(["n1", "n01", "n001", "n2"])
@example(["n1000000000", "n1000000001"])
@example(["n" + "9" * 18, "n1" + "0" * 18])
@example(["n" + "1" * 30, "n" + "1" * 29 + "2"])
def test_expanding_what_was_folded_gives_the_names_in_their_order(listed: list[str]) -> None:
    assert nodelist.expand(nodelist.fold(listed)) == listed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "n1,",
        ",n1",
        "n1,,n2",
        "n[1-2],",
        "n[1-2",
        "n1-2]",
        "n[[1-2]]",
        "n[]",
        "n[1,]",
        "n[,1]",
        "n[1-]",
        "n[-1]",
        "n[1-2-3]",
        "n[a-b]",
        "n[2-1]",
        "n[ 1]",
        "n[١]",
        "n 1",
        "n1\nn2",
        "n1\n",
        "n;1",
        "n/1",
        "$(id)",
        "knoten-ä1",
        "n[1\n]",
        "n[1234567890123456789]",
    ],
)
def test_a_bad_hostlist_is_one_line_that_shows_it(text: str) -> None:
    with pytest.raises(UserError) as caught:
        nodelist.expand(text)
    message = str(caught.value)
    assert repr(text) in message and len(message.splitlines()) == 1


@given(st.text("n1234567890[]-,. \n\x00é") | st.text())
def test_any_text_is_names_or_one_line_of_usererror(text: str) -> None:
    try:
        found = nodelist.expand(text)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 600
    else:
        assert found and all(found)


def test_as_many_names_as_slurm_has_nodes() -> None:
    assert len(nodelist.expand(f"n[1-{nodelist.LIMIT}]")) == nodelist.LIMIT
    assert len(nodelist.expand("n[0-255][0-255]")) == nodelist.LIMIT
    assert len(nodelist.expand("a,b,n[1-65534]")) == nodelist.LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "n[0-65536]",
        "n[1-65536],x",
        "x,n[1-65536]",
        "n[1-65536,1]",
        "n[0-255][0-256]",
        "n[0-999999999]",
        "n[1-60000][1-60000][1-60000]",
        "n" + "[0-9]" * 200,
        "n[" + ",".join(["1-65536"] * 2000) + "]",
    ],
)
def test_more_names_than_that_are_refused_without_making_them(text: str) -> None:
    with pytest.raises(UserError, match=r"more than 65536 names|too long"):
        nodelist.expand(text)


def test_16384_nodes_fold_into_one_word() -> None:
    listed = [f"n{number:05}" for number in range(16384)]
    assert nodelist.fold(listed) == "n[00000-16383]"
