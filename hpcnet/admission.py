# SPDX-License-Identifier: Apache-2.0
"""From whom this node takes VXLAN packets: the packet filter's entries, as the journals here want them.

    admit(plan, site)       a job's peers, and nobody else in its VNI
    expel(vni, vteps)       them again
    renew(entry, site)      those of a job that is here, in a filter that was flushed

A VNI is leased to another job after a rest, while a removal that failed may have left its last job's journal and
entries here. So whoever adds or removes entries holds the node's lock, and spares what another journal has whose
VXLAN device is here: that is made before its entries are, and removed before them. Two jobs that are being removed
spare nothing for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from hpcnet import journal
from hpcnet.config import Site
from hpcnet.journal import Entry
from hpcnet.kernel import filter as packet_filter
from hpcnet.kernel import segment
from hpcnet.model import Plan


def admit(plan: Plan, site: Site) -> None:
    """Take the job's packets from its peers. Its VXLAN device must be there: then no other job here lives by
    this VNI, and what one that died has left of it goes. Raises NodeError."""
    vni = plan.lease.vni
    with journal.locked(journal.NODE):
        if any(entry.job_id != plan.job_id for entry in journal.with_vni(vni)):
            packet_filter.expel(vni, keep=plan.vteps)
        packet_filter.admit(site, vni, plan.vteps)


def expel(vni: int, vteps: Iterable[IPv4Address] | None, job_id: int = 0) -> None:
    """Take no packets of this VNI any more, but for another job than this one. Raises NodeError.

    ``vteps``: as :func:`hpcnet.kernel.filter.expel`.
    """
    with journal.locked(journal.NODE):
        packet_filter.expel(vni, vteps, _others(vni, job_id))


def expelling(vni: int | None, vteps: Iterable[IPv4Address] | None, job_id: int) -> str:
    """What :func:`expel` tells nft first, for who holds the node's lock and has more. Empty: it reads first."""
    return "" if vni is None or vteps is None else packet_filter.expelling(vni, vteps, _others(vni, job_id))


def _others(vni: int, job_id: int) -> set[IPv4Address]:
    """What another job has that lives by this VNI."""
    others = (entry for entry in journal.with_vni(vni) if entry.job_id != job_id and _lives(entry))
    return {address for entry in others for address in entry.vteps}


def _lives(entry: Entry) -> bool:
    """Whether the job's VXLAN device is here."""
    return segment.find_vni(entry.job_id) == entry.vni


def renew(entry: Entry, site: Site) -> None:
    """Take the job's packets from its peers again, if its VXLAN device is here. Raises NodeError."""
    with journal.locked(journal.NODE):
        if entry.vni and _lives(entry):
            packet_filter.admit(site, entry.vni, entry.vteps)


def held_vni(job_id: int, entry: Entry | None) -> int | None:
    """The VNI that is this job's here. A VNI that a Prolog could not get is another job's, as are its entries."""
    vni = segment.find_vni(job_id)
    if vni is None and entry and "devices" in journal.steps(job_id):
        return entry.vni or None  # mode=direct has none
    return vni
