# SPDX-License-Identifier: Apache-2.0
"""The lab itself, in directories of its own: the labs of other tests stay as they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcnet.errors import LabError
from hpcnet.lab import etcfiles
from hpcnet.lab.cluster import Lab, Options
from hpcnet.lab.state import Process, State

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root"),
]


def command(directory: Path, *argv: str) -> list[str]:
    # What a shell started in the background ignores SIGINT, and all that it starts: not so this.
    env = ["env", "--default-signal=INT", f"HPCNET_LAB={directory}"]
    return [*env, sys.executable, "-m", "hpcnet.lab.command", *argv]


def hpcnet_lab(directory: Path, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(directory, *argv), input=stdin, capture_output=True, text=True, timeout=120)


class Machine:
    """What the machine has, to be compared before and after."""

    def __init__(self) -> None:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        self.mounts = {line.split()[4] for line in lines}
        self.links = {path.name for path in Path("/sys/class/net").iterdir()}
        netns = Path("/run/netns")
        self.netns = {path.name for path in netns.iterdir()} if netns.exists() else set()


def namespaces_of(lab: Lab) -> set[str]:
    """The network, mount, UTS and pid namespaces of the lab's hosts."""
    kinds = ("net", "mnt", "uts", "pid")
    return {os.readlink(f"/proc/{host['pid']}/ns/{kind}") for host in lab.status()["hosts"] for kind in kinds}


def processes_in(namespaces: set[str]) -> list[str]:
    """Command lines of the processes in any of the namespaces."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            own = {os.readlink(entry) for entry in (process / "ns").iterdir()}
            if own & namespaces:
                found.append((process / "cmdline").read_text(encoding="utf-8").replace("\0", " "))
        except OSError:
            continue
    return found


def assert_nothing_left(directory: Path, before: Machine, groups: list[str]) -> None:
    assert not directory.exists()
    assert not [group for group in groups if Path(group).exists()]
    after = Machine()
    assert not after.mounts - before.mounts
    assert not after.links - before.links
    assert not after.netns - before.netns
    mentions = [
        process.name
        for process in Path("/proc").glob("[0-9]*")
        if str(directory).encode() in read_bytes(process / "cmdline")
    ]
    assert not mentions


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that this module may break and mend."""
    lab = Lab.at(tmp_path_factory.mktemp("lab") / "it")
    lab.up(Options(nodes=2))
    yield lab
    lab.down()


def test_up_run_down_leaves_nothing(tmp_path: Path) -> None:
    directory, before = tmp_path / "lab", Machine()
    up = hpcnet_lab(directory, "up", "--nodes", "2", "--fabric-mtu", "4092", "--json")
    assert up.returncode == 0, up.stderr
    assert "lab: hosts" in up.stderr
    status = json.loads(up.stdout)
    assert [host["name"] for host in status["hosts"]] == ["switch", "ctl", "login", "n1", "n2"]
    assert all(daemon["alive"] for host in status["hosts"] for daemon in host["daemons"])

    again = hpcnet_lab(directory, "up")
    assert (again.returncode, "is up already" in again.stderr) == (0, True)

    srun = hpcnet_lab(directory, "run", "--user", "alice", "--", "srun", "-N2", "hostname")
    assert sorted(srun.stdout.split()) == ["n1", "n2"], srun.stderr
    link = hpcnet_lab(directory, "run", "--on", "n1", "--", "cat", "/sys/class/net/ib0/mtu")
    assert link.stdout == "4092\n"
    # A namespace that somebody pins in a host's own /run/netns goes with the host.
    assert hpcnet_lab(directory, "run", "--on", "n2", "--", "ip", "netns", "add", "left").returncode == 0

    running = Lab.at(directory)
    namespaces = namespaces_of(running)
    assert processes_in(namespaces)
    groups = [group for record in running.state().hosts.values() for group in record.cgroups]
    down = hpcnet_lab(directory, "down")
    assert (down.returncode, down.stdout, down.stderr) == (0, "", "")
    assert processes_in(namespaces) == []
    assert_nothing_left(directory, before, groups)

    assert hpcnet_lab(directory, "down").returncode == 0
    gone = hpcnet_lab(directory, "status")
    assert gone.returncode == 1
    assert gone.stderr.startswith("hpcnet lab: no lab is up at ")


