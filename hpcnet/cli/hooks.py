# SPDX-License-Identifier: Apache-2.0
"""The four hooks. Their exit codes follow blame: a node drains only for what is wrong with that node.

| hook             | USER, SITE error               | NODE error                | exit 0 otherwise |
|------------------|--------------------------------|---------------------------|------------------|
| prolog           | refusal recorded, exit 0       | rolled back, exit 1       | network is built |
| epilog           |                                | exit 1: could carry traffic | nothing is left |
| prolog-slurmctld | refusal stamped, exit 0        |                           | lease is stamped |
| epilog-slurmctld | logged, exit 0                 |                           | lease is ending  |
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Callable

from hpcnet import config, names, phases, record
from hpcnet.config import Site
from hpcnet.errors import HpcnetError, NodeError, SiteError, UserError
from hpcnet.frozen import frozen
from hpcnet.slurm.environment import Job, job_from_environment

Log = Callable[[str], None]
"""Takes a line about other jobs' leases or the store, beside the one about the hook's own job."""

_ROLLBACK = 15  # seconds that cleaning up may take beyond the deadline; a Prolog tries it twice
_READ_SECONDS = 10  # for an hpcnet.toml that hangs, before it could say what the deadline is
_LOG_SECONDS = 2  # for a syslog or a file that hangs: what was done counts, not what is said of it


def main(hook: str) -> int:
    """Run one hook with Slurm's environment; returns its exit code. Whatever happens, it leaves one line."""
    phases.passed("imports")
    os.umask(0o022)
    os.chdir("/")
    started = time.monotonic()
    broken: HpcnetError | None = None
    try:
        with _deadline(
            _READ_SECONDS, f"{names.CONFIG_FILE}: not read after {_READ_SECONDS} seconds; does it hang?"
        ):
            site = config.load()
    except (SiteError, NodeError) as error:
        site, broken = Site(), error
    phases.passed("configuration")
    lines: list[str] = []
    job: Job | None = None
    try:
        job = job_from_environment(os.environ)
        with _deadline(site.hooks.deadline + (site.pool.wait if hook == "prolog-slurmctld" else 0)):
            done = _HOOKS[hook](job, site, broken, lines.append)
    except HpcnetError as error:
        done = _Done([str(error)], code=int(hook == "epilog"), amiss=True)
    except Exception as error:
        # nothing that reaches here is foreseen; a line, not a traceback, and the node is not trusted
        text = f"internal error, please report: {type(error).__name__}: {error}"
        done = _Done([text], code=int(hook in ("prolog", "epilog")))
    serial = done.serial or (_serial(job.record_text) if job else 0)
    ended = f"serial {serial or 'none'}, done in {(time.monotonic() - started) * 1000:.0f} ms, exit {done.code}"
    profile = [f"ms by phase (of the processor): {phases.summary()}"] if phases.summary() else []
    lines.append(f"{f'job {job.id}: ' if job else ''}{'; '.join((*done.words, *profile, ended))}")
    _say(hook, lines, done, site.hooks.log)
    return done.code


@frozen
class _Done:
    """What a hook says of its job, and its exit code."""

    words: Sequence[str]
    code: int = 0
    serial: int = 0
    """Of the lease it is about; 0: the one on the record."""
    amiss: bool = False
    """Whether somebody should read it, though the exit code be 0."""
    accounts: Sequence[str] = ()
    """Lines for the log alone, in front of the hook's own."""


def _serial(record_text: str) -> int:
    """0: the record has no lease that can be read."""
    with contextlib.suppress(HpcnetError):
        found = record.find(record_text)
        return found.lease.serial if found and found.lease else 0
    return 0


def _prolog(job: Job, site: Site, broken: HpcnetError | None, log: Log) -> _Done:
    from hpcnet import lifecycle

    phases.passed("imports")
    try:
        try:
            if broken:
                raise broken
            lifecycle.build(job, site)
        except (UserError, SiteError) as error:
            lifecycle.refuse(job.id, str(error), site)
            return _Done([f"refused: {error}"], amiss=True)
    except NodeError as error:
        # also a refusal that cannot be recorded: without one the job would start in the host's network
        return _Done([str(error)], code=1)
    return _Done(["built"])


def _epilog(job: Job, site: Site, broken: HpcnetError | None, log: Log) -> _Done:
    from hpcnet import journal, lifecycle

    words = [str(broken)] if broken else []
    accounts: list[str] = []
    serial = 0
    try:
        from hpcnet.counters import account

        phases.passed("imports")
        entry = journal.read(job.id)
        serial = _serial(entry.token) if entry else 0
        words += account.of_job(job.id, site.hooks.accounts, lambda text: accounts.append(f"job {job.id}: {text}"))
        phases.passed("account")
    except Exception as error:  # whatever it is, the network must go
        words.append(f"no account of what it moved: {type(error).__name__}: {error}")
    try:
        complaints = lifecycle.remove(job.id, site)
    except (NodeError, OSError) as error:
        return _Done(
            [f"its network may still carry traffic: {error}", *words], code=1, serial=serial, accounts=accounts
        )
    return _Done(
        ["removed", *complaints, *words], serial=serial, amiss=bool(complaints or broken), accounts=accounts
    )


def _prolog_slurmctld(job: Job, site: Site, broken: HpcnetError | None, log: Log) -> _Done:
    from hpcnet import allocation

    phases.passed("imports")
    if broken:
        return _Done([allocation.refuse(job, str(broken))], amiss=True)
    words, serial = allocation.prolog_slurmctld(job, site, log)
    return _Done([words], serial=serial, amiss=words.startswith("refused"))


def _epilog_slurmctld(job: Job, site: Site, broken: HpcnetError | None, log: Log) -> _Done:
    from hpcnet import allocation

    if broken:
        raise broken
    return _Done([allocation.epilog_slurmctld(job, site, log)])


_HOOKS = {
    "prolog": _prolog,
    "epilog": _epilog,
    "prolog-slurmctld": _prolog_slurmctld,
    "epilog-slurmctld": _epilog_slurmctld,
}


@contextlib.contextmanager
def _deadline(seconds: int, late: str = "") -> Iterator[None]:
    """Raise NodeError in the block after so many seconds, and let its clean-up have a bounded time more."""

    def ring(signum: int, frame: FrameType | None) -> None:
        signal.alarm(_ROLLBACK)
        raise NodeError(late or f"not finished after {seconds} seconds ([hooks] deadline)")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _say(hook: str, lines: Sequence[str], done: _Done, target: str) -> None:
    """To syslog or a file, and to stderr, which slurmd keeps of a hook that fails. ``done``: of the last line."""
    told, said = ([f"{hook}: {_plain(line)}" for line in some] for some in (done.accounts, lines))
    with contextlib.suppress(OSError):  # not by sys.stderr: what that cannot write makes Python itself exit 120
        os.write(2, "".join(f"hpcnet {line}\n" for line in said).encode())
    with contextlib.suppress(OSError, NodeError), _deadline(_LOG_SECONDS):
        if target == "syslog":
            from hpcnet.cli import syslog

            severity = syslog.ERR if done.code else syslog.WARNING if done.amiss else syslog.INFO
            syslog.send(
                [*((syslog.INFO, line) for line in (*told, *said[:-1])), (severity, said[-1])], _LOG_SECONDS
            )
        else:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            _append(target, "".join(f"{now} hpcnet {line}\n" for line in (*told, *said)))


def _plain(text: str) -> str:
    """One line, without what a user got into a reason and a terminal would act on."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _append(path: str, text: str) -> None:
    """In one piece, as many hooks write at once."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
