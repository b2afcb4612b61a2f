# SPDX-License-Identifier: Apache-2.0
"""What a node holds of each job's network, live or dead, from every place where something can be.

    for remains in found(): ...     all jobs
    of_job(17)                      one, or None

Places: the state directory, the namespace of the job's name, the host's own namespace, every other namespace, and
what the caller asks, for it may not be answered: dockerd, and the filter of jobs' way out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from hpcnet import journal, names, record
from hpcnet.errors import HpcnetError
from hpcnet.kernel import interior, netns, segment, stray
from hpcnet.kernel.links import Link
from hpcnet.runtimes import docker

Entries = dict[int, set[IPv4Address]]
"""Of the packet filter: VNI to peers."""

Networks = Mapping[int, docker.Network]
"""dockerd's, by job."""

Ways = Collection[int]
"""Jobs that the filter of jobs' way out knows (:func:`hpcnet.kernel.translation.jobs`)."""

_Strays = list[tuple[str, Link]]


@dataclass(frozen=True)
class Remains:
    """What is here of one job. Empty texts, 0 and None: nothing here says so."""

    job_id: int
    cluster: str = ""
    serial: int = 0
    """Of the lease."""
    boot_id: str = ""
    node: str = ""
    """This node's name in Slurm, as its Prolog knew it."""
    what: tuple[str, ...] = ()
    """Each thing that is here, for a person to read."""
    foreign: tuple[str, ...] = ()
    """Devices, not of this job, in the namespace of its name. Nothing else in there is the job's."""
    owned: bool = True
    """Whether more than a namespace's name says that this is hpcnet's: a directory, a journal, an ifalias."""
    in_kernel: bool = False
    """Whether any of it is more than files."""
    changed: float | None = None
    """When the newest of it was made, seconds since the epoch."""
    vnis: frozenset[int] = frozenset()


def found(networks: Networks, ways: Ways) -> list[Remains]:
    """Everything on this node, by job."""
    strays = _strays()
    jobs = sorted({*journal.jobs(), *netns.pinned(), *strays, *networks, *ways})
    everything = (_remains(job, strays.get(job, []), networks.get(job), job in ways) for job in jobs)
    return [remains for remains in everything if remains]


def of_job(job_id: int, networks: Networks, ways: Ways) -> Remains | None:
    """What is here of this job, or None."""
    return _remains(job_id, _strays().get(job_id, []), networks.get(job_id), job_id in ways)


def unclaimed(seen: Entries, all_here: Iterable[Remains]) -> Entries:
    """Those of the filter's entries, by VNI, that belong to no network here.

    ``seen`` must have been read before ``all_here`` was: a Prolog writes its journal before it adds entries.
    """
    held = {vni for remains in all_here for vni in remains.vnis}
    return {vni: peers for vni, peers in seen.items() if vni not in held}


def _strays() -> dict[int, _Strays]:
    """By job: its devices that are not in the namespace of its name, and where they are."""
    pinned = {}
    for job in netns.pinned():
        with contextlib.suppress(OSError):
            pinned[os.stat(names.netns_path(job)).st_ino] = job
    strays: dict[int, _Strays] = {}
    for link in stray.on_host():
        strays.setdefault(stray.job_of(link) or 0, []).append(("the host's namespace", link))
    for namespace, links in stray.elsewhere():
        inode = os.fstat(namespace).st_ino
        for link in links:
            job = stray.job_of(link) or 0
            if pinned.get(inode) != job:
                strays.setdefault(job, []).append((f"net:[{inode}]", link))
    return strays


def _remains(job_id: int, strays: _Strays, network: docker.Network | None, way: bool) -> Remains | None:
    """None: nothing, or its Epilog takes it away just now."""
    try:
        remains = _looked_at(job_id, strays, network, way)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):  # its namespace's pin went between two steps
            return None
        raise
    return remains if remains.what else None


def _looked_at(job_id: int, strays: _Strays, network: docker.Network | None, way: bool) -> Remains:
    entry = journal.read(job_id)
    directory = os.path.isdir(names.job_dir(job_id))
    pinned, devices = netns.exists(job_id), list(interior.devices(job_id).values())
    own = [link for link in devices if link.group == names.DEVICE_GROUP]
    identities = [names.parse_alias(link.alias) for link in (*own, *(link for _, link in strays))]
    if network:
        identities.append((network.cluster, network.job_id, network.serial))
    known = [identity for identity in identities if identity and identity[1] == job_id]
    cluster, _, serial = known[0] if known else (entry.cluster if entry else "", 0, _serial(entry))
    what = [f"{names.netns(job_id)}{_listed(own)}"] if pinned else []
    what += [f"{where}: {link.name}" for where, link in strays]
    what += [f"{names.job_dir(job_id)}{_listed_files(job_id)}"] if directory else []
    what += [f"Docker network {network.name}"] if network else []
    what += [f"the way out by {names.egress_link(job_id)} in table {names.NFT_EGRESS_TABLE}"] if way else []
    if not pinned and os.path.lexists(names.netns_path(job_id)):
        what.append(f"{names.netns_path(job_id)}, which pins nothing")
    vnis = {vni for vni in map(_vni, (*own, *(link for _, link in strays))) if vni}
    return Remains(
        job_id,
        cluster,
        serial,
        entry.boot_id if entry else "",
        entry.node if entry else "",
        tuple(what),
        _foreign(job_id, own),
        directory or way or bool(known),
        pinned or way or bool(strays),
        _changed(job_id, directory, pinned),
        frozenset(vnis | ({entry.vni} if entry and entry.vni else set())),
    )


def _foreign(job_id: int, own: list[Link]) -> tuple[str, ...]:
    others = [link.name for link in own if stray.job_of(link) not in (None, job_id)]
    return tuple(others or interior.foreign(job_id))


def _serial(entry: journal.Entry | None) -> int:
    with contextlib.suppress(HpcnetError):
        lease = record.parse(entry.token).lease if entry else None
        return lease.serial if lease else 0
    return 0


def _vni(link: Link) -> int:
    number = link.data.get(segment.IFLA_VXLAN_ID) if link.kind == "vxlan" else None
    return int(struct.unpack("=I", number)[0]) if number else 0


def _listed(links: list[Link]) -> str:
    return f": {', '.join(sorted(link.name for link in links))}" if links else ""


def _listed_files(job_id: int) -> str:
    with contextlib.suppress(OSError):
        return f": {', '.join(sorted(os.listdir(names.job_dir(job_id)))) or 'empty'}"
    return ""


def _changed(job_id: int, directory: bool, pinned: bool) -> float | None:
    """Of a namespace that is pinned the time of its making; of one that is not the kernel tells none."""
    paths = [names.netns_path(job_id)] if pinned else []
    if directory:
        paths += [names.job_dir(job_id), f"{names.job_dir(job_id)}/journal"]
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(os.lstat(path).st_mtime)
    return max(times, default=None)
