# SPDX-License-Identifier: Apache-2.0
"""The way out of a job's network, egress=host: what the node reaches, a task reaches, and nothing more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import NODES, Cluster, eventually
from tests.cluster.test_programs import nothing_runs

pytestmark = pytest.mark.cluster

CTL = "172.30.0.1"

# One answer for every question: the controller's address (RFC 1035).
DNS = f"""
import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 53))
while True:
    question, peer = udp.recvfrom(512)
    name = question[12:question.index(0, 12) + 5]
    if name[-4:-2] == b"\\0\\1":
        answer, count = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4" + socket.inet_aton("{CTL}"), b"\\0\\1"
    else:
        answer, count = b"", b"\\0\\0"
    udp.sendto(question[:2] + b"\\x81\\x80\\0\\1" + count + b"\\0\\0\\0\\0" + name + answer, peer)
"""
RESOLVER = f"nameserver {CTL}\noptions timeout:1 attempts:1\n"
GET = "import urllib.request as r; print(r.urlopen('http://{}:8080/', timeout=3).read().decode())"


class Servers:
    """Programs on hosts of the lab that end with the test."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, host: str, *argv: str) -> None:
        """Start one as root."""
        command = self._cluster.lab.command(host, list(argv))
        null = subprocess.DEVNULL
        self._running.append(subprocess.Popen(command, stdin=null, stdout=null, stderr=null))

    def serve(self, host: str, address: str, port: int) -> None:
        """An HTTP server that says its host's name; returns when it listens."""
        page = f"mkdir -p /run/page; echo page of {host} > /run/page/index.html; cd /run/page"
        self.start(host, "sh", "-c", f"{page}; exec python3 -m http.server -b {address} {port}")
        listens = f"ss -Hltn sport = :{port} | grep -q ."
        eventually(
            f"port {port} of {host}",
            lambda: self._cluster.lab.run(host, ["sh", "-c", listens], check=False).returncode == 0,
        )

    def close(self) -> None:
        """End them."""
        for process in self._running:
            process.terminate()
            process.wait()


@pytest.fixture
def servers(cluster: Cluster) -> Iterator[Servers]:
    """DNS and HTTP on the controller, which nodes ask."""
    before = {node: cluster.root(node, "cat", "/etc/resolv.conf") for node in NODES}
    made = Servers(cluster)
    try:
        made.start("ctl", "python3", "-c", DNS, CTL)
        made.serve("ctl", CTL, 8080)
        for node in NODES:
            cluster.lab.run(node, ["sh", "-c", "cat > /etc/resolv.conf"], stdin=RESOLVER)
        yield made
    finally:
        made.close()
        for node, text in before.items():
            cluster.lab.run(node, ["sh", "-c", "cat > /etc/resolv.conf"], stdin=text)


