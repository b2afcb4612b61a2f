# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import journal, names
from hpcnet.journal import Entry

ENTRY = Entry(
    cluster="lab",
    job_id=12,
    uid=1001,
    user="ada",
    boot_id="0c1d",
    token="hpcnet:lease::v=1",
    nodelist="n[1-3]",
    node="n2",
    uplink="ib0",
    uplink_mtu=65520,
    vni=6815744,
    underlays={"n1": "10.2.0.1", "n2": "10.2.0.2", "n3": "10.2.0.3"},
)


@pytest.fixture(scope="module", autouse=True)
def umask() -> Iterator[None]:
    """The hooks' own, under which modes are what they are written as."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state directory, prepared."""
    directory = tmp_path / "hpcnet"
    monkeypatch.setattr(names, "STATE_DIR", str(directory))
    journal.prepare()
    return directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(state: Path) -> set[str]:
    """Names of what job 12 has in its directory."""
    directory = state / "jobs/12"
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def test_what_was_begun_is_read_back(state: Path) -> None:
    journal.begin(ENTRY)
    assert journal.read(12) == ENTRY
    assert journal.steps(12) == []
    assert journal.jobs() == [12]


def test_steps_are_read_in_the_order_in_which_they_were_done(state: Path) -> None:
    journal.begin(ENTRY)
    for step in ("namespace", "filter", "devices"):
        journal.done(12, step)
    assert journal.steps(12) == ["namespace", "filter", "devices"]
    assert journal.read(12) == ENTRY


def test_beginning_again_forgets_the_steps(state: Path) -> None:
    journal.begin(ENTRY)
    journal.done(12, "namespace")
    again = replace(ENTRY, boot_id="ffff")
    journal.begin(again)
    assert (journal.read(12), journal.steps(12)) == (again, [])


def test_beginning_takes_an_earlier_refusal_away(state: Path) -> None:
    # The plugin looks for a refusal first: one left over would stop a job whose network is complete.
    journal.refuse(12, "pool is full")
    journal.begin(ENTRY)
    assert journal.refusal(12) == ""
    assert files(state) == {"journal"}


def test_addresses_and_peers_of_an_entry() -> None:
    assert ENTRY.addresses["n2"] == IPv4Address("10.2.0.2")
    assert ENTRY.vteps == [IPv4Address("10.2.0.1"), IPv4Address("10.2.0.3")]


def test_a_step_that_a_crash_left_half_written_is_ignored(state: Path) -> None:
    journal.begin(ENTRY)
    journal.done(12, "namespace")
    whole = (state / "jobs/12/journal").read_bytes()
    journal.done(12, "filter")
    last = (state / "jobs/12/journal").read_bytes()[len(whole) :]
    for length in range(len(last) - 1):
        (state / "jobs/12/journal").write_bytes(whole + last[:length])
        assert journal.steps(12) == ["namespace"]
        assert journal.read(12) == ENTRY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "{",
        "null\n",
        "[]\n",
        '"devices"\n',
        "{}\n",
        '{"cluster": "lab"}\n',
        "\x00" * 64,
        "[" * 100_000,
        *(json.dumps({**ENTRY.__dict__, key: None}) + "\n" for key in ENTRY.__dict__),
        *(json.dumps({**ENTRY.__dict__, key: [1]}) + "\n" for key in ENTRY.__dict__),
        json.dumps({**ENTRY.__dict__, "job_id": 13}) + "\n",
        json.dumps({**ENTRY.__dict__, "vni": True}) + "\n",
        json.dumps({**ENTRY.__dict__, "vni": -1}) + "\n",
        json.dumps({**ENTRY.__dict__, "vni": 1 << 24}) + "\n",
        json.dumps({**ENTRY.__dict__, "underlays": {"n1": 5}}) + "\n",
        json.dumps({**ENTRY.__dict__, "underlays": {"n1": "n1-ib"}}) + "\n",
    ],
)
def test_a_journal_that_cannot_be_read_is_none(state: Path, text: str) -> None:
    journal.begin(ENTRY)
    (state / "jobs/12/journal").write_text(text, encoding="utf-8")
    assert journal.read(12) is None


