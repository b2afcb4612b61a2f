# SPDX-License-Identifier: Apache-2.0
"""What bob passes to programs that root or SlurmUser run: options, names, variables, files in their way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, eventually
from tests.cluster.scene import Scene

pytestmark = pytest.mark.cluster

OPTIONS = [
    *("ib,mtu=\n9000", "ib,mtu=٩٠٠٠", "ib,mode=$(touch /tmp/bob-ran)", "ib,mode=`touch /tmp/bob-ran`"),
    *(
        "ib,mode=;touch /tmp/bob-ran;",
        "ib,mode=../../../tmp/bob",
        "ib,mode=%s%s%n%n",
        "ib,%n=%s",
        "ib,mode=\x1b[2J",
    ),
    *(
        "ib,mode=vxlan hpcnet:lease::v=1",
        "ib,mode='vxlan'",
        "ib,hpcnet:lease:=1",
        "ib," + "x" * 900,
        "ib," + "%s" * 120,
    ),
]
ONE_BY_ONE = """
import subprocess, json, sys
for option in json.load(sys.stdin):
    for command in (['sbatch', '--wrap', 'true'], ['srun', 'true']):
        done = subprocess.run([*command[:1], f'--network={option}', *command[1:]], capture_output=True, text=True)
        print(json.dumps([option, done.returncode, done.stdout, done.stderr.splitlines()]))
"""


def test_nasty_options_are_refused_in_one_line_and_nothing_is_run(scene: Scene) -> None:
    _, said = scene.on("login", "python3", "-c", ONE_BY_ONE, stdin=json.dumps(OPTIONS), check=True)
    results = [json.loads(line) for line in said.splitlines()]
    assert len(results) == 2 * len(OPTIONS)
    for option, exit_code, out, (first, *rest) in results:
        assert exit_code != 0 and out == "", option
        assert "error: --network=ib: " in first and first.isprintable() and len(rest) == 1, (option, first)
    assert scene.on("login", "ls", "/tmp/bob-ran")[0] != 0
    assert scene.cluster.root("ctl", "squeue", "-h", "-u", "bob", "-o", "%i").split() == [str(scene.bob)]


HOSTILE = r"$'\x01\x1b[2J\x9b\" \\ \n\r\t\xff\xfe{} %s %n \u202e \u2028 end'"


def test_hostile_names_and_comments_break_nobodys_list(scene: Scene) -> None:
    words = f"--comment={HOSTILE} --job-name={HOSTILE} --network=ib --hold --parsable -o /dev/null --wrap true"
    job = scene.on("login", "bash", "-c", f"sbatch {words}", check=True)[1].strip()
    try:
        for argv in (
            ("list",),
            ("show", job),
            ("list", "--json"),
            ("show", str(scene.alice)),
            ("stats", "--once"),
        ):
            done = scene.cluster.run("hpcnet", *argv)
            assert all(line.isprintable() for line in done.stdout.splitlines()), done.stdout
            assert "Traceback" not in done.stderr and "internal error" not in done.stderr
        assert f"\n{scene.alice} " in scene.cluster.run("hpcnet", "list").stdout
    finally:
        scene.cluster.root("ctl", "scancel", job)


SUBMIT = r"""
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* submit FIELD VALUE [PAD]: what no option of sbatch can pass; VALUE is followed by so many x */
int main(int argc, char **argv)
{
	static char *environment[] = { "PATH=/usr/bin:/bin", NULL }, *spank[2];
	size_t pad = argc > 3 ? strtoul(argv[3], NULL, 10) : 0, length = strlen(argv[2]);
	char *value = calloc(1, length + pad + 1), *field = argv[1];
	submit_response_msg_t *response;
	job_desc_msg_t job;

	memset(memcpy(value, argv[2], length) + length, 'x', pad);
	slurm_init_job_desc_msg(&job);
	job.environment = environment, job.env_size = 1;
	job.script = "#!/bin/sh\nexec sleep 60\n", job.work_dir = "/tmp", job.std_out = "/dev/null";
	job.user_id = getuid(), job.group_id = getgid(), job.min_nodes = 1, job.network = "ib";
	if (!strcmp(field, "network")) job.network = value;
	if (!strcmp(field, "comment")) job.comment = value;
	if (!strcmp(field, "admin_comment")) job.admin_comment = value;
	if (!strcmp(field, "spank")) spank[0] = value, job.spank_job_env = spank, job.spank_job_env_size = 1;
	if (slurm_submit_batch_job(&job, &response)) {
		printf("refused: %s\n", slurm_strerror(slurm_get_errno()));
		return 1;
	}
	printf("%u\n", response->job_id);
	return 0;
}
"""


@pytest.fixture(scope="module")
def submit(_lab: Cluster) -> str:
    """A program of bob's that speaks to slurmctld by itself."""
    home = _lab.lab.layout.home("bob")
    (home / "submit.c").write_text(SUBMIT)
    _lab.run("sh", "-c", "cd; cc -o submit submit.c -lslurm", user="bob")
    return "/home/bob/submit"


