# SPDX-License-Identifier: Apache-2.0
"""``[hooks] deadline``: a hook that hangs ends by itself, with nothing left half built."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Host, SlowNft, built, ended, job_environment, lease_of, require_root

require_root()
pytestmark = pytest.mark.kernel

ENVIRONMENT = job_environment(lease_of(), "n[1-2]")
LATE = "not finished after 1 seconds ([hooks] deadline)"
HOLD = "from hpcnet import journal\nwith journal.locked(17): print('held', flush=True); sys.stdin.read()"


def failed(host: Host, hook: str) -> str:
    """The messages of a hook that exits 1."""
    result = host.hook(hook, ENVIRONMENT)
    assert result.returncode == 1, result.stderr
    return result.stderr


@pytest.fixture
def locked(hosts: list[Host]) -> Iterator[Host]:
    """n1, where somebody holds the job's lock."""
    holder = hosts[0].start_python(HOLD)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    yield hosts[0]
    assert ended(holder) == (0, "")


MESSAGES = {"prolog": f"job 17: {LATE}", "epilog": f"job 17: its network may still carry traffic: {LATE}"}


@pytest.mark.parametrize("hook", MESSAGES)
def test_a_hook_waits_for_its_jobs_lock_no_longer_than_the_deadline(locked: Host, hook: str) -> None:
    locked.configure(deadline=1)
    before = locked.state()
    assert MESSAGES[hook] in failed(locked, hook)
    assert locked.state() == before


def test_a_peers_file_that_hangs_ends_at_the_deadline(hosts: list[Host]) -> None:
    hosts[0].run("mkfifo", "/run/peers.fifo")
    hosts[0].configure('[fabric]\npeers_file = "/run/peers.fifo"', deadline=1)
    before = hosts[0].state()
    assert LATE in failed(hosts[0], "prolog")
    assert hosts[0].state() == before


HANGS = "/etc/hpcnet/hpcnet.toml: not read after 10 seconds; does it hang?"


def test_an_hpcnet_toml_that_hangs_is_the_nodes_fault_and_keeps_no_network(hosts: list[Host]) -> None:
    """Slurm itself would wait for ever, where PrologEpilogTimeout is not set."""
    host = hosts[0]
    before = host.state()
    built([host], ENVIRONMENT)
    host.run("sh", "-c", "rm /etc/hpcnet/hpcnet.toml; mkfifo /etc/hpcnet/hpcnet.toml")
    other = {**ENVIRONMENT, "SLURM_JOB_ID": "18"}
    try:
        hooks = [("epilog", ENVIRONMENT), ("prolog", other), ("prolog-slurmctld", other)]
        removed, failed, refused = map(ended, [host.start_hook(*hook) for hook in hooks])
        assert host.state() == before
    finally:
        host.run("rm", "-f", "/etc/hpcnet/hpcnet.toml")
    assert (removed[0], failed[0], refused[0]) == (0, 1, 0)
    assert f"job 17: removed; {HANGS}; " in removed[1]
    assert f"job 18: {HANGS}; " in failed[1]
    assert f"job 18: refused: {HANGS}; " in refused[1]


def test_a_prolog_that_is_late_takes_back_what_it_built(hosts: list[Host], slow_nft: SlowNft) -> None:
    hosts[0].configure(deadline=1)
    before = hosts[0].state()
    slow_nft.hold()
    prolog = hosts[0].start_hook("prolog", ENVIRONMENT)
    slow_nft.wait_until_called()
    assert "hpcnet-17" in hosts[0].state()["namespaces"]
    code, errors = ended(prolog)
    assert code == 1
    assert LATE in errors
    assert hosts[0].state() == before


def test_a_roll_back_is_not_broken_off_by_the_deadline(hosts: list[Host]) -> None:
    """An error with a second left, and the kernel takes three to give the namespace back."""
    hosts[0].configure(deadline=2)
    before = hosts[0].state()
    injected = ("fsync:error=EIO:when=5", "umount2:delay_enter=3000000:when=2")
    options = [word for each in injected for word in ("-e", f"inject={each}")]
    strace = ("/usr/bin/strace", "-o", "/run/strace", "-e", "trace=fsync,umount2", *options)
    done = hosts[0].hook("prolog", ENVIRONMENT, under=strace)
    assert "(DELAYED)" in hosts[0].run("cat", "/run/strace").stdout
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert hosts[0].state() == before


def test_an_epilog_whose_filter_hangs_has_taken_the_devices_away(hosts: list[Host], slow_nft: SlowNft) -> None:
    built(hosts[:1], ENVIRONMENT)
    slow_nft.hold()
    hosts[0].configure(deadline=1)
    result = hosts[0].hook("epilog", ENVIRONMENT)
    assert result.returncode == 0
    assert f"packets of VNI {lease_of().vni} are still let in, to no device: {LATE}" in result.stderr
    assert "hpcnet-17" not in hosts[0].state()["namespaces"]
    hosts[0].run("nft", "flush", "set", "inet", "hpcnet", "vtep")
