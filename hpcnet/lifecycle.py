# SPDX-License-Identifier: Apache-2.0
"""A job's network on one node: build it, remove it, refuse it. What Prolog and Epilog do.

build(job, site)      converges; on failure everything is rolled back and the error goes on
remove(job_id)        from the journal, else from names; twice is fine
reap(job_id, ...)     the same of a job that is dead, if it still is as it was judged
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hpcnet import admission, fabric, jobfiles, journal, names, nodelist, phases, record, resolver, slots
from hpcnet.config import Site
from hpcnet.errors import HpcnetError, NodeError, SiteError
from hpcnet.frozen import replace
from hpcnet.journal import Entry
from hpcnet.kernel import (
    child,
    egress,
    infiniband,
    interior,
    links,
    netns,
    port,
    rtnl,
    segment,
    sysctl,
    translation,
)
from hpcnet.kernel import filter as packet_filter
from hpcnet.model import NONE, Lease, Plan
from hpcnet.plan import plan
from hpcnet.record import Record
from hpcnet.slurm.environment import Job

Step = Callable[[Plan, Site], None]


def intent(job: Job, site: Site) -> Entry:
    """What the job's record and this node's facts come to, written down before anything is built.

    Raises SiteError, NodeError, or UserError, by who can mend it.
    """
    found = record.find(job.record_text)
    if found is None or found.state == "asked":
        raise SiteError(
            "the controller gave it no lease; slurm.conf on the controller needs hpcnet's "
            "PrologSlurmctld and job_submit.lua, see the controller's log"
        )
    if found.lease is None:
        raise SiteError(found.reason)
    nodes = nodelist.expand(job.nodelist)
    underlays = fabric.addresses(site.fabric, nodes)
    if job.node not in underlays:
        raise SiteError(f"node {job.node!r} is not among the job's nodes {job.nodelist}")
    if len(set(underlays.values())) < len(nodes):
        raise SiteError(f"two of the nodes {job.nodelist} have one address on the fabric; correct [fabric] peers")
    with rtnl.Rtnl() as host:
        uplink = links.uplink(host, site.fabric.uplink, job.node, underlays[job.node])
    on_infiniband = uplink.hardware == infiniband.ARPHRD_INFINIBAND
    ipoib, pkey = infiniband.ipoib_facts(uplink.name) if on_infiniband else ("", "")
    return Entry(
        cluster=job.cluster,
        job_id=job.id,
        uid=job.uid,
        user=job.user,
        boot_id=boot_id(),
        token=record.token(found),
        nodelist=job.nodelist,
        node=job.node,
        uplink=uplink.name,
        uplink_mtu=uplink.mtu,
        vni=found.lease.vni,
        underlays={node: str(address) for node, address in underlays.items()},
        uplink_ipoib=ipoib,
        uplink_pkey=pkey,
        account=job.account or found.account,
        vxlan_port=site.fabric.vxlan_port,
    )


def plan_of(entry: Entry, site: Site, with_peers: bool = True) -> Plan:
    """The plan that a journal's intent stands for; ``with_peers``: as :func:`hpcnet.plan.plan`."""
    found, lease = _lease(entry)
    return plan(
        lease,
        list(entry.underlays),
        entry.node,
        entry.addresses,
        cluster=entry.cluster,
        job_id=entry.job_id,
        uid=entry.uid,
        uplink=entry.uplink,
        uplink_mtu=entry.uplink_mtu,
        uplink_ipoib=entry.uplink_ipoib,
        uplink_pkey=entry.uplink_pkey,
        asked_mtu=None if site.fabric.mtu else found.request.mtu,
        with_peers=with_peers,
        variables=site.variables(found.request.env),
        vxlan_port=entry.vxlan_port,
    )


def _lease(entry: Entry) -> tuple[Record, Lease]:
    found = record.parse(entry.token)
    if found.lease is None:
        raise SiteError(f"job {entry.job_id} has no lease in its journal")
    return found, found.lease


def build(job: Job, site: Site) -> None:
    """Build the job's network on this node, or raise with nothing of it left. Run again it converges.

    What cannot be removed again is named behind a node's reason; a refusal tries it once more.
    """
    left: list[str] = []
    try:
        with journal.locked(job.id):
            try:
                _build(job, site)
            except BaseException:
                left = _roll_back(job.id, site)
                raise
    except NodeError as error:
        raise NodeError("; ".join((str(error), *left))) from error
    except OSError as error:
        what = f"{_said(error)} while building the network on {job.node}"
        raise NodeError("; ".join((what, *left))) from error


