# SPDX-License-Identifier: Apache-2.0
"""UDP port 4789, held for the kernel from boot on: who can be on it too, who cannot, and what each is told.

(That no user takes it: tests/kernel/test_abuse.py. Docker swarm beside jobs: tests/cluster/test_isolation.py.)
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.hosts import Host, built, ended, job_environment, lease_of, plan_of, require_root, wait_for
from tests.kernel.test_filter import NOBODY, send
from tests.kernel.test_foreign import node_error

require_root()
pytestmark = pytest.mark.kernel

ENVIRONMENT = job_environment(lease_of(), "n[1-2]")
OWN_PORT = 14789
ANOTHER = f"[fabric]\nvxlan_port = {OWN_PORT}\n"
ONLY_DIRECT = '[offer]\nmodes = ["direct"]\n[direct]\nallow_shared = true\n[defaults]\nmode = "direct"\n'

# argv: port; exit code 1: it is taken
BIND = "import errno, socket, sys\ntry: socket.socket(2, 2).bind(('', int(sys.argv[1])))\n"
BIND += "except OSError as error: sys.exit(error.errno == errno.EADDRINUSE)"

# What "hpcnet doctor" says of the port, without the checks that need Slurm.
DOCTOR = """
from hpcnet import config
from hpcnet.doctor import vxlanport
from hpcnet.doctor.model import Host
for each in vxlanport.check_port(Host("n1", frozenset(), config.load())):
    print(f"{each.status}: {each.text} -> {each.remedy}")
"""

# Other users of VXLAN, and whether the kernel lets their devices share a socket with ours.
FORMS = {
    "id 42 dev ib0": True,
    "id 42 group 239.1.1.1 dev ib0": True,
    "id 42 dev ib0 noudpcsum udp6zerocsumtx remcsumtx": True,
    "id 42 local fd00::1 dev ib0": True,  # IPv6 has a socket of its own
    "external": False,  # as Open vSwitch makes it
    "external vnifilter": False,
    "external gpe": False,
    "id 42 gbp dev ib0": False,
    "id 42 udp6zerocsumrx dev ib0": False,
    "id 42 remcsumrx dev ib0": False,
}


def taken(host: Host, port: int = 4789) -> bool:
    """Whether no program can have the port."""
    return host.run("/usr/bin/python3", "-c", BIND, str(port), check=False).returncode == 1


def doctor(host: Host) -> str:
    """The one line of doctor's about the port."""
    [line] = host.python(DOCTOR).splitlines()
    return line


def comes_up(host: Host, form: str) -> bool:
    """Whether a VXLAN device of somebody else's on port 4789 can be made and brought up; it stays."""
    host.run("sh", "-c", f"ip link add theirs type vxlan {form} dstport 4789")
    done = host.run("ip", "link", "set", "theirs", "up", check=False)
    assert done.returncode == 0 or "Address already in use" in done.stderr
    return done.returncode == 0


@pytest.fixture
def unheld(hosts: list[Host]) -> Iterator[list[Host]]:
    """The hosts; on n1 "hpcnet filter load" did not run since the boot, as far as the port goes."""
    hosts[0].run("ip", "netns", "del", "hpcnet")
    wait_for(lambda: not taken(hosts[0]), "the port stays held")
    yield hosts
    hosts[0].run("ip", "link", "del", "theirs", check=False)
    assert hosts[0].hpcnet("filter", "load").stderr == ""


@pytest.fixture
def another_port(hosts: list[Host]) -> Iterator[list[Host]]:
    """The hosts, of a site whose hpcnet has a port of its own."""
    for host in hosts[:2]:
        host.configure(ANOTHER)
        assert host.hpcnet("filter", "load").stderr == ""
    yield hosts
    for host in hosts[:2]:
        for job in host.jobs():
            assert host.hook("epilog", {"SLURM_JOB_ID": str(job), "SLURM_JOB_UID": "0"}).returncode == 0
        host.run("ip", "link", "del", "theirs", check=False)
        host.configure()
        assert host.hpcnet("filter", "load").stderr == ""


