# SPDX-License-Identifier: Apache-2.0
"""Rootless containers on the lab's nodes: what a site sets up for Podman and for Slurm's ``--container``.

docs/containers.md tells admins the same. No image is delivered: users import theirs.
"""

from __future__ import annotations

import os

from hpcnet.lab.host import Host
from hpcnet.lab.layout import USERS

_SUBIDS = "".join(f"{user}:{200_000 + 65_536 * rank}:65536\n" for rank, user in enumerate(USERS))
_STORAGE = "/var/spool/containers"
# Homes are one file system for all nodes; Podman's storage must not be shared. vfs needs nothing of the kernel.
_STORAGE_CONF = f"""[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
rootless_storage_path = "{_STORAGE}/$UID"
"""
_OCI_STATE = "/run/oci"
_CRUN = f"crun --rootless=true --root={_OCI_STATE}"
_CONTAINER = "%n.%u.%j.%s.%t"
# See oci.conf(5): its example for crun.
_OCI_CONF = f"""RunTimeQuery="{_CRUN} state {_CONTAINER}"
RunTimeKill="{_CRUN} kill -a {_CONTAINER}"
RunTimeDelete="{_CRUN} delete --force {_CONTAINER}"
RunTimeRun="{_CRUN} run --bundle %b {_CONTAINER}"
"""


def configure(host: Host) -> None:
    """Give the users of a node subordinate ids, storage, a runtime directory; tell Slurm of crun."""
    host.write("/etc/subuid", _SUBIDS)
    host.write("/etc/subgid", _SUBIDS)
    host.write("/etc/containers/storage.conf", _STORAGE_CONF)
    host.write("/etc/slurm/oci.conf", _OCI_CONF)
    for directory in (_STORAGE, _OCI_STATE):
        made = host.path(directory)
        made.mkdir(exist_ok=True)
        made.chmod(0o1777)
    for uid in USERS.values():
        # As logind makes it, for a user who logs in or lingers.
        own = host.path(f"/run/user/{uid}")
        own.mkdir(mode=0o700)
        os.chown(own, uid, uid)
