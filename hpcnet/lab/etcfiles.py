# SPDX-License-Identifier: Apache-2.0
"""The texts of the files in a lab host's /etc. Pure: settings in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hpcnet.lab.enter import PATH
from hpcnet.lab.layout import CONTROLLER, PREFIX, USERS, addresses, machine_names

CPUS = 8
"""Processors that each node claims to have, so that several jobs fit on one."""

JOB_SUBMIT_LUA = f'dofile("{PREFIX}/share/hpcnet/job_submit.lua")\n'
PLUGSTACK = f"required {PREFIX}/lib/hpcnet/hpcnet_spank.so\n"
PROFILE = f'PATH="{PATH}"\nexport PATH\n'

_HOOKS = ("Prolog", "Epilog", "PrologSlurmctld", "EpilogSlurmctld")
_HOOK_PATHS = ("prolog", "epilog", "prolog_slurmctld", "epilog_slurmctld")


def slurm_conf(nodes: int, changes: Mapping[str, str | None]) -> str:
    """slurm.conf of the lab; ``changes`` replaces or adds keys, None leaves one out."""
    settings: dict[str, str | None] = {
        "ClusterName": "lab",
        "SlurmctldHost": CONTROLLER,
        "AuthType": "auth/munge",
        "SlurmUser": "slurm",
        "StateSaveLocation": "/var/spool/slurmctld",
        "SlurmdSpoolDir": "/var/spool/slurmd",
        "TmpFS": "/var/spool/job_tmp",
        "SlurmctldPidFile": "/run/slurmctld.pid",
        "SlurmdPidFile": "/run/slurmd.pid",
        "SlurmctldLogFile": "/var/log/slurm/slurmctld.log",
        "SlurmdLogFile": "/var/log/slurm/slurmd.log",
        "SlurmctldDebug": "verbose",
        # Slurm logs what a successful hook prints at debug2 only.
        "SlurmdDebug": "debug2",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "MpiDefault": "none",
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SchedulerParameters": "bf_interval=1,sched_interval=2,batch_sched_delay=0",
        "EnforcePartLimits": "ALL",
        "PrologFlags": "Alloc,DeferBatch,Contain",
        "PrologEpilogTimeout": "90",
        "LaunchParameters": "use_interactive_step",
        "Licenses": "hpcnet:4096",
        "ReturnToService": "2",
        "JobRequeue": "1",
        "KillWait": "5",
        "UnkillableStepTimeout": "30",
        "InactiveLimit": "0",
        "MessageTimeout": "10",
        "SlurmdTimeout": "30",
        "SlurmctldTimeout": "30",
        "JobSubmitPlugins": "lua",
    }
    settings.update({key: f"{PREFIX}/libexec/hpcnet/{path}" for key, path in zip(_HOOKS, _HOOK_PATHS)})
    settings.update(changes)
    lines = [f"{key}={value}" for key, value in settings.items() if value is not None]
    lines += [
        f"NodeName=n[1-{nodes}] CPUs={CPUS} RealMemory=1000 State=UNKNOWN",
        "PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        "PartitionName=debug Nodes=ALL MaxTime=INFINITE State=UP",
    ]
    return "\n".join(lines) + "\n"


def cgroup_conf(unified: bool) -> str:
    """cgroup.conf: ``unified`` is whether the machine has control groups version 2 only."""
    if unified:
        return "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n"
    return "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"


def hpcnet_toml(fabric_mtu: int, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """hpcnet.toml of the lab; ``changes`` replaces or adds keys by section."""
    sections: dict[str, dict[str, Any]] = {
        "fabric": {
            "uplink": "ib0",
            "mtu": fabric_mtu,
            "peers": "hosts",
            "peers_file": "/etc/hosts",
            "peers_name": "{node}-ib",
        },
        "pool": {"store": "/var/spool/slurmctld/hpcnet.sqlite", "cooldown": 1},
        "submit": {"licence": "hpcnet"},
        "hooks": {"log": "/var/log/hpcnet.log"},
    }
    for section, values in changes.items():
        sections.setdefault(section, {}).update(values)
    parts = []
    for section, values in sections.items():
        # A JSON string, number, boolean or list is also TOML.
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
        parts.append("\n".join([f"[{section}]", *lines]) + "\n")
    return "\n".join(parts)


def hosts(nodes: int) -> str:
    """/etc/hosts: each host by its name, and with -ib on the fabric."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for name in machine_names(nodes):
        own = addresses(name)
        lines += [f"{own['eth0']} {name}", f"{own['ib0']} {name}-ib"]
    return "\n".join(lines) + "\n"


def passwd(text: str) -> str:
    """The machine's /etc/passwd with the lab's users."""
    own = [f"{user}:x:{uid}:{uid}::/home/{user}:/bin/bash" for user, uid in USERS.items()]
    return _with_users(text.splitlines(), own)


def shadow(text: str) -> str:
    """The machine's /etc/shadow with the lab's users, who have no password."""
    return _with_users(text.splitlines(), [f"{user}:*:19000:0:99999:7:::" for user in USERS])


def group(text: str, join: tuple[str, ...]) -> str:
    """The machine's /etc/group with a group per user of the lab, who all join the groups ``join``."""
    lines = []
    for line in text.splitlines():
        if line.split(":")[0] in join:
            separator = "" if line.endswith(":") else ","
            line += separator + ",".join(USERS)
        lines.append(line)
    return _with_users(lines, [f"{user}:x:{uid}:" for user, uid in USERS.items()])


def _with_users(lines: list[str], own: list[str]) -> str:
    """Own lines after the machine's, which may have users of the same names: the first entry would win."""
    kept = [line for line in lines if line.split(":")[0] not in USERS]
    return "\n".join([*kept, *own]) + "\n"
