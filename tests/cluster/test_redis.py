# SPDX-License-Identifier: Apache-2.0
"""A Redis cluster over three nodes, by names: servers in tasks, and servers in Docker containers.

What a client on one node writes, one on another node reads. It is cancelled while one writes, and nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually
from tests.cluster.test_programs import nothing_runs

pytestmark = pytest.mark.cluster

SERVE = 'redis-server --port 7000 --cluster-enabled yes --protected-mode no --save ""'

# Each sets $names of the servers, starts them, and says in "$client" how a client is run.
TASKS = rf"""
names="n1 n2 n3" client=
srun --overlap sh -c '{SERVE} --cluster-config-file $SLURM_PROCID.conf' > servers.out 2>&1 &
"""
CONTAINERS = rf"""
names="n1-1 n2-1 n3-1"
programs="/usr/bin/redis-server /usr/bin/redis-cli"
srun sh -c "tar -chP $programs \$(ldd $programs | grep -o '/lib[^ ]*' | sort -u) |
  docker import - redis" > /dev/null
client="docker run --rm --net=hpcnet-$SLURM_JOB_ID --mount type=bind,src=$HPCNET_HOSTS,dst=/etc/hosts,readonly"
srun $client -d redis {SERVE} > servers.out 2>&1
client="$client -i redis"
"""
CLUSTER = r"""
on() { node=$1; shift; srun --overlap -N1 -n1 -w $node timeout 60 "$@"; }
all() { on n1 sh -c \
  "for name in $names; do until redis-cli -h \$name -p 7000 $1 | grep -q $2; do sleep 0.2; done; done"; }
all ping PONG 2> /dev/null
addresses=$(on n1 getent ahostsv4 $names | awk '$2 == "STREAM" { print $1 ":7000" }')
on n1 $client redis-cli --cluster create $addresses --cluster-yes > create.out
all "cluster info" cluster_state:ok
first=${names%% *} last=${names##* }
for i in $(seq 30); do echo set key$i value$i; done | on n1 $client redis-cli -c -h $first -p 7000 | grep -c ^OK
for i in $(seq 30); do echo get key$i; done | on n3 $client redis-cli -c -h $last -p 7000 |
  grep ^value | sort -V | xargs
echo read
srun --overlap -N1 -n1 -w n3 sh -c \
  "while redis-cli -c -h $last -p 7000 set key \$(date +%N) > /dev/null; do echo written; done"
"""


@pytest.fixture(scope="module", autouse=True)
def _offered(_lab: Cluster) -> Iterator[None]:
    """The lab as a site that offers Docker; afterwards the tests' files and image are removed."""
    _lab.lab.configure(hpcnet={"offer": {"docker": True}})
    yield
    for node in NODES:
        _lab.root(node, "sh", "-c", "docker images -q redis | xargs -r docker rmi")
    _lab.run("sh", "-c", "rm -r ~/redis")
    _lab.lab.configure()


@pytest.mark.parametrize("servers", [TASKS, CONTAINERS], ids=["tasks", "containers"])
def test_a_redis_cluster(cluster: Cluster, servers: str) -> None:
    script = f"mkdir -p ~/redis/$SLURM_JOB_ID; cd ~/redis/$SLURM_JOB_ID\n{servers}\n{CLUSTER}"
    option = "--network=ib,docker=yes" if servers is CONTAINERS else "--network=ib"
    job = cluster.sbatch(script, option, "-N3", "--ntasks-per-node=1")
    eventually("the values are read", lambda: "read\n" in cluster.output(job), 120)
    values = " ".join(f"value{i}" for i in range(1, 31))
    assert {"30", values} <= set(cluster.output(job).splitlines())
    eventually("a client writes", lambda: cluster.output(job).count("written") > 10)
    cluster.run("scancel", str(job))
    assert cluster.finished(job) == "CANCELLED"
    nothing_runs(cluster, "redis-server")
    for node in NODES:
        assert cluster.root(node, "docker", "ps", "-aq") == ""
