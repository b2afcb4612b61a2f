# SPDX-License-Identifier: Apache-2.0
"""slurm.conf as slurmctld has it in force, the programs that it names, job_submit.lua, and the clocks."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcnet.config import Site
from hpcnet.doctor.model import CONTROLLER, NODE, Finding, Host, fail, ok, warn
from hpcnet.slurm.configuration import Configuration, release_of

NODE_HOOKS = ("Prolog", "Epilog")
CONTROLLER_HOOKS = ("PrologSlurmctld", "EpilogSlurmctld")

_ROLLBACK = 15  # seconds that a hook takes after its deadline, a Prolog twice that (cli/hooks.py)
_CLOCKS_APART, _CLOCKS_FAR_APART = 2.0, 60.0
_LARGEST_SCRIPT = 1 << 20


def check_answer(host: Host) -> Iterable[Finding]:
    """Whether slurmctld answers. A node is not to blame when it does not."""
    if host.slurm is None:
        what = f"slurmctld does not answer: {host.silence}"
        remedy = "start slurmctld, or see the network to it; what needs it is left out here"
        return [fail(what, remedy) if NODE not in host.roles else warn(what, remedy)]
    version = host.slurm.get("SLURM_VERSION")
    return [ok(f"slurmctld {version} of cluster {host.slurm.get('ClusterName')} answers"), *_same_file(host.slurm)]


def _same_file(slurm: Configuration) -> Iterator[Finding]:
    if slurm.get("HASH_VAL") not in ("Match", ""):
        what = "slurm.conf on this host is another one than slurmctld's"
        yield warn(what, "copy it from the controller, then scontrol reconfigure")


# slurm.conf.


def check_settings(host: Host) -> Iterable[Finding]:
    """The settings that hpcnet needs, as slurmctld has them."""
    assert host.slurm is not None
    return judge_settings(host.slurm, host.site)


def judge_settings(slurm: Configuration, site: Site) -> list[Finding]:
    """One finding for each setting that is wrong, or one ok."""
    found = [*_hooks_named(slurm), *_flags(slurm), *_submission(slurm, site), *_licence(slurm, site)]
    found += [*_timeout(slurm, site), *_record(slurm, site)]
    return found or [
        ok("hooks, PrologFlags, PrologEpilogTimeout, JobSubmitPlugins and licences are as hpcnet needs them")
    ]


def _hooks_named(slurm: Configuration) -> Iterator[Finding]:
    for key in (*NODE_HOOKS, *CONTROLLER_HOOKS):
        if not slurm.programs(key):
            yield fail(f"{key} is not set", f"slurm.conf: {key}=/opt/hpcnet/libexec/hpcnet/{_file(key)}")


def _file(key: str) -> str:
    return key.lower().replace("slurmctld", "_slurmctld")


def _flags(slurm: Configuration) -> Iterator[Finding]:
    flags, remedy = slurm.words("PrologFlags"), "slurm.conf: PrologFlags=Alloc,DeferBatch,Contain"
    if not {"Alloc", "Contain"} & set(flags):
        yield fail("PrologFlags has no Alloc: a network is not built when its job starts", remedy)
    elif "DeferBatch" not in flags:
        yield fail("PrologFlags has no DeferBatch: batch scripts do not wait for all nodes' networks", remedy)
    elif "Contain" not in flags:
        yield warn("PrologFlags has no Contain: there are no extern steps", remedy)


def _submission(slurm: Configuration, site: Site) -> Iterator[Finding]:
    if "lua" not in slurm.words("JobSubmitPlugins"):
        what = "JobSubmitPlugins has no lua: nobody gets a network, and users can write leases themselves"
        yield fail(what, "slurm.conf: JobSubmitPlugins=lua; job_submit.lua beside it; restart slurmctld")


def _licence(slurm: Configuration, site: Site) -> Iterator[Finding]:
    """A licence that hpcnet.toml names and Slurm does not know would make every such job invalid."""
    wanted, size = site.submit.licence, _pool_size(site)
    if not wanted or "@" in wanted:  # slurmdbd's
        return
    numbers = {name: count for name, _, count in (word.partition(":") for word in slurm.words("Licenses"))}
    if wanted not in numbers:
        what = f"[submit] licence is {wanted}, and slurm.conf has no such licence"
        yield fail(what, f"slurm.conf: Licenses={wanted}:{size}, or take the key out of hpcnet.toml")
    elif size and numbers[wanted].isdecimal() and int(numbers[wanted]) > size:
        what = f"there are {numbers[wanted]} licences {wanted}, and the pool has {size} networks"
        yield warn(what, f"slurm.conf: Licenses={wanted}:{size}; jobs beyond that are refused instead of waiting")


def _pool_size(site: Site) -> int:
    """How many networks there can be at once; 0: the VNIs do not decide it."""
    return site.pool.vni[1] - site.pool.vni[0] + 1 if site.offer.modes == ("vxlan",) else 0


def _timeout(slurm: Configuration, site: Site) -> Iterator[Finding]:
    """Later releases have a limit for each kind of hook beside the one for both."""
    needed = site.hooks.deadline + max(site.pool.wait, _ROLLBACK) + _ROLLBACK
    for key in ("PrologEpilogTimeout", "PrologTimeout", "EpilogTimeout"):
        limit = slurm.seconds(key)
        if limit is not None and limit <= needed:
            what = f"{key} is {limit} s; hpcnet's hooks may take {needed} s, and would be killed half-way"
            remedy = f"slurm.conf: {key}={needed + 10} or more; or lower [hooks] deadline, [pool] wait"
            yield fail(what, remedy)


def _record(slurm: Configuration, site: Site) -> Iterator[Finding]:
    if site.submit.record != "extra":
        return
    if release_of(slurm.get("SLURM_VERSION")) < (23, 2):
        yield fail('[submit] record is "extra", which Slurm has from 23.02', 'hpcnet.toml: record = "auto"')
    elif "extra_constraints" in slurm.get("SchedulerParameters"):
        what = '[submit] record is "extra", and SchedulerParameters has extra_constraints, which would parse it'
        yield fail(what, 'hpcnet.toml: record = "auto"')


# The programs that slurm.conf names, where they run.


def check_programs(host: Host) -> Iterable[Finding]:
    """The hooks of this host's roles, and job_submit.lua on a controller."""
    assert host.slurm is not None
    keys = [*(NODE_HOOKS if NODE in host.roles else ()), *(CONTROLLER_HOOKS if CONTROLLER in host.roles else ())]
    found = [finding for key in keys for finding in judge_programs(key, programs(host.slurm, key))]
    if CONTROLLER in host.roles:
        found += judge_script(read_script(host.slurm))
    return found or [ok(f"{', '.join(keys)}{' and job_submit.lua' * (CONTROLLER in host.roles)} call hpcnet")]