def test_a_journal_of_another_version_is_read(state: Path) -> None:
    journal.begin(ENTRY)
    newer = {**ENTRY.__dict__, "later": 1}
    (state / "jobs/12/journal").write_text(json.dumps(newer) + "\n", encoding="utf-8")
    assert journal.read(12) == ENTRY
    older = {key: value for key, value in newer.items() if not key.startswith("uplink_") or key == "uplink_mtu"}
    (state / "jobs/12/journal").write_text(json.dumps(older) + "\n", encoding="utf-8")
    assert journal.read(12) == ENTRY


def test_a_journal_that_is_not_text_is_none(state: Path) -> None:
    journal.begin(ENTRY)
    (state / "jobs/12/journal").write_bytes(b"\xff\xfe\x80")
    assert journal.read(12) is None


@given(length=st.integers(0, 10_000))
def test_a_cut_journal_is_whole_or_none(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "STATE_DIR", str(tmp_path_factory.getbasetemp() / "cut"))
        journal.prepare()
        journal.begin(ENTRY)
        path = Path(names.job_dir(12)) / "journal"
        path.write_bytes(path.read_bytes()[:length])
        assert journal.read(12) in (None, ENTRY)


def test_a_job_without_a_journal_has_none(state: Path) -> None:
    assert journal.read(12) is None
    assert journal.steps(12) == []
    assert journal.refusal(12) == ""
    assert not journal.published(12)


def test_a_step_of_a_journal_that_is_gone_is_an_error(state: Path) -> None:
    with pytest.raises(FileNotFoundError):
        journal.done(12, "namespace")
    assert journal.jobs() == []


def test_jobs_are_the_directories_with_a_number(state: Path) -> None:
    for name in ("3", "12", "x", "-1", "1.new", "²"):
        (state / "jobs" / name).mkdir()
    assert journal.jobs() == [3, 12]


def test_a_node_that_never_had_a_job_has_no_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path / "absent"))
    assert journal.jobs() == []


def test_publishing_makes_the_network_complete(state: Path) -> None:
    journal.begin(ENTRY)
    assert not journal.published(12)
    journal.publish(12, "10.128.0.1 n1\n", "uid=1001\n")
    assert journal.published(12)
    assert (state / "jobs/12/hosts").read_text(encoding="utf-8") == "10.128.0.1 n1\n"
    assert (state / "jobs/12/network").read_text(encoding="utf-8") == "uid=1001\n"
    assert files(state) == {"journal", "hosts", "network"}


def test_the_network_file_comes_after_the_hosts_file(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.begin(ENTRY)
    renamed: list[str] = []
    rename = os.rename

    def recorded(old: str, new: str) -> None:
        assert Path(old).stat().st_size > 0
        renamed.append(Path(new).name)
        rename(old, new)

    monkeypatch.setattr(os, "rename", recorded)
    journal.publish(12, "hosts\n", "network\n")
    assert renamed == ["hosts", "network"]


@pytest.mark.parametrize("fails", ["write", "fsync", "rename"])
def test_a_file_is_published_whole_or_not_at_all(state: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    journal.begin(ENTRY)
    journal.publish(12, "old\n", "old\n")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full)
        with pytest.raises(OSError, match="No space left"):
            journal.publish(12, "new\n", "new\n")
    assert (state / "jobs/12/network").read_text(encoding="utf-8") == "old\n"
    journal.publish(12, "new\n", "new\n")
    assert (state / "jobs/12/network").read_text(encoding="utf-8") == "new\n"
    assert files(state) == {"journal", "hosts", "network"}


def test_a_large_hosts_file_is_written_whole(state: Path) -> None:
    journal.begin(ENTRY)
    text = "".join(f"10.128.{i >> 8}.{i & 255} n{i}\n" for i in range(16384))
    journal.publish(12, text, "uid=1001\n")
    assert (state / "jobs/12/hosts").read_text(encoding="utf-8") == text


def test_withdrawing_twice_leaves_only_the_network_file_out(state: Path) -> None:
    journal.begin(ENTRY)
    journal.publish(12, "hosts\n", "network\n")
    journal.withdraw(12)
    journal.withdraw(12)
    assert not journal.published(12)
    assert files(state) == {"journal", "hosts"}


def test_a_refusal_is_one_line_that_is_read_back(state: Path) -> None:
    journal.refuse(12, "two\nlines\tof  reasons\n")
    assert journal.refusal(12) == "two lines of reasons"
    assert (state / "jobs/12/refused").read_text(encoding="utf-8") == "two lines of reasons\n"
    journal.refuse(12, "another")
    assert journal.refusal(12) == "another"


def test_a_refusal_needs_nothing_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path / "hpcnet"))
    journal.refuse(12, "why")
    assert journal.refusal(12) == "why"
    assert journal.jobs() == [12]


