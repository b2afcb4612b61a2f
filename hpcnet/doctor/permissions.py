# SPDX-License-Identifier: Apache-2.0
"""Who may change what root and SlurmUser run, read and believe: the files, and every directory above them."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcnet import names
from hpcnet.doctor.model import LOGIN, NODE, Finding, Host, fail, ok, warn
from hpcnet.doctor.plugin import NAME
from hpcnet.doctor.slurm import CONTROLLER_HOOKS, NODE_HOOKS, files

_LISTED = 4
"""Findings that are printed, of as many as there may be."""


@dataclass(frozen=True)
class Entry:
    """A file or directory, its owner and mode as stat(2) tells them."""

    path: str
    uid: int
    mode: int
    gid: int = 0


def check_programs(host: Host) -> Iterable[Finding]:
    """hpcnet's program, its configuration, and the hooks of this host."""
    paths = [*_installation(), host.config_file, f"{sys.prefix}/lib/hpcnet/{NAME}"]
    paths += glob.glob(f"{sys.prefix}/libexec/hpcnet/*")
    if host.slurm and host.roles - {LOGIN}:
        for key in (*NODE_HOOKS, *CONTROLLER_HOOKS):
            paths += files(host.slurm, key)
    found = list(entries(paths))
    return judge(found) or [ok(f"{len(found)} files and directories that root alone can change")]


def check_state(host: Host) -> Iterable[Finding]:
    """hpcnet's state on this host, and the token of its metrics."""
    found = list(entries([names.STATE_DIR, f"{names.STATE_DIR}/jobs", f"{names.STATE_DIR}/lock", names.NETNS_DIR]))
    wrong = judge(found)
    if host.site.agent.metrics and NODE in host.roles:
        wrong += judge_secret(host.site.agent.token_file, list(entries([host.site.agent.token_file])))
    return wrong or [ok(f"{names.STATE_DIR} is root's alone to change")]


def check_log(host: Host) -> Iterable[Finding]:
    """Whether the controller's hooks, which run as SlurmUser, can write [hooks] log."""
    path = host.site.hooks.log
    user, uid = host.slurm.user if host.slurm else ("SlurmUser", None)
    if path == "syslog" or not uid:
        return [ok(path)]
    found = {entry.path: entry for entry in entries([path])}
    own = found.get(os.path.realpath(path)) or found.get(os.path.dirname(os.path.realpath(path)))
    return [judge_log(path, own, user, uid)]


def judge_log(path: str, entry: Entry | None, user: str, uid: int) -> Finding:
    """``entry``: the file, or else its directory."""
    if entry is None or not (entry.mode & stat.S_IWOTH or (entry.uid == uid and entry.mode & stat.S_IWUSR)):
        remedy = f"touch {path}; chown {user} {path}, unless a group of {user}'s may write it"
        return warn(
            f"[hooks] log = {path} is not SlurmUser {user}'s to write: the controller's hooks log nothing", remedy
        )
    return ok(f"{path}, of SlurmUser {user}")


def check_store(host: Host) -> Iterable[Finding]:
    """The lease store, which is SlurmUser's."""
    path = host.site.pool.store
    user, uid = host.slurm.user if host.slurm else ("SlurmUser", None)
    found = {entry.path: entry for entry in entries([path])}
    directory = found.get(os.path.dirname(os.path.realpath(path)))
    if directory is None:
        what = f"the directory of [pool] store = {path} is not there: no job gets a lease"
        return [fail(what, f"install -d -o {user} -m 0700 {os.path.dirname(path)}, or correct [pool] store")]
    return judge_store(path, directory, found.get(os.path.realpath(path)), list(found.values()), user, uid)


def judge_store(
    path: str, directory: Entry, file: Entry | None, chain: list[Entry], user: str, uid: int | None
) -> list[Finding]:
    """``uid``: SlurmUser's, None: Slurm does not tell it; ``chain``: the store and all directories above."""
    owners = (0,) if uid is None else (0, uid)
    found = judge(chain, owners)
    if uid is not None and directory.uid != uid:
        what = f"{directory.path}, where [pool] store is, belongs to uid {directory.uid}, not to SlurmUser {user}"
        found.append(fail(what, f"chown {user} {directory.path}: PrologSlurmctld cannot write leases"))
    if file and uid is not None and file.uid != uid:
        what = f"{file.path} belongs to uid {file.uid}, not to SlurmUser {user}: no job gets a lease"
        found.append(fail(what, f"chown {user} {file.path}"))
    if file and file.mode & 0o077:
        what = f"{file.path} has mode {stat.S_IMODE(file.mode):04o}: others can read who has which network"
        found.append(fail(what, f"chmod 0600 {file.path}"))
    return found or [ok(f"{path}{'' if file else ' (made with the first job)'}, of SlurmUser {user}")]


def judge(found: Iterable[Entry], owners: tuple[int, ...] = (0,)) -> list[Finding]:
    """One finding for each entry that somebody else than ``owners`` can change; at most four and how many more."""
    wrong = []
    for entry in found:
        if entry.uid not in owners:
            who = "root" if owners == (0,) else "root or SlurmUser"
            wrong.append(
                fail(f"{entry.path} belongs to uid {entry.uid}, not to {who}", f"chown root {entry.path}")
            )
        elif _others_write(entry):
            what = f"{entry.path} has mode {stat.S_IMODE(entry.mode):04o}: others than its owner can change it"
            wrong.append(fail(what, f"chmod go-w {entry.path}"))
    if len(wrong) > _LISTED:
        more = f"{len(wrong) - _LISTED} more like these, below {os.path.commonpath([e.path for e in found])}"
        wrong[_LISTED:] = [fail(more, "install hpcnet anew, as root, with umask 022")]
    return wrong


def _others_write(entry: Entry) -> bool:
    """A directory with the sticky bit lets nobody replace what is root's in it."""
    if stat.S_ISDIR(entry.mode) and entry.mode & stat.S_ISVTX:
        return False
    return bool(entry.mode & stat.S_IWOTH or (entry.mode & stat.S_IWGRP and entry.gid != 0))


def judge_secret(path: str, chain: list[Entry]) -> list[Finding]:
    """A file that root alone may read."""
    own = [entry for entry in chain if entry.path == os.path.realpath(path)]
    if not own:
        what = f"[agent] token_file {path} is not there: hpcnet agent does not start"
        return [fail(what, f"(umask 077; openssl rand -hex 32 >{path})")]
    if own[0].mode & 0o077:
        what = f"{path} has mode {stat.S_IMODE(own[0].mode):04o}: others can read the counters of all jobs"
        return [fail(what, f"chmod 0600 {path}, with a new token in it")]
    return judge(chain)


def entries(paths: Iterable[str]) -> Iterator[Entry]:
    """Each path that is there and every directory above it, of its name and of what it stands for, each once."""
    seen: set[str] = set()
    for path in paths:
        for name in (path, os.path.realpath(path)):
            for each in (*reversed(Path(name).parents), Path(name)):
                if str(each) in seen:
                    continue
                seen.add(str(each))
                try:
                    status = os.stat(each)
                except OSError:
                    continue
                yield Entry(str(each), status.st_uid, status.st_mode, status.st_gid)


def _installation() -> Iterator[str]:
    """The interpreter, what it imports, and the package with all of its modules."""
    yield sys.executable
    package = Path(__file__).parents[1]
    yield from (str(each) for each in package.parent.iterdir())
    for directory, _, modules in os.walk(package):
        yield directory
        yield from (f"{directory}/{module}" for module in modules)
