# SPDX-License-Identifier: Apache-2.0
"""The main job: ``--network=ib`` gives alice's tasks a network of their own, with real traffic in it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.cluster.cluster import NODES, Cluster

pytestmark = pytest.mark.cluster

_IPERF = """
srun bash -c '
if [ $SLURM_PROCID = 0 ]; then exec timeout 200 iperf3 -s -1 -B {bind} > /dev/null; fi
[ $SLURM_PROCID = 1 ] || exit 0
for try in {{1..40}}; do
  report=$(iperf3 {family} -c n1 -n 64M --json)  # exits 0 with --json whatever happened
  case $report in *error*) ;; *) echo "$report"; exit 0;; esac
  sleep 0.3
done
exit 1'
"""


def names(link_output: list[str]) -> list[str]:
    """Interface names of ``ip -o link`` lines."""
    return [line.split(":")[1].strip().partition("@")[0] for line in link_output]


def test_a_task_sees_the_jobs_devices_and_none_of_the_hosts(cluster: Cluster) -> None:
    lines = cluster.srun("-N2", "--network=ib", "ip", "-o", "link")
    assert sorted(names(lines)) == sorted(["lo", "hpcvx", "hpc0", "hpcout"] * 2)
    lines = cluster.srun("-N1", "--network=ib,egress=none", "ip", "-o", "link")
    assert names(lines) == ["lo", "hpcvx", "hpc0"]


@pytest.mark.parametrize("egress", ["host", "none"])
def test_the_host_sees_no_device_of_the_job_but_the_link_to_it(cluster: Cluster, egress: str) -> None:
    job = cluster.hold(f"--network=ib,egress={egress}", "-N3")
    link = [f"hpce{job}"] if egress == "host" else []
    for node in NODES:
        assert names(cluster.root(node, "ip", "-o", "link").splitlines()) == ["lo", "eth0", "ib0", *link]
        assert f"hpcnet-{job}" in cluster.root(node, "ip", "netns")


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_addresses_are_those_that_plan_printed_beforehand(cluster: Cluster, nodes: int) -> None:
    hosts = f"n[1-{nodes}]" if nodes > 1 else "n1"
    planned = json.loads(cluster.root("ctl", "hpcnet", "plan", "--network", "ib", "--nodes", hosts, "--json"))
    assert planned["lease_source"] == "next"
    show = "ip -o -4 addr show hpc0; ip -o -6 addr show hpc0 scope global; cat /sys/class/net/hpc0/address"
    lines = cluster.srun(f"-w{hosts}", "-l", "--network=ib", "sh", "-c", show)
    for entry in planned["nodes"]:
        own = [line for line in lines if line.startswith(f"{entry['rank']}:")]
        prefix = planned["lease"]["ipv4"].partition("/")[2]
        assert f"inet {entry['ipv4']}/{prefix} " in own[0]
        assert f"inet6 {entry['ipv6']}/64 " in own[1]
        assert own[2].endswith(entry["mac"])


@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize("nodes", [2, 3])
def test_iperf3_between_tasks_by_node_name(cluster: Cluster, nodes: int, family: str) -> None:
    bind = "$HPCNET_ADDRESS" if family == "-4" else "$HPCNET_ADDRESS6"
    script = _IPERF.format(family=family, bind=bind)
    job = cluster.sbatch(script, "--network=ib", f"-N{nodes}")
    assert cluster.finished(job) == "COMPLETED", cluster.output(job)
    report = json.loads(cluster.output(job))
    remote = report["start"]["connected"][0]["remote_host"]
    assert remote.startswith("10.128." if family == "-4" else "fd68:")
    assert report["end"]["sum_received"]["bytes"] > 1_000_000


def test_every_node_name_resolves_to_the_jobs_address(cluster: Cluster) -> None:
    lines = cluster.srun("-N3", "--network=ib", "sh", "-c", "getent ahostsv4 n1 n2 n3")
    addresses = {line.split()[0] for line in lines}
    assert len(addresses) == 3
    assert all(address.startswith("10.128.") for address in addresses)


SERVICES = ("/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve")
LISTEN = """
import os, select, socket, sys
kept = []
for path in sys.argv[1:]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind(path)
    kept[-1].listen()
    os.chmod(path, 0o666)
print("ready", flush=True)
while True:
    select.select(kept, [], [])[0][0].accept()[0].close()  # libc would wait for an answer
"""
CONNECT = """
import socket, sys
for path in sys.argv[1:]:
    print(socket.socket(socket.AF_UNIX).connect_ex(path) == 0)