def _said(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _roll_back(job_id: int, site: Site) -> list[str]:
    """Twice, if need be: the deadline may fall into it, or have passed while the whole machine stood still."""
    with contextlib.suppress(NodeError, OSError):
        return _remove(job_id, site)
    try:
        return _remove(job_id, site)
    except (NodeError, OSError) as error:
        return [f"what was built may still carry traffic: {error}; hpcnet cleanup removes it"]


def _build(job: Job, site: Site) -> None:
    entry = intent(job, site)
    phases.passed("lease")
    wanted = plan_of(entry, site)
    phases.passed("plan")
    if wanted.direct:
        _require_allowed(wanted.lease, site)
        child.require(wanted)
    _make_room(entry, site)
    journal.begin(entry)
    phases.passed("journal")
    for name, step in STEPS[wanted.lease.mode]:
        step(wanted, site)
        journal.done(job.id, name)
        phases.passed(name)


def _require_allowed(lease: Lease, site: Site) -> None:
    """The controller leased by its hpcnet.toml; this is the node's. Raises SiteError."""
    if lease.shared and not site.direct.allow_shared:
        raise SiteError(
            "its network of mode=direct would be shared with other jobs, which this site does not allow; "
            "ask for mode=vxlan, or have the site set [direct] allow_shared = true"
        )
    key, pkeys = "[offer] pkeys", site.offer.pkeys
    if not lease.shared:
        key, pkeys = "[direct] pkey_pool", site.direct.pkey_pool
    if (lease.pkey != NONE or not lease.shared) and lease.pkey not in pkeys:
        raise SiteError(f"pkey {lease.pkey} of its lease is not in {key} of this node's hpcnet.toml")


def _make_room(entry: Entry, site: Site) -> None:
    """What stands under the job's name is adopted when it is of this lease, removed when of another, and
    left alone, with an error, when it is not ours."""
    strangers = interior.strangers(entry.job_id)
    if strangers:
        raise NodeError(
            f"namespace {names.netns(entry.job_id)} on {entry.node} holds {', '.join(strangers)}, "
            "which hpcnet did not make; remove or rename that namespace"
        )
    _, lease = _lease(entry)
    alias = interior.alias(entry.job_id)
    if alias not in (None, names.alias(entry.cluster, entry.job_id, lease.serial)):
        _remove(entry.job_id, site)
    older = journal.read(entry.job_id)
    if older and replace(older, uplink_mtu=entry.uplink_mtu) != entry:
        _remove(entry.job_id, site)


def _namespace(wanted: Plan, site: Site) -> None:
    if not netns.exists(wanted.job_id):
        netns.delete(wanted.job_id)  # a file that pins nothing
        netns.create(wanted.job_id)


def _filter(wanted: Plan, site: Site) -> None:
    admission.admit(wanted, site)


def _devices(wanted: Plan, site: Site) -> None:
    segment.make_devices(wanted)


def _connect(wanted: Plan, site: Site) -> None:
    segment.connect(wanted)


def _child(wanted: Plan, site: Site) -> None:
    child.make_device(wanted)


def _connect_child(wanted: Plan, site: Site) -> None:
    child.connect(wanted)


def _egress(wanted: Plan, site: Site) -> None:
    if wanted.egress:
        _admit_out(wanted, site)
        egress.connect(wanted)


def _admit_out(wanted: Plan, site: Site) -> None:
    if wanted.egress:
        with journal.locked(journal.NODE):
            translation.admit(wanted.job_id, wanted.tasks.ipv4, site)


def _docker(wanted: Plan, site: Site) -> None:
    if wanted.lease.docker:
        from hpcnet.runtimes import docker
        from hpcnet.runtimes.engine import Engine

        docker.create(wanted, Engine(site.docker.socket, site.docker.deadline), journal.docker(wanted.job_id))


def _publish(wanted: Plan, site: Site) -> None:
    with open("/etc/hosts", encoding="utf-8", errors="replace") as file:
        own = file.read()
    resolv_conf = resolver.text(site.egress.resolv_conf) if wanted.egress else ""
    network = jobfiles.network(wanted, bool(resolv_conf), infiniband.adapters_of(wanted.uplink))
    journal.publish(wanted.job_id, jobfiles.hosts(wanted, own), network, resolv_conf)


_LAST: tuple[tuple[str, Step], ...] = (("egress", _egress), ("docker", _docker), ("publish", _publish))
STEPS: dict[str, tuple[tuple[str, Step], ...]] = {
    "vxlan": (
        ("namespace", _namespace),
        ("devices", _devices),
        ("filter", _filter),
        ("connect", _connect),
        *_LAST,
    ),
    "direct": (("namespace", _namespace), ("devices", _child), ("connect", _connect_child), *_LAST),
}
"""What building does in each mode, in this order; removing undoes all of it whatever of it was done.

The VXLAN devices come before the filter's elements, because only the kernel can tell that a VNI is another job's
already, and go up after them.
"""


def remove(job_id: int, site: Site) -> list[str]:
    """Remove the job's network from this node; what is gone already is fine.

    Raises NodeError when its devices could still carry traffic. Returns lesser complaints, one line each.
    """
    with journal.locked(job_id):
        return _remove(job_id, site)


def reap(
    job_id: int, site: Site, seconds: float, unchanged: Callable[[], bool], ask_docker: bool | None
) -> list[str] | None:
    """Remove a dead job's network as :func:`remove` does; None: it is not as it was judged, and stays.

    ``unchanged`` is asked under the job's lock; ``ask_docker``: whether dockerd is, None: as the journal says.
    Raises NodeError; BlockingIOError when a Prolog or Epilog of the job does not give the lock back within
    ``seconds``.
    """
    with journal.locked(job_id, seconds=seconds):
        return _remove(job_id, site, ask_docker) if unchanged() else None


def _remove(job_id: int, site: Site, ask_docker: bool | None = None) -> list[str]:
    journal.withdraw(job_id)
    with journal.locked(job_id, journal.ATTACHMENTS):
        pass  # who found the network complete has made its interface, and nobody finds it so any more
    entry = journal.read(job_id)
    foreign = interior.foreign(job_id)
    if foreign and entry is None:
        journal.erase(job_id)
        return [f"namespace {names.netns(job_id)} holds {', '.join(foreign)}, which hpcnet did not make; it stays"]
    vni, lease = admission.held_vni(job_id, entry), _readable_lease(entry)
    phases.passed("journal")
    interior.remove_devices(job_id, attached=vni is None and bool(slots.taken(job_id)))
    phases.passed("devices")
    netns.delete(job_id)
    phases.passed("namespace")
    # Nothing carries traffic any more. What cannot be removed now is written down still, for the next who tries.
    left, expelled, vteps = [], False, entry.vteps if entry and entry.vni == vni else None
    try:
        if lease is None or lease.egress == "host":
            with journal.locked(journal.NODE):
                expelled = translation.expel(job_id, admission.expelling(vni, vteps, job_id))
    except (NodeError, OSError) as error:
        link = names.egress_link(job_id)
        left.append(f"the filter still knows the link {link}, which is gone: {error}; hpcnet cleanup removes it")
    phases.passed("egress")
    try:
        if vni is not None and not expelled:
            admission.expel(vni, vteps, job_id)
    except (NodeError, OSError) as error:
        left.append(f"packets of VNI {vni} are still let in, to no device: {error}; hpcnet cleanup removes them")
    phases.passed("filter")
    # Last, since dockerd may hang; also where it made the network after its Prolog had given up waiting.
    # What is left in it is found by its label.
    dockers = []
    if ask_docker is None:
        ask_docker = bool(journal.docker(job_id) or (lease and lease.docker))
    if ask_docker:
        dockers = _remove_docker(job_id, site)
    phases.passed("docker")
    try:
        if not left:
            journal.erase(job_id)
    except OSError as error:
        left.append(f"{names.job_dir(job_id)} is left: {error.strerror}; hpcnet cleanup removes it")
    return left + dockers


def _readable_lease(entry: Entry | None) -> Lease | None:
    """None also of another version's: what that built is removed from what the kernel holds."""
    with contextlib.suppress(HpcnetError):
        return _lease(entry)[1] if entry else None
    return None


def _remove_docker(job_id: int, site: Site) -> list[str]:
    """Its containers have no interface any more; what dockerd does not do now, ``hpcnet cleanup`` does later."""
    from hpcnet.runtimes import docker
    from hpcnet.runtimes.engine import Engine

    try:
        docker.remove(job_id, Engine(site.docker.socket, site.docker.deadline))
    except NodeError as error:
        return [f"Docker network {names.docker_network(job_id)}: {error}; hpcnet cleanup removes it"]
    return []


def refuse(job_id: int, reason: str, site: Site) -> None:
    """Record that this job gets no network here: none of its tasks starts without one. Raises NodeError."""
    try:
        with journal.locked(job_id):
            _remove(job_id, site)
            journal.refuse(job_id, reason)
    except OSError as error:
        raise NodeError(f"{_said(error)} while the job was refused: {reason}") from error


def load_filter(site: Site) -> str:
    """Load the packet filter and the entries of the jobs here, so that a flushed one is whole again.

    Takes the VXLAN port too, where jobs may need it; returns why that cannot be had, or nothing.
    """
    journal.prepare()
    packet_filter.load(site)
    with journal.locked(journal.NODE):
        translation.load(site)
    for job_id in journal.jobs():
        entry = journal.read(job_id)
        if entry and entry.boot_id == boot_id():
            admission.renew(entry, site)
            with contextlib.suppress(HpcnetError):  # one that this version cannot read keeps none from the others
                _admit_out(plan_of(entry, site), site)
    if "vxlan" in site.offer.modes:
        return port.hold(site.fabric.vxlan_port)
    port.release()
    return ""


def boot_id() -> str:
    """Which boot of this node it is; what an older boot built is gone with it."""
    return sysctl.read("kernel/random/boot_id") or ""
