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
import sys
import time
from collections.abc import Iterator
from types import FrameType

from hpcnet import config
from hpcnet.config import Site
from hpcnet.errors import HpcnetError, NodeError, SiteError, UserError
from hpcnet.slurm.environment import Job, job_from_environment

_ROLLBACK = 15  # seconds that cleaning up may take beyond the deadline


def main(hook: str) -> int:
    """Run one hook with Slurm's environment; returns its exit code."""
    os.umask(0o022)
    os.chdir("/")
    started = time.monotonic()
    broken: HpcnetError | None = None
    try:
        site = config.load()
    except SiteError as error:
        site, broken = Site(), error
    log = _Log(site.hooks.log, hook)
    try:
        job = job_from_environment(os.environ)
        with _deadline(site.hooks.deadline + (site.pool.wait if hook == "prolog-slurmctld" else 0)):
            code = _HOOKS[hook](job, site, broken, log)
    except HpcnetError as error:
        log.write(str(error))
        return 1 if hook == "epilog" else 0
    except Exception as error:
        # nothing that reaches here is foreseen; a line, not a traceback, and the node is not trusted
        log.write(f"internal error, please report: {type(error).__name__}: {error}")
        return 1 if hook in ("prolog", "epilog") else 0
    log.write(f"job {job.id}: done in {(time.monotonic() - started) * 1000:.0f} ms, exit {code}")
    return code


def _prolog(job: Job, site: Site, broken: HpcnetError | None, log: _Log) -> int:
    from hpcnet import lifecycle

    try:
        try:
            if broken:
                raise broken
            lifecycle.build(job, site)
        except (UserError, SiteError) as error:
            lifecycle.refuse(job.id, str(error), site)
            log.write(f"job {job.id}: refused: {error}")
    except NodeError as error:
        # also a refusal that cannot be recorded: without one the job would start in the host's network
        log.write(f"job {job.id}: {error}")
        return 1
    return 0


def _epilog(job: Job, site: Site, broken: HpcnetError | None, log: _Log) -> int:
    from hpcnet import lifecycle

    try:
        from hpcnet.counters import account

        for line in account.of_job(job.id, site.hooks.accounts):
            log.note(line)
    except Exception as error:  # whatever it is, the network must go
        log.write(f"job {job.id}: no account of what it moved: {type(error).__name__}: {error}")
    try:
        complaints = lifecycle.remove(job.id, site)
    except (NodeError, OSError) as error:
        log.write(f"job {job.id}: its network may still carry traffic: {error}")
        return 1
    for complaint in complaints:
        log.write(f"job {job.id}: {complaint}")
    return 0


def _prolog_slurmctld(job: Job, site: Site, broken: HpcnetError | None, log: _Log) -> int:
    from hpcnet import allocation

    if broken:
        log.write(f"job {job.id}: refused: {broken}")
        allocation.refuse(job, str(broken))
    else:
        allocation.prolog_slurmctld(job, site, log.write)
    return 0


def _epilog_slurmctld(job: Job, site: Site, broken: HpcnetError | None, log: _Log) -> int:
    from hpcnet import allocation

    if broken:
        raise broken
    allocation.epilog_slurmctld(job, site, log.write)
    return 0


_HOOKS = {
    "prolog": _prolog,
    "epilog": _epilog,
    "prolog-slurmctld": _prolog_slurmctld,
    "epilog-slurmctld": _epilog_slurmctld,
}


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Raise NodeError in the block after so many seconds, and let its clean-up have a bounded time more."""

    def late(signum: int, frame: FrameType | None) -> None:
        signal.alarm(_ROLLBACK)
        raise NodeError(f"not finished after {seconds} seconds ([hooks] deadline)")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


class _Log:
    """Where a hook says what it did: syslog or a file; failures go to stderr too, which slurmd logs."""

    def __init__(self, target: str, hook: str) -> None:
        self._target, self._hook = target, hook

    def write(self, text: str) -> None:
        """One line."""
        print(f"hpcnet {self._hook}: {' '.join(text.split())}", file=sys.stderr)
        self.note(text)

    def note(self, text: str) -> None:
        """One line that slurmd's log need not have too."""
        line = f"hpcnet {self._hook}: {' '.join(text.split())}"
        if self._target == "syslog":
            import syslog

            syslog.openlog("hpcnet", syslog.LOG_PID, syslog.LOG_DAEMON)
            syslog.syslog(syslog.LOG_INFO, line.removeprefix("hpcnet "))
            return
        with contextlib.suppress(OSError), open(self._target, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