def programs(slurm: Configuration, key: str) -> dict[str, str | None]:
    """By path: the text of each program of a hook; None: it cannot be run here.

    Raises PermissionError.
    """
    return {path: _text(path) if _runs(path) else None for path in files(slurm, key)}


def files(slurm: Configuration, key: str) -> list[str]:
    """Paths of the programs of a hook, patterns expanded."""
    found = (sorted(glob.glob(pattern)) or [pattern] for pattern in slurm.programs(key))
    return [path for paths in found for path in paths]


def _runs(path: str) -> bool:
    """Raises PermissionError for who may not even look."""
    try:
        return bool(os.stat(path).st_mode & 0o111)
    except FileNotFoundError:
        return False


def judge_programs(key: str, found: Mapping[str, str | None]) -> Iterator[Finding]:
    """Each is there, and one of them is hpcnet's, or names it."""
    for path, text in found.items():
        if text is None:
            yield fail(f"{key}={path} cannot be run on this host", "install it here at that path, executable")
    if found and not any("hpcnet" in (text or "hpcnet") for text in found.values()):
        what = f"{key}={', '.join(found)} says nothing of hpcnet"
        yield warn(
            what, f"call /opt/hpcnet/libexec/hpcnet/{_file(key)} in it first, unless something else there does"
        )


@dataclass(frozen=True)
class Script:
    """The controller's job_submit.lua, which Slurm looks for beside slurm.conf."""

    path: str
    text: str | None
    """None: it cannot be read."""
    read: float = 0.0
    """When slurmctld can have read it last: its own start, or the script's last change."""
    installed: str = ""
    """The text of hpcnet's own script here; empty: there is none."""
    upgraded: float = 0.0
    """When hpcnet's own was installed."""


def read_script(slurm: Configuration) -> Script:
    """From this host's files."""
    directory = os.path.dirname(os.environ.get("SLURM_CONF") or slurm.get("SLURM_CONF"))
    path, ours = os.path.join(directory, "job_submit.lua"), os.path.join(sys.prefix, "share/hpcnet/job_submit.lua")
    started = int(slurm.get("BOOT_TIME") or 0)
    return Script(path, _text(path), max(_changed(path), started), _text(ours) or "", _changed(ours))


def _changed(path: str) -> float:
    with contextlib.suppress(OSError):
        return os.stat(path).st_mtime
    return 0.0


def judge_script(script: Script) -> Iterator[Finding]:
    """hpcnet's own script, or one that calls both of its functions, and as new as the rest."""
    path, text = script.path, script.text
    if text is None:
        yield fail(f"{path} cannot be read", "install it (docs/install.md); without it users can write leases")
    elif "hpcnet" not in text:
        remedy = (
            "call hpcnet.job_submit and hpcnet.job_modify in it (docs/install.md); without, users write leases"
        )
        yield fail(f"{path} says nothing of hpcnet", remedy)
    elif "dofile" in text and "function slurm_job_modify" in text and "hpcnet.job_modify" not in text:
        remedy = "call hpcnet.job_modify in slurm_job_modify: without, users write leases by scontrol update"
        yield fail(f"{path} has a slurm_job_modify of its own, which does not call hpcnet's", remedy)
    elif "local M = " in text and script.installed and text != script.installed:
        yield warn(f"{path} is hpcnet's of another version", f"cp {sys.prefix}/share/hpcnet/job_submit.lua {path}")
    elif script.upgraded > script.read:
        yield warn(f"slurmctld has read {path} before hpcnet was upgraded", f"touch {path}")


def _text(path: str) -> str | None:
    """As much as says what it is; None: there is none. Raises PermissionError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST_SCRIPT).decode("utf-8", "replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


# The clocks.


def check_clock(host: Host) -> Iterable[Finding]:
    """This host's clock against slurmctld's, by the time of its answer."""
    assert host.slurm is not None
    return [judge_clock(host.slurm)]


def judge_clock(slurm: Configuration) -> Finding:
    """slurmctld tells whole seconds, and its time lay between question and answer."""
    behind = slurm.clock - slurm.answered  # this host's clock is behind by at least that
    ahead = slurm.asked - (slurm.clock + 1)
    apart = max(behind, ahead, 0.0)
    text = (
        f"this host's clock is {'behind' if behind > ahead else 'ahead of'} slurmctld's by {apart:.0f} s or more"
    )
    remedy = (
        "run chrony or another NTP client on both; leases in quarantine end by boot times, munge fails at 300 s"
    )
    if apart > _CLOCKS_FAR_APART:
        return fail(text, remedy)
    return warn(text, remedy) if apart > _CLOCKS_APART else ok("as slurmctld's, to a second or two")