def test_erasing_twice_leaves_nothing(state: Path) -> None:
    journal.begin(ENTRY)
    journal.publish(12, "hosts\n", "network\n")
    journal.refuse(12, "why")
    for _ in range(2):
        journal.erase(12)
        assert journal.jobs() == []
    assert {path.name for path in state.iterdir()} == {"jobs", "lock"}


def test_anyone_may_read_what_a_task_needs_and_only_root_the_journal(state: Path) -> None:
    journal.begin(ENTRY)
    journal.publish(12, "hosts\n", "network\n")
    journal.refuse(12, "why")
    job = state / "jobs/12"
    assert [mode(job / name) for name in ("network", "hosts", "refused")] == [0o644] * 3
    assert [mode(job / "journal"), mode(state / "lock")] == [0o600] * 2
    assert [mode(path) for path in (state, state / "jobs", job)] == [0o755] * 3


def test_a_link_in_the_place_of_a_file_is_not_followed(state: Path, tmp_path: Path) -> None:
    journal.begin(ENTRY)
    target = tmp_path / "target"
    target.write_text("mine\n", encoding="utf-8")
    (state / "jobs/12/network.new").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        journal.publish(12, "hosts\n", "network\n")
    assert target.read_text(encoding="utf-8") == "mine\n"


def test_preparing_twice_keeps_what_is_there(state: Path) -> None:
    journal.begin(ENTRY)
    journal.prepare()
    assert journal.read(12) == ENTRY


# The lock, as other processes see it.

PROBE = """
import fcntl, os, sys
file = os.open(sys.argv[1] + "/lock", os.O_RDWR)
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
except BlockingIOError:
    sys.exit(3)
"""

COUNT = """
import sys
from pathlib import Path
from hpcnet import journal, names
names.STATE_DIR = sys.argv[1]
counter = Path(sys.argv[1]) / "counter"
for _ in range(200):
    with journal.locked(12):
        number = int(counter.read_text())
        counter.write_text(str(number + 1))
"""


def run(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)])


def is_locked(state: Path, job_id: int) -> bool:
    """Whether another process would have to wait."""
    code = run(PROBE, state, job_id).wait(timeout=60)
    assert code in (0, 3)
    return code == 3


def test_a_lock_is_of_one_job_and_ends_with_its_block(state: Path) -> None:
    with journal.locked(12):
        assert is_locked(state, 12)
        assert not is_locked(state, 11)
        assert not is_locked(state, 13)
    assert not is_locked(state, 12)


def test_a_lock_ends_when_its_block_fails(state: Path) -> None:
    with pytest.raises(RuntimeError), journal.locked(12):
        raise RuntimeError
    assert not is_locked(state, 12)


def test_a_lock_outlasts_a_refusal_and_another_jobs_lock_within_its_block(state: Path) -> None:
    with journal.locked(12):
        journal.refuse(12, "why")
        assert is_locked(state, 12)
        with journal.locked(13):
            assert is_locked(state, 13)
        assert is_locked(state, 12)


def test_the_largest_job_id_can_be_locked(state: Path) -> None:
    with journal.locked(2**32 - 1):
        assert is_locked(state, 2**32 - 1)
        assert not is_locked(state, 1)


def test_a_lock_makes_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "STATE_DIR", str(tmp_path / "hpcnet"))
    with journal.locked(12):
        assert is_locked(tmp_path / "hpcnet", 12)


def test_two_processes_take_turns(state: Path) -> None:
    (state / "counter").write_text("0", encoding="utf-8")
    processes = [run(COUNT, state) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert (state / "counter").read_text(encoding="utf-8") == "600"