def task(cluster: Cluster, egress: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """What a command says in a task on n1 with or without a way out."""
    return cluster.run("srun", "-w", "n1", f"--network=ib,egress={egress}", *argv, check=False)


def test_names_are_resolved_by_the_dns_server_of_the_node(cluster: Cluster, servers: Servers) -> None:
    found = task(cluster, "host", "getent", "ahostsv4", "licence.lab.test")
    assert found.stdout.split()[0] == CTL
    assert task(cluster, "none", "getent", "ahostsv4", "licence.lab.test").returncode == 2


@pytest.fixture
def stub(cluster: Cluster, servers: Servers) -> Iterator[Cluster]:
    """n1 as with systemd-resolved: its resolv.conf is a link, and names a resolver on 127.0.0.53."""
    made = """
mkdir -p /run/systemd/resolve /run/other; echo "nameserver 127.0.0.53" > /run/systemd/resolve/stub-resolv.conf
mv /etc/resolv.conf /run/other/own; ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
"""
    cluster.root("n1", "sh", "-c", made)
    servers.start("n1", "python3", "-c", DNS, "127.0.0.53")
    try:
        resolves = ("getent", "ahostsv4", "licence.lab.test")
        eventually("n1 itself resolves", lambda: CTL in cluster.root("n1", *resolves, check=False))
        yield cluster
    finally:
        cluster.root(
            "n1", "sh", "-c", "rm /etc/resolv.conf; mv /run/other/own /etc/resolv.conf; rm -r /run/systemd"
        )
        cluster.lab.configure()


def test_names_are_resolved_where_the_node_has_a_resolver_on_its_loopback(stub: Cluster) -> None:
    resolve = ("getent", "ahostsv4", "licence.lab.test")
    assert task(stub, "host", *resolve).returncode == 2  # nobody says what is behind it
    real = f"nameserver fd00::53\n{RESOLVER}"
    stub.lab.run("n1", ["sh", "-c", "cat > /run/systemd/resolve/resolv.conf"], stdin=real)
    both = task(stub, "host", "sh", "-c", f"{' '.join(resolve)} | head -1; cat /etc/resolv.conf").stdout
    assert both.startswith(CTL) and both.endswith("\n" + RESOLVER)
    assert task(stub, "none", "cat", "/etc/resolv.conf").stdout == "nameserver 127.0.0.53\n"
    job = stub.hold("--network=ib", "-w", "n1")
    assert stub.root("n1", "hpcnet", "exec", str(job), "--", *resolve).split()[0] == CTL
    assert stub.root("n1", "cat", "/etc/resolv.conf") == "nameserver 127.0.0.53\n"


def test_a_resolv_conf_of_the_sites(stub: Cluster) -> None:
    stub.lab.configure(hpcnet={"egress": {"resolv_conf": "/run/other/own"}})
    assert task(stub, "host", "getent", "ahostsv4", "licence.lab.test").stdout.split()[0] == CTL
    stub.lab.configure(hpcnet={"egress": {"resolv_conf": "/run/other/absent"}})
    refused = task(stub, "host", "true")
    assert "[egress] resolv_conf = /run/other/absent: cannot be read: No such file or directory" in refused.stderr


@pytest.mark.parametrize("host", ["ctl", "licence.lab.test"])
def test_an_http_server_beyond_the_node(cluster: Cluster, servers: Servers, host: str) -> None:
    assert task(cluster, "host", "python3", "-c", GET.format(host)).stdout.strip() == "page of ctl"
    refused = task(cluster, "none", "python3", "-c", GET.format(host))
    assert refused.returncode != 0
    says = "Network is unreachable" if host == "ctl" else "Temporary failure in name resolution"
    assert says in refused.stderr


def test_slurms_commands(cluster: Cluster) -> None:
    said = task(cluster, "host", "sh", "-c", "squeue -h -o %A; echo $SLURM_JOB_ID").stdout.split()
    assert said[0] == said[1]
    refused = task(cluster, "none", "squeue", "-h")
    assert refused.returncode == 1
    assert "Unable to contact slurm controller" in refused.stderr


ENDLESS = f"""
import itertools, socket, time
server = socket.create_server(("{CTL}", 8081))
while True:
    peer = server.accept()[0]
    peer.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
    try:
        while True:
            peer.sendall(bytes(1 << 16))
            time.sleep(0.05)
    except OSError:
        peer.close()
"""


def test_nothing_is_left_of_a_download_that_was_cancelled(cluster: Cluster, servers: Servers) -> None:
    servers.start("ctl", "python3", "-c", ENDLESS)
    load = f"import urllib.request as r; f = r.urlopen('http://{CTL}:8081/')\n"
    load += "while f.read(1 << 16): print('got', flush=True)"
    job = cluster.sbatch(f'srun python3 -c "{load}"', "--network=ib", "-w", "n1")
    eventually("it loads", lambda: cluster.output(job).count("got") > 3)
    cluster.run("scancel", str(job))
    assert cluster.finished(job) == "CANCELLED"
    nothing_runs(cluster)


def test_what_a_nodes_firewall_forbids_stays_forbidden(cluster: Cluster, servers: Servers) -> None:
    servers.serve("n2", "172.30.1.2", 8080)
    get = ("python3", "-c", GET.format("172.30.1.2"))
    assert task(cluster, "host", *get).stdout.strip() == "page of n2"
    rule = "table inet site { chain input { type filter hook input priority 0; tcp dport 8080 drop; }; }"
    cluster.lab.run("n2", ["nft", "-f", "-"], stdin=rule)
    try:
        refused = task(cluster, "host", *get)
        assert refused.returncode != 0 and "timed out" in refused.stderr
    finally:
        cluster.root("n2", "nft", "delete", "table", "inet", "site")


def test_a_site_that_drops_what_it_does_not_know_lets_jobs_out_by_one_rule(
    cluster: Cluster, servers: Servers
) -> None:
    """The rule of docs/install.md, in a firewall whose policy is to drop."""
    policy = """
table inet site {
  chain forward { type filter hook forward priority 10; policy drop; ct state established,related accept
    %s
  }
  chain input {
    type filter hook input priority 10; policy drop;
    ct state established,related accept; iifname "lo" accept; iifname "ib0" accept; ip saddr 172.30.0.0/16 accept
  }
}"""
    get = ("python3", "-c", GET.format("ctl"))
    for rule, works in (("", False), ('iifname "hpce*" accept', True)):
        cluster.lab.run("n1", ["nft", "-f", "-"], stdin=policy % rule)
        try:
            assert (task(cluster, "host", *get).returncode == 0) is works
        finally:
            cluster.root("n1", "nft", "delete", "table", "inet", "site")


def test_peers_go_by_the_fabric_and_not_by_the_way_out(cluster: Cluster) -> None:
    count = "cat /sys/class/net/hpcout/statistics/[rt]x_packets"
    script = f"""
srun --overlap -N3 sh -c 'for n in n1 n2 n3; do ping -c3 -i0.2 -q $n > /dev/null || echo no $n; done; {count}'
"""
    job = cluster.sbatch(script, "--network=ib", "-N3")
    assert cluster.finished(job) == "COMPLETED", cluster.output(job)
    assert cluster.output(job).split() == ["0"] * 6


def test_what_a_program_is_told_is_its_address_is_the_one_that_peers_reach(cluster: Cluster) -> None:
    """Dask and Ray connect a UDP socket to a public address and ask which address it got."""
    ask = (
        "import os, socket; s = socket.socket(2, 2); s.connect(('8.8.8.8', 80)); "
        "print(s.getsockname()[0] == os.environ['HPCNET_ADDRESS'])"
    )
    assert task(cluster, "host", "python3", "-c", ask).stdout == "True\n"


def test_check_and_epilog_on_every_node(cluster: Cluster) -> None:
    job = cluster.hold("--network=ib", "-N3")
    for node in NODES:
        assert cluster.root(node, "hpcnet", "check").strip() == f"job {job}: ok"
    cluster.run("scancel", str(job))
    cluster.settle()
    cluster.assert_pristine()