@pytest.mark.parametrize("form", FORMS)
def test_who_has_the_port_and_who_shares_it(unheld: list[Host], form: str) -> None:
    host = unheld[0]
    # they are first
    assert comes_up(host, form)
    loaded = host.hpcnet("filter", "load")
    assert loaded.returncode == 0
    if FORMS[form]:
        assert loaded.stderr == "" and doctor(host).startswith("ok: ")
    else:
        assert "UDP port 4789 is a program's or another form of VXLAN device's already" in loaded.stderr
        assert "set [fabric] vxlan_port" in loaded.stderr
        said = doctor(host)
        assert said.startswith("fail: VXLAN device theirs in this host, VNI ")
        assert "takes UDP port 4789 in a form that hpcnet's cannot share: no job gets a network -> " in said
    # hpcnet is first
    host.run("ip", "link", "del", "theirs")
    assert host.hpcnet("filter", "load").stderr == ""
    assert comes_up(host, form) == FORMS[form]
    said = doctor(host)
    if FORMS[form]:
        assert said.startswith("ok: UDP port 4789 is held for jobs' networks, beside theirs")
    else:
        assert said.startswith("warn: VXLAN device theirs in this host, VNI ")
        assert "cannot come up: hpcnet holds UDP port 4789, in another form -> " in said
        assert "[fabric] vxlan_port" in said


def test_doctor_tells_of_a_port_that_nobody_holds_and_what_to_do(unheld: list[Host]) -> None:
    host = unheld[0]
    assert doctor(host).startswith("fail: UDP port 4789 is not held for jobs: any user can take it")
    assert "-> hpcnet filter load; systemctl enable hpcnet-filter" in doctor(host)
    host.hpcnet("filter", "load")
    assert doctor(host) == "ok: UDP port 4789 is held for jobs' networks -> "
    host.run("ip", "-n", "hpcnet", "link", "set", "hpcport", "down")
    assert doctor(host).startswith("fail: UDP port 4789 is not held for jobs")


def test_a_job_beside_an_external_vxlan_where_hpcnet_has_a_port_of_its_own(another_port: list[Host]) -> None:
    n1 = another_port[0]
    assert comes_up(n1, "external")
    built(another_port[:2], ENVIRONMENT)
    n1.in_job(17, "ping", "-c1", "-W1", "-q", str(plan_of(lease_of(), 2, "n2").tasks.ipv4))
    assert n1.hpcnet("check").stdout == "job 17: ok\n"
    assert doctor(n1) == f"ok: UDP port {OWN_PORT} is held for jobs' networks -> "
    # it is this port's packets that nobody forges
    assert send(n1, lease_of().vni, user=NOBODY, port=OWN_PORT) == "refused"
    assert send(n1, lease_of().vni, user=NOBODY) == ""


def test_a_network_on_another_port_is_replaced(another_port: list[Host]) -> None:
    built(another_port[:1], ENVIRONMENT)
    another_port[0].configure()
    built(another_port[:1], ENVIRONMENT)
    assert " dstport 4789 " in another_port[0].in_job(17, "ip", "-d", "link", "show", "hpcvx").stdout


def test_the_port_that_is_held_is_the_configured_one(another_port: list[Host]) -> None:
    host = another_port[0]
    assert taken(host, OWN_PORT) and not taken(host)
    host.configure(ONLY_DIRECT)
    assert host.hpcnet("filter", "load").stderr == ""
    assert not taken(host, OWN_PORT) and not taken(host)
    assert doctor(host) == "ok: not needed ([offer] modes) -> "


def test_filter_load_says_when_the_port_cannot_be_had_and_loads_all_the_same(unheld: list[Host]) -> None:
    hold = (
        "import socket\ns = socket.socket(2, 2); s.bind(('', 4789)); print('held', flush=True); sys.stdin.read()"
    )
    holder = unheld[0].start_python(hold)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    unheld[0].run("nft", "delete", "table", "inet", "hpcnet")
    loaded = unheld[0].hpcnet("filter", "load")
    assert ended(holder) == (0, "")
    assert loaded.returncode == 0
    [line] = loaded.stderr.splitlines()
    assert "the filter is loaded, but UDP port 4789 is a program's or another form of VXLAN device's" in line
    assert "vtep" in unheld[0].run("nft", "list", "table", "inet", "hpcnet").stdout


def test_a_vxlan_of_another_form_on_the_same_port_drains_the_node(unheld: list[Host]) -> None:
    assert comes_up(unheld[0], "id 77 dev ib0 gbp")
    before = unheld[0].state()
    message = node_error(unheld[0], ENVIRONMENT)
    assert "UDP port 4789 is in use on n1" in message and "[fabric] vxlan_port" in message
    assert unheld[0].state() == before


def test_a_program_that_holds_the_vxlan_port_drains_the_node(unheld: list[Host]) -> None:
    hold = "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    holder = unheld[0].start_python(hold + "s.bind(('', 4789)); print('held', flush=True); sys.stdin.read()")
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    before = unheld[0].state()
    message = node_error(unheld[0], ENVIRONMENT)
    assert "python3 (process " in doctor(unheld[0])
    assert ended(holder) == (0, "")
    assert "UDP port 4789 is in use on n1 by a program" in message
    assert unheld[0].state() == before