@pytest.mark.parametrize("seconds", [0.12, 0.2, 0.3, 0.4, 0.55, 0.75, 0.95])
def test_killed_up_is_cleaned_by_down(tmp_path: Path, seconds: float) -> None:
    directory, before = tmp_path / "lab", Machine()
    up = subprocess.Popen(command(directory, "up"), stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    up.kill()
    up.wait()
    state = directory / "state.json"
    half = State.load(state) if state.exists() else None
    groups = [group for record in half.hosts.values() for group in record.cgroups] if half else []
    if half and half.phase != "up":
        refused = hpcnet_lab(directory, "up")
        assert (refused.returncode, "half-built" in refused.stderr) == (1, True)
    assert hpcnet_lab(directory, "down").returncode == 0
    assert_nothing_left(directory, before, groups)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_up_takes_itself_down(tmp_path: Path, number: signal.Signals) -> None:
    directory, before = tmp_path / "lab", Machine()
    up = subprocess.Popen(command(directory, "up"), stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    up.send_signal(number)
    _, words = up.communicate(timeout=30)
    assert up.returncode == 128 + number
    assert "Traceback" not in words
    assert_nothing_left(directory, before, [])


def test_daemon_that_does_not_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, before = tmp_path / "lab", Machine()
    monkeypatch.setattr(etcfiles, "slurm_conf", lambda nodes, changes: "ClusterName=lab\nNonsense=1\n")
    with pytest.raises(LabError) as caught:
        Lab.at(directory).up(Options(nodes=1))
    assert "slurmctld did not start on ctl" in str(caught.value)
    assert "Nonsense" in str(caught.value)
    assert_nothing_left(directory, before, [])


def test_open_files_of_the_caller_are_not_kept(tmp_path: Path) -> None:
    """Else "hpcnet lab up | cat" would not return."""
    argv = command(tmp_path / "lab", "up", "--nodes", "1")
    read, write = os.pipe()
    subprocess.run(argv, pass_fds=[write], stdout=write, stderr=write, check=True, timeout=60)
    os.close(write)
    try:
        with os.fdopen(read, "rb") as pipe:
            os.set_blocking(read, False)
            assert pipe.read().endswith(b" s\n")
            assert pipe.read() == b"", "somebody holds the pipe"
    finally:
        assert hpcnet_lab(tmp_path / "lab", "down").returncode == 0


def test_down_spares_a_directory_that_is_not_a_lab(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years", encoding="ascii")
    for verb in ("up", "down"):
        refused = hpcnet_lab(tmp_path, verb)
        assert (refused.returncode, "not a lab's directory" in refused.stderr) == (1, True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("directory", ["relative", "/etc/lab", "/run/lab", "/tmp/a:b", "/tmp/../etc/lab"])
def test_unusable_directories(directory: str) -> None:
    refused = hpcnet_lab(Path(directory), "up")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"hpcnet lab: lab directory {directory}: ")


def test_a_reused_pid_is_not_killed() -> None:
    mine = Process.of(os.getpid())
    assert mine.alive()
    assert not Process(mine.pid, mine.start - 1).alive()


def test_exit_codes(lab: Lab) -> None:
    directory = lab.layout.root
    assert hpcnet_lab(directory, "run", "--", "sh", "-c", "exit 7").returncode == 7
    assert hpcnet_lab(directory, "run", "--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    missing = hpcnet_lab(directory, "run", "--", "no-such-command")
    assert (missing.returncode, missing.stderr) == (127, "no-such-command: No such file or directory\n")
    assert hpcnet_lab(directory, "run", "--on").returncode == 2
    assert hpcnet_lab(directory, "run").returncode == 2
    assert hpcnet_lab(directory, "run", "--on", "n1", "echo", "-n", "--", "x").stdout == "-- x"
    assert hpcnet_lab(directory, "up", "--nodes", "many").returncode == 2


def test_unknown_host_and_user_list_what_exists(lab: Lab) -> None:
    host = hpcnet_lab(lab.layout.root, "run", "--on", "n9", "--", "true")
    assert (host.returncode, host.stderr) == (
        1,
        "hpcnet lab: no host n9; hosts: switch, ctl, login, n1, n2\n",
    )
    user = hpcnet_lab(lab.layout.root, "run", "--user", "carol", "--", "true")
    assert (user.returncode, user.stderr) == (1, "hpcnet lab: no user carol; users: root, alice, bob\n")


def test_stdin_and_clean_environment(lab: Lab) -> None:
    assert hpcnet_lab(lab.layout.root, "run", "--", "cat", stdin="a line\n").stdout == "a line\n"
    os.environ["LEAK"] = "1"
    try:
        done = hpcnet_lab(
            lab.layout.root, "run", "--user", "alice", "--", "sh", "-c", "env; id; command -v hpcnet"
        )
    finally:
        del os.environ["LEAK"]
    assert "LEAK" not in done.stdout
    assert "HOME=/home/alice\n" in done.stdout
    assert "uid=20001(alice) gid=20001(alice) groups=20001(alice)" in done.stdout
    assert done.stdout.endswith("/opt/hpcnet/bin/hpcnet\n")


def test_current_directory_is_kept_if_the_user_may_be_there(lab: Lab, tmp_path: Path) -> None:
    def where(user: str) -> str:
        argv = command(lab.layout.root, "run", "--user", user, "--", "pwd")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
        return done.stdout.strip()

    tmp_path.chmod(0o700)
    assert where("root") == str(tmp_path)
    assert where("alice") == "/home/alice"


def test_signals_reach_the_command(lab: Lab) -> None:
    script = "trap 'echo trapped; exit 5' INT; echo ready; sleep 30 & wait"
    argv = command(lab.layout.root, "run", "--", "sh", "-c", script)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "trapped\n"
        assert process.wait(timeout=20) == 5  # before sleep ends


def test_command_dies_with_its_caller(lab: Lab) -> None:
    process = subprocess.Popen(
        lab.command("n1", ["sh", "-c", "echo ready; exec sleep 777"]), stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    deadline = time.monotonic() + 5
    while "sleep 777" in (seen := lab.run("n1", ["ps", "ax"]).stdout) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "sleep 777" not in seen


def test_hosts_are_apart(lab: Lab) -> None:
    script = "hostname; cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/net /proc/self/ns/mnt"
    seen = {host: lab.run(host, ["sh", "-c", script]).stdout.split() for host in ("ctl", "login", "n1", "n2")}
    assert [words[0] for words in seen.values()] == list(seen)
    for number in range(1, 4):
        assert len({words[number] for words in seen.values()}) == len(seen)
    lab.run("n1", ["sh", "-c", "echo mark >/etc/mark; echo mark >/run/mark; echo mark >/var/log/mark"])
    for path in ("/etc/mark", "/run/mark", "/var/log/mark"):
        assert not Path(path).exists()
        assert lab.run("n2", ["test", "-e", path], check=False).returncode == 1


def test_users_are_not_on_the_machine(lab: Lab) -> None:
    assert "alice" in lab.run("n2", ["getent", "passwd", "alice"]).stdout
    assert "alice:" not in Path("/etc/passwd").read_text(encoding="utf-8")
    lab.run("login", ["sh", "-c", "echo mine >~/file"], user="alice")
    assert lab.run("n1", ["cat", "/home/alice/file"], user="alice").stdout == "mine\n"
    assert lab.run("n1", ["cat", "/home/alice/file"], user="bob", check=False).returncode == 1


def test_networks(lab: Lab) -> None:
    for target in ("n2", "n2-ib", "ctl", "login-ib"):
        argv = ["busybox", "ping", "-c1", "-W2", target]
        assert lab.run("n1", argv).returncode == 0
    assert lab.run("n1", ["cat", "/sys/class/net/eth0/mtu"]).stdout == "1500\n"
    assert lab.run("n1", ["cat", "/sys/class/net/ib0/mtu"]).stdout == "65520\n"


def test_several_jobs_share_a_node(lab: Lab) -> None:
    script = "for i in 1 2 3; do srun -n1 -w n1 sh -c 'date +%s%N; sleep 1; date +%s%N' & done; wait"
    times = sorted(int(word) for word in lab.run("login", ["sh", "-c", script], user="alice").stdout.split())
    assert times[2] < times[3], "the three jobs ran one after another"


def test_salloc_gives_a_shell_on_the_node(lab: Lab) -> None:
    done = lab.run("login", ["salloc", "-Q", "-w", "n2"], user="bob", stdin="hostname\n")
    assert done.stdout.split() == ["n2"]


def test_killed_daemon_comes_back(lab: Lab) -> None:
    lab.stop_daemon("ctl", "slurmctld", signal.SIGKILL)
    assert not next(h for h in lab.status()["hosts"] if h["name"] == "ctl")["daemons"][0]["alive"]
    lab.start_daemon("ctl", "slurmctld")
    with pytest.raises(LabError, match="slurmctld runs on ctl already"):
        lab.start_daemon("ctl", "slurmctld")
    with pytest.raises(LabError, match="host ctl runs no slurmd; it runs: slurmctld"):
        lab.restart("slurmd", "ctl")
    lab.restart("slurmd", "n1", signal.SIGKILL)
    assert "slurmd started" in lab.log("n1", "slurmd")
    # A killed slurmctld may have forgotten that a job had ended.
    for user in ("alice", "bob"):
        lab.run("ctl", ["scancel", "-u", user])
    lab.await_idle()


def test_configure_and_back(lab: Lab) -> None:
    lab.configure(slurm={"Licenses": "hpcnet:2", "KillWait": "7"}, hpcnet={"pool": {"vni": [9000, 9001]}})
    shown = lab.run("login", ["scontrol", "show", "config"]).stdout
    assert "KillWait                = 7 sec" in shown
    toml = lab.run("n2", ["cat", "/etc/hpcnet/hpcnet.toml"]).stdout
    assert "vni = [9000, 9001]\n" in toml
    assert "cooldown = 1\n" in toml
    lab.configure()
    assert "vni" not in lab.run("n2", ["cat", "/etc/hpcnet/hpcnet.toml"]).stdout


def test_reboot(lab: Lab) -> None:
    before = lab.run("n2", ["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    lab.run("n2", ["touch", "/run/volatile", "/var/spool/durable"])
    lab.reboot("n2")
    assert lab.run("n2", ["cat", "/proc/sys/kernel/random/boot_id"]).stdout != before
    kept = lab.run("n2", ["sh", "-c", "ls /run/volatile /var/spool/durable"], check=False).stdout
    assert kept == "/var/spool/durable\n"
    assert lab.run("login", ["srun", "-w", "n2", "hostname"], user="alice").stdout == "n2\n"


def test_power_off(lab: Lab) -> None:
    # A node that dies while a job completes on it is asked again after a minute only.
    lab.await_idle()
    lab.power_off("n2")
    with pytest.raises(LabError, match="host n2 is off"):
        lab.run("n2", ["true"])
    assert "(off)" in hpcnet_lab(lab.layout.root, "status").stdout
    assert lab.run("n1", ["busybox", "ping", "-c1", "-W1", "n2"], check=False).returncode == 1
    with pytest.raises(LabError, match="login is no compute node; nodes: n1, n2"):
        lab.power_off("login")
    lab.reboot("n2")
    lab.await_idle(["n2"])


def test_two_labs_beside_each_other(lab: Lab, tmp_path: Path) -> None:
    other = Lab.at(tmp_path / "lab")
    other.up(Options(nodes=1))
    try:
        assert other.run("login", ["srun", "hostname"], user="alice").stdout == "n1\n"
        assert lab.run("login", ["srun", "-N2", "hostname"], user="alice").returncode == 0
    finally:
        other.down()
    assert lab.run("login", ["srun", "-N2", "hostname"], user="alice").returncode == 0


def test_docker_on_every_node(tmp_path: Path) -> None:
    directory, before = tmp_path / "lab", Machine()
    lab = Lab.at(directory)
    lab.up(Options(nodes=2, docker=True))
    try:
        groups = [group for record in lab.state().hosts.values() for group in record.cgroups]
        run = ["docker", "run", "--rm", "--network=none", "hpcnet-lab"]
        for node in ("n1", "n2"):
            assert lab.run(node, [*run, "ip", "-o", "link"]).stdout.startswith("1: lo:")
            assert "iperf 3" in lab.run(node, [*run, "iperf3", "--version"], user="alice").stdout
        # Left running on purpose: it must end with its node.
        lab.run("n1", ["docker", "run", "-d", "--network=none", "hpcnet-lab", "sleep", "600"])
        namespaces = namespaces_of(lab)
    finally:
        lab.down()
    assert processes_in(namespaces) == []
    assert_nothing_left(directory, before, groups)
