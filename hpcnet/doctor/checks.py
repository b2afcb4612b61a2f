# SPDX-License-Identifier: Apache-2.0
"""All checks, in the order in which they are printed."""

from __future__ import annotations

from hpcnet.doctor import (
    containers,
    fabric,
    kernel,
    packets,
    permissions,
    plugin,
    remains,
    resolution,
    slurm,
    vxlanport,
)
from hpcnet.doctor.model import CONTROLLER, LOGIN, NODE, SLURM, Check

_NODE, _CONTROLLER = frozenset((NODE,)), frozenset((CONTROLLER,))
_TASKS_START = frozenset((NODE, LOGIN))
_HOOKS_RUN = frozenset((NODE, CONTROLLER))

CHECKS = (
    Check("kernel", kernel.check_kernel, _NODE, root=True),
    Check("uplink", fabric.check_uplink),
    Check("addresses", fabric.check_addresses, SLURM),
    Check("pools", fabric.check_pools),
    Check("filter", packets.check_filter, root=True),
    Check("firewall", packets.check_firewall, _NODE, root=True),
    Check("port", vxlanport.check_port, _NODE, root=True),
    Check("slurm.conf", slurm.check_settings, SLURM, slurm=True),
    Check("hooks", slurm.check_programs, _HOOKS_RUN, slurm=True),
    Check("plugin", plugin.check_plugin, _TASKS_START),
    Check("names", resolution.check_names, _NODE),
    Check("clock", slurm.check_clock, SLURM, slurm=True),
    Check("programs", permissions.check_programs),
    Check("state", permissions.check_state),
    Check("store", permissions.check_store, _CONTROLLER, root=True),
    Check("log", permissions.check_log, _CONTROLLER, root=True, slurm=True),
    Check("leases", remains.check_leases, _CONTROLLER, root=True),
    Check("docker", containers.check_docker, _NODE, root=True),
    Check("remains", remains.check_remains, _NODE, root=True, slurm=True),
)
