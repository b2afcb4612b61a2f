# SPDX-License-Identifier: Apache-2.0
"""Every place where a hook can fail, and failing there: strace's fault injection, on the hook as it is.

    for point in recorded(forks, "prolog", environment): ...     what it asks of the kernel, call by call
    faulted(forks, "prolog", environment, Fault(point, KILL))    run it again, and break it there

A step of a hook is one or more system calls, and what stands between two of them changes nothing. So *before* a
step is before its call, *after* it is before the next one; the answer to a netlink message is a call of its own,
so an error there is one after the step.

nft is a program of its own: a script stands in its place, and breaks the hook before or after nft's transaction.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from tests.faults.forks import Forks
from tests.kernel.hosts import Host

ERRORS = {
    "clone": "EAGAIN",
    "clone3": "EAGAIN",
    "connect": "ECONNREFUSED",
    "fchmod": "EPERM",
    "fcntl": "ENOLCK",
    "flock": "ENOLCK",
    "fsync": "EIO",
    "getdents64": "EIO",
    "memfd_create": "EMFILE",
    "mkdir": "ENOSPC",
    "mount": "EPERM",
    "openat": "EMFILE",
    "pipe2": "EMFILE",
    "recvfrom": "ENOBUFS",
    "rename": "EIO",
    "rmdir": "EIO",
    "sendto": "ENOBUFS",
    "setns": "EPERM",
    "socket": "EMFILE",
    "umount2": "EPERM",
    "unlink": "EIO",
    "unlinkat": "EIO",
    "unshare": "ENOSPC",
    "write": "ENOSPC",
}
"""The system calls that are looked at, and how each fails."""

_CHANGES = frozenset("mkdir mount rename rmdir umount2 unlink unlinkat unshare write".split())
"""Those that change something that outlives the process; ``openat`` may (O_CREAT), ``sendto`` most often does."""

ERROR, KILL = "error", "kill"
NFT_FAILS, NFT_FAILS_AFTER = "nft fails", "nft fails after its work"
NFT_KILLS, NFT_KILLS_AFTER = "killed before nft", "killed after nft"
_NFT_FAULTS = (NFT_FAILS, NFT_FAILS_AFTER, NFT_KILLS, NFT_KILLS_AFTER)

_CALL = re.compile(r"(\w+)\((.*)")
_MESSAGE = re.compile(r"nlmsg_type=(?:0x([0-9a-f]+)|(?:RTM_(\w+)))")
_LOG = "/run/strace"

_NFT = """#!/bin/sh
echo >> /run/nft/calls
[ "$(wc -l < /run/nft/calls)" = "$(cat /run/nft/which)" ] || exec /run/nft/nft "$@"
case $(cat /run/nft/how) in
*after*) /run/nft/nft "$@" ;;
esac
case $(cat /run/nft/how) in
killed*) kill -KILL $PPID ;;
esac
echo 'Error: Could not process rule: Cannot allocate memory' >&2
exit 1
"""


@dataclass(frozen=True)
class Point:
    """One call of a hook: its name, which of the hook's calls of that name it is, from 1, and what it says."""

    call: str
    number: int
    text: str

    @property
    def changes(self) -> bool:
        """Whether something outlives the process that is not as before."""
        if " = -1 E" in self.text:
            return False
        if self.call == "openat":
            return "O_CREAT" in self.text and "/proc/sys" not in self.text
        if self.call == "sendto":
            found = _MESSAGE.search(self.text)
            if found is None:
                return True  # to dockerd
            return not found[2].startswith("GET") if found[2] else int(found[1], 16) % 4 != 2
        return self.call in _CHANGES


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a point."""

    point: Point
    how: str

    @property
    def kills(self) -> bool:
        """Whether the hook ends there."""
        return self.how in (KILL, NFT_KILLS, NFT_KILLS_AFTER)

    def __str__(self) -> str:
        return f"{self.how} at {self.point.call} {self.point.number}: {self.point.text[:120]}"


def faults(points: list[Point]) -> list[Fault]:
    """Everything that can go wrong at these points."""
    found = []
    for point in points:
        if point.call == "nft":
            found += [Fault(point, how) for how in _NFT_FAULTS]
            continue
        found.append(Fault(point, ERROR))
        if point.changes:
            found.append(Fault(point, KILL))
    return found


def recorded(forks: Forks, hook: str, environment: dict[str, str]) -> list[Point]:
    """The points of a hook that runs to its end, in order."""
    host = forks.host
    _stand_for_nft(host, 0, "")
    done = _traced(forks, hook, environment, "-e", f"trace={','.join(ERRORS)}")
    calls = len(host.run("cat", "/run/nft/calls").stdout)
    _stand_no_more(host)
    assert done.returncode == 0, done.stderr
    counts = dict.fromkeys(ERRORS, 0)
    points = []
    for line in host.run("cat", _LOG).stdout.splitlines():
        call = _CALL.match(line)
        if call is None or call[1] not in ERRORS or "= ? ERESTART" in line:
            continue
        counts[call[1]] += 1
        points.append(Point(call[1], counts[call[1]], call[2]))
    late = [point for point in points if ".py" in point.text]
    assert not late, f"forked.py must import this: {late[0]}"
    return points + [Point("nft", number, "") for number in range(1, calls + 1)]


def faulted(
    forks: Forks, hook: str, environment: dict[str, str], fault: Fault
) -> tuple[subprocess.CompletedProcess[str], bool]:
    """Run the hook with this fault; also whether it came to it, and it was that call."""
    point, host = fault.point, forks.host
    if point.call == "nft":
        _stand_for_nft(host, point.number, fault.how)
        done = forks.hook(hook, environment)
        met = len(host.run("cat", "/run/nft/calls").stdout) >= point.number
        _stand_no_more(host)
        return done, met
    how = "signal=KILL" if fault.kills else f"error={ERRORS[point.call]}"
    inject = f"inject={point.call}:{how}:when={point.number}"
    done = _traced(forks, hook, environment, "-e", f"trace={point.call}", "-e", inject)
    log = host.run("cat", _LOG).stdout
    mark = r"\n\+\+\+ killed by SIGKILL" if fault.kills else r"\(INJECTED\)"
    there = re.search(rf"^{point.call}\((.*){mark}", log, re.MULTILINE)
    return done, there is not None and _target(point.call, there[1]) == _target(point.call, point.text)


def _target(call: str, text: str) -> str:
    """What a call is about, without what differs each time; a socket's peer does: dockerd hangs up at will."""
    words = re.sub(r"<[\w-]+:\[.*?\]>|[0-9]+|\)? +=.*", "", text).split(", ")
    if call == "pipe2":
        return words[-1]  # the files are its answer
    return " ".join(words[: 2 if call in ("mount", "openat", "unlinkat", "write") else 1])


def _traced(
    forks: Forks, hook: str, environment: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    # -yy: files by their names
    return forks.hook(hook, environment, ("-yy", "-s", "80", "-o", _LOG, *options))


def _stand_for_nft(host: Host, which: int, how: str) -> None:
    host.run("sh", "-c", "mkdir /run/nft; cp /usr/sbin/nft /run/nft/nft; : > /run/nft/calls")
    for name, text in (("program", _NFT), ("which", f"{which}"), ("how", how)):
        host.write(f"/run/nft/{name}", text)
    host.run("sh", "-c", "chmod +x /run/nft/program; mount --bind /run/nft/program /usr/sbin/nft")


def _stand_no_more(host: Host) -> None:
    host.run("sh", "-c", "umount /usr/sbin/nft; rm -r /run/nft")
