#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# An Epilog for nodes whose users run rootless Podman: hpcnet's own, then what logind does at a user's last logout.
#
#     # slurm.conf
#     Epilog=/etc/slurm/epilog-podman.sh
#     ProctrackType=proctrack/cgroup
#
# When Slurm kills a job, it kills Podman's processes with it, and their records stay in the user's runtime directory:
# the next "podman run" on this node would end with "invalid internal status, try resetting the pause process".
/opt/hpcnet/libexec/hpcnet/epilog || exit
PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ -d "/run/user/$SLURM_JOB_UID" ] || exit 0
# While the user has another job here, the directory is in use.
pgrep -U "$SLURM_JOB_UID" >/dev/null || rm -rf "/run/user/$SLURM_JOB_UID"/*
exit 0
