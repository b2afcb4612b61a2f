# SPDX-License-Identifier: Apache-2.0
"""Network namespaces by name, pinned under /run/netns as ``ip netns`` does, so that its commands see ours."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping

from hpcnet import names

_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_SLAVE, _MS_SHARED = 0x1000, 0x4000, 0x80000, 0x100000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_OWN = "/proc/thread-self/ns/net"
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)

BORN = frozenset("lo tunl0 gre0 gretap0 erspan0 ip_vti0 ip6_vti0 sit0 ip6tnl0 ip6gre0".split())
"""Devices that a new namespace may have of itself: the tunnel modules put their fallbacks into each."""

_LOCK_SECONDS = 0.5  # "ip netns" holds its lock for microseconds

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: object) -> None:
    """A libc call that raises OSError. (Python has setns and unshare from 3.12 only.)"""
    if getattr(_libc, function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")


def create(job_id: int) -> None:
    """Make and pin the job's namespace. Raises FileExistsError when its name is taken."""
    pin(names.netns_path(job_id))


def pin(path: str) -> None:
    """Make a namespace and pin it here, in NETNS_DIR. Raises FileExistsError."""
    _make_pin_directory()
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        with _kept():
            _call("unshare", _CLONE_NEWNET)
            _call("mount", _OWN.encode(), path.encode(), b"none", ctypes.c_ulong(_MS_BIND), None)
    except BaseException:
        os.unlink(path)
        raise


def delete(job_id: int) -> None:
    """Unpin the job's namespace; gone already is fine. It ends when nobody is in it any more."""
    unpin(names.netns_path(job_id))


def unpin(path: str) -> None:
    """The same by the file that pins it."""
    with contextlib.suppress(OSError):
        _call("umount2", path.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def exists(job_id: int) -> bool:
    """Whether the job's namespace is pinned (a file that pins nothing, or a symbolic link, counts as not)."""
    return is_pinned(names.netns_path(job_id))


def is_pinned(path: str) -> bool:
    """Whether a namespace is pinned here."""
    try:
        return os.lstat(path).st_dev == os.stat(_OWN).st_dev
    except FileNotFoundError:
        return False


def pinned() -> list[int]:
    """Ids of all jobs that have a namespace of ours on this node."""
    try:
        found = os.listdir(names.NETNS_DIR)
    except FileNotFoundError:
        return []
    return sorted(job for job in map(names.parse_netns, found) if job is not None)


@contextlib.contextmanager
def inside(job_id: int) -> Iterator[int]:
    """Run the block with the calling thread in the job's namespace; yields its file descriptor."""
    with opened(names.netns_path(job_id)) as target, inside_fd(target):
        yield target


@contextlib.contextmanager
def inside_fd(namespace: int) -> Iterator[None]:
    """Run the block with the calling thread in the namespace of this file descriptor."""
    with _kept():
        _call("setns", namespace, _CLONE_NEWNET)
        yield


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Run the block with the calling thread, and what it starts, in a new namespace that nothing else keeps."""
    with _kept():
        _call("unshare", _CLONE_NEWNET)
        yield


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A file descriptor of the namespace that a file stands for."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)


def own() -> contextlib.AbstractContextManager[int]:
    """A file descriptor of the namespace that the calling thread is in."""
    return opened(_OWN)


def everywhere() -> Iterator[int]:
    """File descriptors of all network namespaces of this node but the caller's, each once; closed after use.

    Those of processes, and those that a mount pins which the caller sees: ``ip netns``, dockerd. What vanishes
    meanwhile is passed over. Not found: one that only a thread, an open file or a socket keeps.
    """
    with own() as file:
        seen = {identity(file)}
    for path in (*_of_processes(), *_pins()):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if identity(file) not in seen and is_network(file):
                seen.add(identity(file))
                yield file
        finally:
            os.close(file)


def identity(file: int) -> tuple[int, int]:
    """What tells one namespace from another while it lives."""
    found = os.fstat(file)
    return found.st_dev, found.st_ino


def is_network(file: int) -> bool:
    """Whether a descriptor is of a network namespace."""
    try:
        return fcntl.ioctl(file, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:  # something else is mounted over the pin
        return False


def _of_processes() -> Iterator[str]:
    seen = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile
                path = f"/proc/{name}/ns/net"
                namespace = os.readlink(path)
                if namespace not in seen:
                    seen.add(namespace)
                    yield path


def _pins() -> Iterator[str]:
    """Mount points of network namespaces; proc_pid_mountinfo(5): blanks of a path are octal."""
    with open("/proc/self/mountinfo", "rb") as mounts:
        for fields in map(bytes.split, mounts):
            if fields[3].startswith(b"net:["):
                yield os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4]))


def enter(job_id: int, files: Mapping[str, str]) -> None:
    """The process enters the job's namespace for good; ``files`` (path to file) take the place of the node's."""
    target = os.open(names.netns_path(job_id), os.O_RDONLY | os.O_CLOEXEC)
    _call("unshare", _CLONE_NEWNS)
    _call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None)
    for target_file, file in files.items():
        _call("mount", file.encode(), target_file.encode(), None, ctypes.c_ulong(_MS_BIND), None)
    _call("setns", target, _CLONE_NEWNET)


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Come back to the namespace that the thread was in; a process that cannot would take one for the other."""
    with own() as before:
        try:
            yield
        finally:
            try:
                _call("setns", before, _CLONE_NEWNET)
            except OSError as error:
                os.write(2, f"hpcnet: cannot come back from a job's network: {error.strerror}\n".encode())
                os._exit(1)


def _make_pin_directory() -> None:
    """As ``ip netns``: the directory is a shared mount, so that other mount namespaces lose a pin with us.

    The first time under the lock that ``ip netns`` takes too: two at once would mount it on itself twice. But any
    user may take that lock, so nobody waits for it long, or each time.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(names.NETNS_DIR, 0o755)
    if _shared():
        return
    lock = os.open(names.NETNS_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock_if_free(lock)
        if not _shared():
            directory = names.NETNS_DIR.encode()
            _call("mount", directory, directory, b"none", ctypes.c_ulong(_MS_BIND | _MS_REC), None)
            _shared()
    finally:
        os.close(lock)


def _shared() -> bool:
    """Make the directory a shared mount; False: it is no mount yet."""
    try:
        _call("mount", None, names.NETNS_DIR.encode(), b"none", ctypes.c_ulong(_MS_SHARED | _MS_REC), None)
    except OSError as error:
        if error.errno != errno.EINVAL:  # that says: not a mount point yet
            raise
        return False
    return True


def _lock_if_free(file: int) -> None:
    late = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < late:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.01)
