# SPDX-License-Identifier: Apache-2.0
"""Who pays when something is wrong: each error that a hook can meet, its exit code, and the one line it leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from hpcnet import record
from hpcnet.cli import hooks as hooks_module
from hpcnet.model import Request
from hpcnet.record import Record
from tests.kernel.hosts import Host, ended, job_environment, lease_of, require_root

require_root()
pytestmark = pytest.mark.kernel

LEASE = lease_of()
LEASED = job_environment(LEASE, "n[1-2]")
ASKED = job_environment(None, "n[1-2]")
DOCKER = job_environment(lease_of(docker=True, endpoints=8), "n[1-2]")
UNREADABLE = {**LEASED, "SLURM_JOB_COMMENT": "hpcnet:lease::v=1,serial=\x1b[31m100"}
TOO_MUCH = {**ASKED, "SLURM_JOB_COMMENT": record.token(Record("asked", Request(docker=True)))}
REFUSED = {**ASKED, "SLURM_JOB_COMMENT": record.token(Record("refused", Request(), reason="the pool is full"))}
BROKEN = "fabric = ["
POOL = '[pool]\nstore = "/run/slurm/store"\n'
ONE = POOL + "vni = [6815744, 6815744]\nwait = 0\n"
TAKEN = (
    "mkdir -p /run/hpcnet/jobs; ip netns add hpcnet-17; ip -n hpcnet-17 link add veth7 type veth peer name veth8"
)
HELD = "from hpcnet import journal\nwith journal.locked(17): print('held', flush=True); sys.stdin.read()"


@dataclass(frozen=True)
class Row:
    """What is wrong on n1, whose fault it is, and what the hook makes of it."""

    hook: str
    code: int
    words: str
    environment: dict[str, str] = field(default_factory=lambda: LEASED)
    toml: str = ""
    deadline: int = 30
    before: str = ""
    after: str = ""
    locked: bool = False
    serial: str = "100"
    first: tuple[str, ...] = ()
    """Hooks that run before, of job 16 in PrologSlurmctld's case, else of the job itself."""


ROWS = {
    # USER: the job is refused, no node drains
    "user: an option that is not offered": Row(
        "prolog-slurmctld", 0, "refused: --network=ib: docker=yes is not offered", TOO_MUCH, POOL, serial="none"
    ),
    "user: refused by the controller": Row("prolog", 0, "refused: the pool is full", REFUSED, serial="none"),
    # NODE: it drains, and nothing of the job is left
    "node: uplink down": Row(
        "prolog",
        1,
        "uplink ib7 is down on n1",
        toml='[fabric]\nuplink = "ib7"\n',
        before="ip link add ib7 type veth peer name ib8",
        after="ip link del ib7",
    ),
    "node: uplink gone": Row("prolog", 1, "uplink ib7 does not exist on n1", toml='[fabric]\nuplink = "ib7"\n'),
    "node: somebody's namespace": Row(
        "prolog", 1, "namespace hpcnet-17 on n1 holds", before=TAKEN, after="ip netns del hpcnet-17"
    ),
    "node: VNI in use": Row(
        "prolog",
        1,
        "VNI 6815744 is in use on n1",
        before="ip link add theirs type vxlan id 6815744 dev ib0 dstport 4789",
        after="ip link del theirs",
    ),
    "node: docker is dead": Row("prolog", 1, "hpcnet agent does not serve", DOCKER),
    "node: no space for the journal": Row(
        "prolog",
        1,
        "No space left on device while building the network on n1",
        before="mkdir -p /run/hpcnet/jobs; mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs /run/hpcnet/jobs",
        after="umount /run/hpcnet/jobs",
    ),
    "node: too slow": Row("prolog", 1, "not finished after 1 seconds ([hooks] deadline)", deadline=1, locked=True),
    # SITE: the job is refused, no node drains
    "site: broken toml": Row("prolog", 0, "refused: /etc/hpcnet/hpcnet.toml", toml=BROKEN),
    "site: broken toml on the controller": Row(
        "prolog-slurmctld", 0, "refused: /etc/hpcnet/hpcnet.toml", ASKED, BROKEN, serial="none"
    ),
    "site: no lease": Row("prolog", 0, "refused: the controller gave it no lease", ASKED, serial="none"),
    "site: unreadable lease": Row("prolog", 0, "refused: the job record's token", UNREADABLE, serial="none"),
    "site: a node without an address": Row(
        "prolog", 0, "refused: node n9 has no address on the fabric", job_environment(LEASE, "n[1,9]")
    ),
    "site: pool full": Row(
        "prolog-slurmctld",
        0,
        "refused: all 1 networks of the pool are held",
        ASKED,
        ONE,
        serial="none",
        first=("prolog-slurmctld",),
    ),
    "site: no store": Row(
        "prolog-slurmctld", 0, "refused: lease store /no", ASKED, '[pool]\nstore = "/no/where"\n', serial="none"
    ),
    "site: no slurmctld": Row(
        "prolog-slurmctld",
        0,
        "its record does not say so: scontrol: Invalid user id",
        TOO_MUCH,
        POOL,
        before="touch /run/slurm/broken",
        serial="none",
    ),
    "site: the controller's toml at the end": Row("epilog-slurmctld", 0, "/etc/hpcnet/hpcnet.toml", toml=BROKEN),
    # Epilog: 1 only when the job's network could still carry traffic
    "epilog: cannot get at the network": Row(
        "epilog",
        1,
        "its network may still carry traffic: not finished after 1 seconds",
        deadline=1,
        locked=True,
        first=("prolog",),
    ),
    "epilog: broken toml": Row("epilog", 0, "removed", toml=BROKEN, first=("prolog",)),
    "epilog: somebody's namespace": Row(
        "epilog", 0, "which hpcnet did not make; it stays", before=TAKEN, after="ip netns del hpcnet-17"
    ),
    "epilog: entries that stay": Row(
        "epilog",
        0,
        "are still let in, to no device: ",
        before="mount --bind /bin/false /usr/sbin/nft",
        after="umount /usr/sbin/nft; nft flush set inet hpcnet vtep; nft delete table inet hpcnet_egress || true",
        first=("prolog",),
    ),
    "epilog: nothing is there": Row("epilog", 0, "removed"),
    # nothing is wrong
    "built": Row("prolog", 0, "built"),
    "removed": Row("epilog", 0, "removed; serial", first=("prolog",)),
    "leased": Row("prolog-slurmctld", 0, "leased VNI 6815744", ASKED, POOL, serial=r"\d+"),
    "kept": Row("prolog-slurmctld", 0, "keeps VNI", ASKED, ONE, serial=r"\d+"),
    "ended": Row("epilog-slurmctld", 0, "lease is not held any more", toml=POOL),
}

