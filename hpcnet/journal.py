# SPDX-License-Identifier: Apache-2.0
"""The intent log of a job's network on this node: written before the kernel is touched, marked when done.

A file of JSON lines in the job's directory. The first line is all that building again or removing needs;
each further line is the name of a step that is done. What a crash leaves half written at its end is ignored.

Beside it, for the SPANK plugin and the job: ``network`` (written last: the network is complete), ``hosts``,
or ``refused`` (one line: why this job gets no network).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

from hpcnet import names
from hpcnet.frozen import frozen
from hpcnet.model import VXLAN_PORT

NETWORK, ATTACHMENTS = 0, 1 << 32
"""Which of a job's locks: its place in the file, beside the job's number."""

_POLL_SECONDS = 0.05


@frozen
class Entry:
    """Everything from which a plan is made again, and what is needed to remove without one."""

    cluster: str
    job_id: int
    uid: int
    user: str
    boot_id: str
    token: str
    nodelist: str
    node: str
    uplink: str
    uplink_mtu: int
    vni: int
    underlays: dict[str, str]
    """Node name to address on the fabric, of all nodes of the job."""
    uplink_ipoib: str = ""
    """datagram or connected; empty: the uplink is no IPoIB interface."""
    uplink_pkey: str = ""
    """Of an IPoIB uplink."""
    account: str = ""
    """Slurm's, by the Prolog's environment or the token; empty when not known."""
    vxlan_port: int = VXLAN_PORT

    @property
    def addresses(self) -> dict[str, IPv4Address]:
        """``underlays`` as addresses."""
        return {node: IPv4Address(address) for node, address in self.underlays.items()}

    @property
    def vteps(self) -> list[IPv4Address]:
        """The peers' fabric addresses."""
        return [address for node, address in self.addresses.items() if node != self.node]


def prepare() -> None:
    """Make the state directory: readable by everybody, written by root only."""
    for path in (names.STATE_DIR, f"{names.STATE_DIR}/jobs"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    os.close(_lock_file())


NODE = 0
"""In place of a job: the lock of what all jobs here share. Taken after a job's own."""


@contextlib.contextmanager
def locked(job_id: int, part: int = NETWORK, seconds: float | None = None) -> Iterator[None]:
    """Hold the job's lock on this node: one byte, at the job's number, of one file that always stays.

    ``part``: NETWORK, what hooks build and remove; ATTACHMENTS, what is made for single containers meanwhile.
    ``seconds``: how long to wait for who has it. Raises BlockingIOError after that.
    """
    prepare()
    file = _lock_file()
    try:
        # struct flock; of the open file: a lock of the process ends as soon as it closes the file anywhere else
        byte = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, part + job_id, 1, 0)
        if seconds is None:
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, byte)
        else:
            _lock_within(file, byte, seconds)
        yield
    finally:
        os.close(file)


def _lock_within(file: int, byte: bytes, seconds: float) -> None:
    late = time.monotonic() + seconds
    while True:
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, byte)
            return
        except BlockingIOError:
            if time.monotonic() >= late:
                raise
        time.sleep(_POLL_SECONDS)


def _lock_file() -> int:
    path = f"{names.STATE_DIR}/lock"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def begin(entry: Entry) -> None:
    """Write the intent, durably, before anything is built; an earlier refusal does not hold any more."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(names.job_dir(entry.job_id), 0o755)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{names.job_dir(entry.job_id)}/refused")
    _write(entry.job_id, "journal", json.dumps(vars(entry)) + "\n", 0o600)


def done(job_id: int, step: str) -> None:
    """Mark a step as done."""
    path = f"{names.job_dir(job_id)}/journal"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(file, (json.dumps(step) + "\n").encode())
        os.fsync(file)
    finally:
        os.close(file)


def read(job_id: int) -> Entry | None:
    """The intent, or None when there is none that can be read."""
    lines = _text(job_id, "journal").splitlines()
    try:
        return _entry(json.loads(lines[0]), job_id)
    except (IndexError, ValueError, TypeError, RecursionError):
        return None


def with_vni(vni: int) -> list[Entry]:
    """The intents of all jobs here that got this VNI: one lives, others are what failed removals have left."""
    word = f'"vni": {vni},'  # that of a job of 10,000 nodes takes long to read
    likely = (job_id for job_id in jobs() if word in _text(job_id, "journal") and "devices" in steps(job_id))
    return [entry for entry in map(read, likely) if entry and entry.vni == vni]


_TYPES = {"str": str, "int": int, "dict[str, str]": dict}


def _entry(document: dict[str, Any], job_id: int) -> Entry:
    """Raises ValueError, TypeError. Another version's keys are passed over; those it lacks have their default."""
    known = {name: document[name] for name in Entry.__annotations__ if name in document}
    entry = Entry(**known)
    for name, kind in Entry.__annotations__.items():
        if type(getattr(entry, name)) is not _TYPES[kind]:
            raise TypeError(name)
    if entry.job_id != job_id or not 0 <= entry.vni < 1 << 24:
        raise ValueError(f"{entry.job_id}, {entry.vni}")
    if not all(type(address) is str and IPv4Address(address) for address in entry.underlays.values()):
        raise TypeError("underlays")
    return entry


