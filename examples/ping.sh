#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Two nodes on a network of their own:  sbatch ping.sh
#
#SBATCH --network=ib
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=5
#SBATCH --output=ping-%j.out

# This script itself runs in the node's own network. What srun starts runs in the job's.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes[0]} second=${nodes[1]}

echo "== what a task sees on each node: the job's interfaces, none of the node's"
srun --label ip -brief address

echo "== what hpcnet tells it"
srun --nodes=1 --ntasks=1 bash -c 'env | grep ^HPCNET_ | sort; echo; cat "$HPCNET_HOSTS"'

echo "== from $second to $first, by name"
srun --nodes=1 --ntasks=1 --nodelist="$second" ping -c 3 -i 0.2 "$first"

echo "== TCP from $second to $first"
# The server leaves after one client; the client tries until the server is there.
srun --nodes=2 --ntasks-per-node=1 bash -c '
	if [ "$HPCNET_RANK" = 0 ]; then exec timeout 30 iperf3 --server --one-off >/dev/null; fi
	for try in {1..50}; do iperf3 --client "$0" --time 3 --format g --interval 0 && exit; sleep 0.1; done 2>/dev/null' "$first"
