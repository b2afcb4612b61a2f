# SPDX-License-Identifier: Apache-2.0
"""What a job has moved on this node, read by its Epilog just before its network goes.

JSON in a line of its own of the hooks' log, and where the site wants it a file that ``hpcnet show`` reads:
``DIRECTORY/JOB/SERIAL.NODE.json``, the job owner's to read. It takes the Epilog _PATIENCE at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, Callable

from hpcnet import journal, names, record, slots
from hpcnet.counters import reading
from hpcnet.counters.model import PORT, Counters, NodeSample
from hpcnet.counters.rates import counted
from hpcnet.journal import Entry

SCHEMA = 1
_ADDED = ("moved", "peak", "account")  # which files of before lack

_PATIENCE = 1.0  # seconds for writing the file
_POLL = 0.002


def of_job(job_id: int, directory: str, log: Callable[[str], None]) -> Iterator[str]:
    """Gives ``log`` the line; yields what went wrong with the file. A job without a whole network has neither."""
    entry, started = journal.read(job_id), _published(job_id)
    if entry is None or started is None:
        return
    document = _document(entry, started)
    text = json.dumps(document, separators=(",", ":"))
    log(f"account {text}")
    if directory:
        complaint = _keep(directory, document, text, entry.uid)
        if complaint:
            yield f"its account is not kept: {complaint}"


def _published(job_id: int) -> float | None:
    """When the job's network was complete, Unix seconds."""
    try:
        return os.stat(f"{names.job_dir(job_id)}/network").st_mtime
    except FileNotFoundError:
        return None


def _document(entry: Entry, started: float) -> dict[str, Any]:
    sample = _last_sample(entry)
    lease = record.parse(entry.token).lease
    return {
        "schema": SCHEMA,
        "job": entry.job_id,
        "serial": lease.serial if lease else 0,
        "node": entry.node,
        "user": entry.user,
        "account": entry.account,
        "mode": lease.mode if lease else "",
        "started": round(started),
        "ended": round(sample.time),
        "seconds": round(sample.time - started, 1),
        "moved": counted(sample)._asdict(),
        "peak": None,  # nobody samples a job that nobody watches
        "interfaces": [
            {"device": each.device, "kind": each.kind, "name": each.name, "counters": each.counters._asdict()}
            for each in sample.interfaces
            if each.kind != PORT  # it is of all jobs of the node, since it was booted
        ],
        "problem": sample.problem,
    }


def _last_sample(entry: Entry) -> NodeSample:
    """With its containers where it has any: to find them takes a look at each namespace of the node."""
    if slots.taken(entry.job_id):
        for sample in reading.read_node(entry.node):
            if sample.job_id == entry.job_id:
                return sample
    return reading.read_job(entry.job_id, entry.node)


def _keep(directory: str, document: dict[str, Any], text: str, uid: int) -> str:
    """Write the file in a process of its own, which is left behind when the file system hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            signal.alarm(0)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):  # slurmd waits for its pipes to close
                os.dup2(null, descriptor)
            _write(directory, document, text, uid)
            code = 0
        except OSError as error:
            code = min(error.errno or 1, 255)
        finally:
            os._exit(code)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"{directory}: {os.strerror(code) if code > 0 else 'killed'}"
        time.sleep(_POLL)
    return f"{directory} does not answer within {_PATIENCE:g} s"


def _write(directory: str, document: dict[str, Any], text: str, uid: int) -> None:
    own = f"{directory}/{document['job']}"
    for path in (directory, own):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
    path = f"{own}/{document['serial']}.{document['node']}.json"
    file = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    try:
        os.write(file, f"{text}\n".encode())
        if uid >= 0:
            os.fchown(file, uid, -1)
    finally:
        os.close(file)
    os.rename(f"{path}.new", path)


def kept(directory: str, job_id: int) -> list[dict[str, Any]]:
    """The accounts of a job that the caller may read, by serial and node; of a job that ran twice both runs'."""
    own, found = f"{directory}/{job_id}", []
    try:
        files = sorted(os.listdir(own)) if directory else []
    except OSError:
        return []
    for name in files:
        if name.endswith(".json"):
            with contextlib.suppress(OSError, ValueError), open(f"{own}/{name}", encoding="utf-8") as file:
                found.append(_checked(json.loads(file.read(1 << 20))))
    return found


def _checked(found: Any) -> dict[str, Any]:
    """The same document, as :func:`_document` makes it: its owner may have written another. Raises ValueError."""
    from hpcnet.counters import wire  # not for the Epilog, which only writes

    try:
        if found["schema"] != SCHEMA:
            raise ValueError("another version's")
        checks: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("schema", "job", "serial", "started", "ended"), wire.count),
            **dict.fromkeys(("node", "user", "mode", "problem"), wire.text),
            "account": lambda account: wire.text(account or ""),
            "seconds": float,
            "moved": _checked_counters,
            "peak": lambda peak: None if peak is None else float(peak),
            "interfaces": lambda listed: [_checked_interface(each) for each in listed],
        }
        return {key: check(found.get(key) if key in _ADDED else found[key]) for key, check in checks.items()}
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not an account: {error!r:.100}") from None


def _checked_interface(found: Any) -> dict[str, Any]:
    from hpcnet.counters import wire  # not for the Epilog, which only writes

    return {
        **{key: wire.text(found[key]) for key in ("device", "kind")},
        "name": wire.text(found.get("name", "")),
        "counters": _checked_counters(found["counters"]),
    }


def _checked_counters(found: Any) -> dict[str, int | None]:
    from hpcnet.counters import wire  # not for the Epilog, which only writes

    return {name: wire.count((found or {}).get(name)) for name in Counters._fields}