def steps(job_id: int) -> list[str]:
    """The steps that are marked as done, in order."""
    found = []
    for line in _text(job_id, "journal").splitlines()[1:]:
        with contextlib.suppress(ValueError):
            found.append(str(json.loads(line)))
    return found


def jobs() -> list[int]:
    """Ids of all jobs with a directory on this node."""
    try:
        return sorted(int(name) for name in os.listdir(f"{names.STATE_DIR}/jobs") if name.isdecimal())
    except FileNotFoundError:
        return []


def publish(job_id: int, hosts: str, network: str, resolv_conf: str = "") -> None:
    """Write the job's hosts file, its resolv.conf unless that is the node's (empty), and then the file that tells
    the SPANK plugin that the network is complete.
    """
    _write(job_id, "hosts", hosts, 0o644)
    if resolv_conf:
        _write(job_id, "resolv.conf", resolv_conf, 0o644)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{names.job_dir(job_id)}/resolv.conf")
    _write(job_id, "network", network, 0o644)


def write_docker(job_id: int, network: str) -> None:
    """Write down which Docker network (its id) is the job's here."""
    _write(job_id, "docker", network + "\n", 0o644)


def docker(job_id: int) -> str:
    """Id of the job's Docker network; empty: it has none."""
    return _text(job_id, "docker").strip()


def withdraw(job_id: int) -> None:
    """Take ``network`` away first of all when a network is removed: no task joins any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{names.job_dir(job_id)}/network")


def refuse(job_id: int, reason: str) -> None:
    """Record why the job gets no network; the SPANK plugin then starts none of its tasks."""
    prepare()
    with contextlib.suppress(FileExistsError):
        os.mkdir(names.job_dir(job_id), 0o755)
    _write(job_id, "refused", " ".join(reason.split()) + "\n", 0o644)


def refusal(job_id: int) -> str:
    """Why the job gets no network here; empty when it is not refused."""
    return _text(job_id, "refused").strip()


def published(job_id: int) -> bool:
    """Whether the job's network is complete."""
    return os.path.exists(f"{names.job_dir(job_id)}/network")


def variables(job_id: int) -> dict[str, str]:
    """The HPCNET_* variables of the job's tasks here; empty when its network is not complete."""
    pairs = (line.partition("=") for line in _text(job_id, "network").splitlines())
    return {key: value for key, _, value in pairs if key.startswith("HPCNET_")}


def erase(job_id: int) -> None:
    """Remove the job's directory; gone already is fine."""
    _erase(names.job_dir(job_id))


def _erase(directory: str) -> None:
    """As shutil.rmtree, whose import costs as much as removing a network: only root writes here."""
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(directory)):
            if entry.is_dir(follow_symlinks=False):
                _erase(entry.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
        os.rmdir(directory)


def _write(job_id: int, name: str, text: str, mode: int) -> None:
    """Whole or not at all: a new file, on disk, then renamed into place."""
    path = f"{names.job_dir(job_id)}/{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(f"{path}.new", flags, mode)
    try:
        os.fchmod(file, mode)
        data = memoryview(text.encode())
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(f"{path}.new", path)


def _text(job_id: int, name: str) -> str:
    try:
        with open(f"{names.job_dir(job_id)}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