@pytest.mark.parametrize(
    ("field", "value", "pad", "says"),
    [
        ("network", "ib,", 1 << 20, "the option is 1048579 bytes long; at most 256"),
        ("comment", "hpcnet:lease::v=1 ", 1 << 20, "with a job network at most 511"),
        ("admin_comment", "hpcnet:lease::v=1", 0, "refused: Access/permission denied"),
    ],
)
def test_what_only_a_program_can_pass_is_refused_in_one_line(
    scene: Scene, submit: str, field: str, value: str, pad: int, says: str
) -> None:
    code, said = scene.on("login", submit, field, value, str(pad))
    assert code == 1 and says in said and len(said.splitlines()) <= 2
    assert all(len(line) < 300 for line in said.splitlines())


MARK = """
import os
try:
    open('/tmp/bob-ran-as', 'a').write(f'{os.getuid()} python\\n')
except OSError:
    pass
"""
PRELOAD = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void mark(void)
{
	int fd = open("/tmp/bob-ran-as", O_WRONLY | O_APPEND);

	if (fd >= 0) { dprintf(fd, "%d preloaded\n", (int)geteuid()); close(fd); }
}
"""


def test_root_runs_nothing_of_a_users_environment(scene: Scene, submit: str) -> None:
    """Each trap notes who ran into it: bob's own programs do, and nobody else's."""
    home = scene.cluster.lab.layout.home("bob")
    bin_, lib = home / "bin", home / "lib"
    for directory in (bin_, lib / "hpcnet"):
        directory.mkdir(parents=True, exist_ok=True)
    for name in ("nft", "ip", "env", "python", "python3", "scontrol", "squeue", "logger", "sh", "true"):
        (bin_ / name).write_text("#!/bin/bash\necho $EUID $0 >> /tmp/bob-ran-as\n")
        (bin_ / name).chmod(0o755)
    for name in ("sitecustomize.py", "usercustomize.py", "startup.py", "json.py", "hpcnet/__init__.py"):
        (lib / name).write_text(MARK)
    (home / "rc.sh").write_text("echo $EUID $0 >> /tmp/bob-ran-as\n")
    (home / "mark.c").write_text(PRELOAD)
    make = "cd; cc -shared -fPIC -o mark.so mark.c; : > /tmp/bob-ran-as; chmod 666 /tmp/bob-ran-as"
    scene.on("login", "sh", "-c", make, check=True)
    traps = {
        "PATH": "/home/bob/bin:/usr/bin:/bin",
        "LD_PRELOAD": "/home/bob/mark.so",
        "LD_LIBRARY_PATH": "/home/bob",
        "PYTHONPATH": "/home/bob/lib",
        "PYTHONSTARTUP": "/home/bob/lib/startup.py",
        "BASH_ENV": "/home/bob/rc.sh",
        "ENV": "/home/bob/rc.sh",
        "HPCNET_TRACEBACK": "1",
        "IFS": "/",
        "PS4": "$(echo $EUID ps4 >> /tmp/bob-ran-as)",
        "SHELLOPTS": "xtrace",
        "BASH_FUNC_exec%%": "() { echo $EUID exec >> /tmp/bob-ran-as; }",
    }
    words = [f"{key}={value}" for key, value in traps.items()]
    script = "#!/bin/bash\nPATH=/usr/bin:/bin\nsrun true\n"
    submit_it = ("/usr/bin/env", *words, "/usr/bin/sbatch", "--parsable", "-o/dev/null", "-wn3", "--network=ib")
    jobs = [
        scene.on("login", *submit_it, "--chdir=/home/bob/lib", stdin=script, check=True)[1].split()[-1],
        # Slurm itself puts SPANK_ before a variable that comes this way
        scene.on("login", submit, "spank", "LD_PRELOAD=/home/bob/mark.so", check=True)[1].strip(),
    ]
    eventually("its Prolog has run", lambda: scene.cluster.state_of(jobs[1]) == "RUNNING")
    scene.cluster.root("ctl", "scancel", jobs[1])
    for job in jobs:
        scene.cluster.finished(job)
    # and root at work in bob's directory
    for command in ("hpcnet list", "hpcnet check", "hpcnet cleanup --dry-run", "hpcnet show 1"):
        scene.cluster.root("n3", "sh", "-c", f"cd /home/bob/lib && {command}", check=False)
    ran = [line.split() for line in scene.on("login", "cat", "/tmp/bob-ran-as")[1].splitlines()]
    assert {"20002"} == {who for who, *_ in ran}, ran
    assert "preloaded" in {what for _, *rest in ran for what in rest}, "the traps do not work"


CHECKOUT = str(Path(__file__).parents[2])  # which the lab's hpcnet is
WRITABLE = re.compile(r"^/(tmp|var/tmp|dev/shm|home|run/lock|var/lock|run/user|var/crash)(/|$)")


TRACE = "strace -f -qq -y -s 300 -o /run/trace.{} -e trace=file,%net,setuid,setresuid,setreuid"
PATHS = re.compile(
    r'"(/[^"]*)"|<(/[^>]*)>, "([^/"][^"]*)"'
)  # the latter: what a directory has, the current one too
COMMANDS = {
    "check": "hpcnet check",
    "show": "hpcnet show {job}",
    "stats": "hpcnet stats {job} --once",
    "exec": "hpcnet exec {job} -- true",
    "list": "hpcnet list",
    "plan": "hpcnet plan --nodes n[1-3] ib",
    "doctor": "hpcnet doctor",
    "cleanup": "hpcnet cleanup --min-age 0",
    "filter": "hpcnet filter load",
    "agent": "timeout 1 hpcnet agent",
}
"""What root types on a node, here with bob's directory as the current one."""