_SCONTROL = """#!/bin/sh
[ ! -e /run/slurm/broken ] || { echo 'Invalid user id' >&2; exit 1; }
"""
_SQUEUE = """#!/bin/sh
case "$*" in *--json*) echo '{"jobs": []}';; *) echo 16 RUNNING n1;; esac
"""


@pytest.fixture
def node(hosts: list[Host]) -> Iterator[Host]:
    """n1, where scontrol and squeue answer as slurmctld would: the only false thing here."""
    host = hosts[0]
    host.run("mkdir", "-p", "/run/slurm")
    for name, text in (("scontrol", _SCONTROL), ("squeue", _SQUEUE)):
        host.write(f"/run/slurm/{name}", text)
        host.run("sh", "-c", f"chmod +x /run/slurm/{name}; mount --bind /run/slurm/{name} /usr/bin/{name}")
    yield host
    host.run("sh", "-c", "umount /usr/bin/scontrol /usr/bin/squeue; rm -rf /run/slurm")


def fails_as(row: Row, node: Host) -> list[str]:
    """Provoke it, run the hook; returns what it said on stderr."""
    node.run("rm", "-f", "/run/hpcnet.log")
    holder = node.start_python(HELD) if row.locked else None
    if holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
    before = node.state()
    result = node.hook(row.hook, row.environment)
    after = node.state()
    if holder:
        assert ended(holder) == (0, "")
    assert result.returncode == row.code, result.stderr
    assert result.stdout == ""
    if row.code == 1:
        assert after == before, "a node that drains has nothing of the job"
    elif row.words.startswith("refused") and row.hook == "prolog":
        assert set(after["files"].split()) - set(before["files"].split()) >= {"/run/hpcnet/jobs/17/refused"}
    return of_the_job(result.stderr)


def of_the_job(text: str) -> list[str]:
    """The lines but those about the store, which whoever finds none says."""
    return [line for line in text.splitlines() if "made anew; leases restored" not in line]


@pytest.mark.parametrize("what", ROWS)
def test_exit_codes_follow_blame_and_each_hook_leaves_one_line(node: Host, what: str) -> None:
    row = ROWS[what]
    for hook in row.first:
        node.configure(row.toml if row.hook == "prolog-slurmctld" else "")
        job = {"SLURM_JOB_ID": "16"} if row.hook == "prolog-slurmctld" else {}
        assert node.hook(hook, {**row.environment, **job}).returncode == 0
    node.run("sh", "-ec", row.before or "true")
    node.configure(row.toml, row.deadline)
    try:
        if what == "kept":
            fails_as(ROWS["leased"], node)
        said = fails_as(row, node)
        if BROKEN not in row.toml:  # else nobody can say which file it is
            logged = of_the_job(node.run("cat", "/run/hpcnet.log").stdout)
            told = [line.partition(" ")[2] for line in logged]
            assert [line for line in told if ": account {" not in line] == said
    finally:
        node.run("sh", "-ec", row.after or "true")
    [line] = said
    tail = rf"; serial {row.serial}, done in \d+ ms, exit {row.code}"
    assert re.fullmatch(rf"hpcnet {row.hook}: job 17: .+{tail}", line), line
    assert row.words in line
    assert line.isprintable()


def test_every_kind_of_error_and_every_hook_has_a_row() -> None:
    assert {row.hook for row in ROWS.values()} == set(hooks_module._HOOKS)
    assert {what.split(":")[0] for what in ROWS} >= {"user", "node", "site", "epilog"}


@pytest.mark.parametrize("hook", ["prolog", "prolog-slurmctld"])
def test_a_log_that_hangs_costs_seconds_and_nothing_else(node: Host, hook: str) -> None:
    node.configure(POOL)
    node.run("sh", "-c", "rm -f /run/hpcnet.log; mkfifo /run/hpcnet.log")
    try:
        result = node.hook(hook, LEASED)
    finally:
        node.run("rm", "/run/hpcnet.log")
    assert result.returncode == 0, result.stderr
    assert len(of_the_job(result.stderr)) == 1
