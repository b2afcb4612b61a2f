#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Drains a node on which "hpcnet doctor" finds what fails, with the first such line as the reason. For slurm.conf:
#
#   HealthCheckProgram=/etc/slurm/healthcheck.sh
#   HealthCheckInterval=300
#
# or to be called from a site's own health check. While all is well nobody asks slurmctld anything. A node that is
# drained or down already keeps its reason. Somebody resumes it when it is mended: nothing here does.
found=$(/opt/hpcnet/bin/hpcnet doctor --local --role node 2>&1)
[ $? -eq 1 ] || exit 0

node=${SLURMD_NODENAME:-$(hostname -s)}
case $(sinfo --noheader --Node --nodes="$node" --format=%t | head -n 1) in
drain* | drng* | down*) exit 0 ;;
esac
reason=$(printf '%s\n' "$found" | sed -n 's/^FAIL *//p' | head -n 1)
scontrol update nodename="$node" state=drain reason="hpcnet doctor: $reason"