"""


def test_name_services_that_know_the_nodes_own_addresses_are_hidden_from_tasks(cluster: Cluster) -> None:
    """nscd and nss-resolve, false ones here: libc asks the first before files, the other if told so."""
    serve = cluster.lab.command("n1", ["python3", "-c", LISTEN, *SERVICES])
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout and serving.stdout.readline() == "ready\n"
            ask = ("srun", "-w", "n1", "python3", "-c", CONNECT, *SERVICES)
            assert cluster.run(*ask).stdout.split() == ["True", "True"]
            assert cluster.run(ask[0], "--network=ib", *ask[1:]).stdout.split() == ["False", "False"]
        finally:
            serving.kill()
            cluster.root("n1", "rm", "-rf", "/run/nscd", "/run/systemd")


def test_hpcnet_variables_in_steps_and_in_the_batch_script(cluster: Cluster) -> None:
    show = "env | grep ^HPCNET_ | grep -Ev '^HPCNET_(ENV|LAUNCH)=' | sort"  # other tests have those
    script = f"{show}; echo; srun -N1 -n1 -w n1 {show}"
    job = cluster.sbatch(script, "--network=ib,mtu=9000", "-N2", "-w", "n[1-2]")
    assert cluster.finished(job) == "COMPLETED"
    batch, step = cluster.output(job).split("\n\n")
    assert batch.splitlines() == step.splitlines()
    found = dict(line.split("=", 1) for line in batch.splitlines())
    lease = cluster.lease(job)
    first = lease["ipv4"].partition("/")[0].rsplit(".", 1)
    assert found == {
        "HPCNET_JOB_ID": str(job),
        "HPCNET_MODE": "vxlan",
        "HPCNET_INTERFACE": "hpc0",
        "HPCNET_ADDRESS": f"{first[0]}.{int(first[1]) + 1}",
        "HPCNET_ADDRESS6": lease["ipv6"].replace("::/64", "::1"),
        "HPCNET_SUBNET": lease["ipv4"],
        "HPCNET_NETNS": f"hpcnet-{job}",
        "HPCNET_HOSTS": f"/run/hpcnet/jobs/{job}/hosts",
        "HPCNET_RANK": "0",
        "HPCNET_NODES": "2",
        "HPCNET_MTU": "9000",
    }


def test_the_batch_script_stays_in_the_hosts_network(cluster: Cluster) -> None:
    job = cluster.sbatch("ip -o link; squeue -h -j $SLURM_JOB_ID -o %A", "--network=ib", "-N2")
    assert cluster.finished(job) == "COMPLETED"
    *links, number = cluster.output(job).splitlines()
    assert names(links) == ["lo", "eth0", "ib0", f"hpce{job}"]
    assert int(number) == job


def test_a_job_that_did_not_ask_sees_the_hosts_network_and_starts_no_python(cluster: Cluster) -> None:
    logs = {host: cluster.log(host) for host in ("ctl", *NODES)}
    lines = cluster.srun("-N3", "sh", "-c", "ip -o link; env | grep -c ^HPCNET_ || true")
    assert sorted(set(names([line for line in lines if ":" in line]))) == ["eth0", "ib0", "lo"]
    assert [line for line in lines if ":" not in line] == ["0", "0", "0"]
    assert {host: cluster.log(host) for host in ("ctl", *NODES)} == logs


def test_a_network_word_that_is_not_ours_passes_untouched(cluster: Cluster) -> None:
    job = cluster.sbatch("true", "--network=sn_all,ib", "--comment=mine")
    cluster.finished(job)
    record = cluster.record(job)
    assert (record["Network"], record["Comment"]) == ("sn_all,ib", "mine")


def test_join_none_leaves_tasks_outside_with_the_variables(cluster: Cluster) -> None:
    lines = cluster.srun("-N1", "--network=ib,join=none,egress=none", "sh", "-c", "ip -o link; echo $HPCNET_NETNS")
    assert names(lines[:-1]) == ["lo", "eth0", "ib0"]
    assert re.fullmatch(r"hpcnet-\d+", lines[-1])


def test_nothing_is_sent_over_the_fabric_before_the_first_packet(cluster: Cluster) -> None:
    chain = "type filter hook egress device ib0 priority 0; udp dport 4789 counter"
    counter = f"table netdev seen {{\nchain out {{ {chain}\n}}\n}}\n"
    cluster.lab.run("n1", ["nft", "-f", "-"], stdin=counter)
    try:
        job = cluster.sbatch("srun sleep 3; srun ping -c1 -W2 -q n2", "--network=ib", "-w", "n[1-2]", "-N2")
        assert cluster.finished(job) == "COMPLETED", cluster.output(job)
        packets = re.search(r"packets (\d+)", cluster.root("n1", "nft", "list", "table", "netdev", "seen"))
        # n1's task asks once; n2's task pings itself, and that stays on n2: nothing came before or beside
        assert packets is not None and int(packets[1]) == 1
    finally:
        cluster.root("n1", "nft", "delete", "table", "netdev", "seen")


def test_the_first_ipv6_packet_is_answered_at_once(cluster: Cluster) -> None:
    first = "[ $SLURM_PROCID = 0 ] && exec ping -6 -c1 -W1 n2 || sleep 1"
    lines = cluster.srun("-w", "n[1-2]", "-N2", "--network=ib", "sh", "-c", first)
    [line] = [line for line in lines if "time=" in line]
    # neighbour discovery with its defaults takes about two seconds: -W1 would have ended without an answer
    assert "icmp_seq=1" in line


def test_check_finds_nothing_and_then_what_was_broken(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N3")
    assert cluster.root("n1", "hpcnet", "check").strip() == f"job {job}: ok"
    lease = cluster.lease(job)
    peer = lease["ipv4"].partition("/")[0].rsplit(".", 1)
    second = f"{peer[0]}.{int(peer[1]) + 2}"
    cluster.root("n1", "ip", "-n", f"hpcnet-{job}", "neigh", "del", second, "dev", "hpc0")
    cluster.root("n1", "ip", "-n", f"hpcnet-{job}", "addr", "add", "192.0.2.1/32", "dev", "hpc0")
    broken = cluster.lab.run("n1", ["hpcnet", "check", str(job), "--json"], check=False)
    [report] = json.loads(broken.stdout)
    assert broken.returncode == 1
    assert [line.split(" has ")[0] for line in report["missing"]] == [f"neighbour {second}"]
    assert report["foreign"] == ["address 192.0.2.1/32 on hpc0"]