def test_root_code_opens_nothing_that_a_user_could_plant(scene: Scene) -> None:
    """Both daemons with hooks, slurmstepds and our plugin, and root's commands beside the job, under strace."""
    cluster = scene.cluster
    daemons = {"ctl": "slurmctld", "n3": "slurmd"}
    for host, daemon in daemons.items():
        processes = f"$(pgrep -x '{daemon}|slurmscriptd' | sed 's/^/-p /')"  # that one runs slurmctld's hooks
        cluster.root(host, "sh", "-c", f"{TRACE.format(daemon)} {processes} > /dev/null 2>&1 & sleep 0.5")
    try:
        script = "srun true; until [ -e /tmp/bob-may-go ]; do sleep 0.1; done"
        words = ("--network=ib,egress=host", "-w", "n3", "--chdir=/", "-o/dev/null")
        job = cluster.sbatch(script, *words, user="bob")
        eventually("its network is built", lambda: cluster.state_of(job) == "RUNNING")
        for name, command in COMMANDS.items():
            traced = f"cd /home/bob && {TRACE.format(name)} {command.format(job=job)} > /dev/null 2>&1"
            cluster.root("n3", "sh", "-c", traced, check=False)
        scene.on("n3", "touch", "/tmp/bob-may-go")
        assert cluster.finished(job) == "COMPLETED"
        eventually("its Epilog is done", lambda: cluster.node_states()["n3"] == "idle")
    finally:
        for host in daemons:
            cluster.root(host, "pkill", "-x", "strace", check=False)
        scene.on("n3", "rm", "-f", "/tmp/bob-may-go")
    opened = {daemon: _opened(cluster, host, daemon) for host, daemon in daemons.items()}
    opened.update((name, _opened(cluster, "n3", name)) for name in COMMANDS)
    assert all(opened.values()), "something was not traced"
    assert "/run/hpcnet/lock" in opened["slurmd"]
    assert any("hpcnet_spank.so" in path for path in opened["slurmd"])
    assert any("hpcnet.sqlite" in path for path in opened["slurmctld"])
    seen = {path for paths in opened.values() for path in paths if not path.startswith(CHECKOUT)}
    assert {path for path in seen if WRITABLE.match(path)} <= {"/home/bob"}, "more than where they are"


def _opened(cluster: Cluster, host: str, name: str) -> set[str]:
    """Paths in calls of processes that are not bob's tasks."""
    text = cluster.root(host, "cat", f"/run/trace.{name}")
    cluster.root(host, "rm", f"/run/trace.{name}")
    users: set[str] = set()  # numbers of processes
    paths: set[str] = set()
    for line in text.splitlines():
        process = line.split()[0]
        if re.search(r"set(re|res)?uid\((-1, )?20002", line):
            users.add(process)  # a task, from here on
        if process not in users:
            paths.update(path or f"{at}/{below}" for path, at, below in PATHS.findall(line))
    return paths
