# SPDX-License-Identifier: Apache-2.0
"""The four hooks as Slurm runs them: installed by make, under dash; their interpreter notes what it was given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DASH = shutil.which("dash") or "/bin/dash"
SOURCES = Path(__file__).resolve().parents[2] / "spank_hooks"
ACTIONS = {
    "prolog": "prolog",
    "epilog": "epilog",
    "prolog_slurmctld": "prolog-slurmctld",
    "epilog_slurmctld": "epilog-slurmctld",
}
START = "import sys; from hpcnet.cli.main import main; sys.exit(main())"
FIXED = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
AWKWARD = "two words\nnew line 'single' \"double\" $HOME `id` \\ * é hpcnet:v1,n=1"

# Every variable that a hook hands on, each with a value that a careless shell would change.
LISTED = {
    name: f"{name} {AWKWARD}"
    for name in (
        "SLURM_JOB_UID",
        "SLURM_JOB_GID",
        "SLURM_JOB_USER",
        "SLURM_JOB_ACCOUNT",
        "SLURM_JOB_PARTITION",
        "SLURM_JOB_NUM_NODES",
        "SLURM_JOB_NODELIST",
        "SLURM_NODELIST",
        "SLURMD_NODENAME",
        "SLURM_CLUSTER_NAME",
        "SLURM_CONF",
        "SLURM_SCRIPT_CONTEXT",
        "SLURM_JOB_COMMENT",
        "SLURM_JOB_EXTRA",
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_RESTART_COUNT",
        "SLURM_JOB_RESTART_COUNT",
    )
}
LISTED["SLURM_JOB_ID"] = "4000000017"

pytestmark = pytest.mark.skipif(not Path(DASH).exists(), reason="dash is not installed")


class Installed:
    """The hooks under ``prefix``, and what their interpreter was given."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prefix = root / "opt"
        self.given = root / "given.json"
        self.python = root / "bin" / "python"
        self.python.parent.mkdir()
        self.python.write_text(
            f"#!{sys.executable} -IS\n"
            "import json, os, sys\n"
            f"given = {{'argv': sys.argv[1:], 'cwd': os.getcwd(), 'env': dict(os.environ)}}\n"
            f"open({str(self.given)!r}, 'x').write(json.dumps(given))\n"
            "sys.exit(7)\n",
            encoding="utf-8",
        )
        self.python.chmod(0o755)

    def run(self, hook: str, environment: dict[str, str], *own: str) -> subprocess.CompletedProcess[str]:
        command = [DASH, str(self.prefix / "libexec" / "hpcnet" / hook), *own]
        return subprocess.run(
            command, env=environment, cwd=self.root, capture_output=True, text=True, check=False, timeout=60
        )

    def started(self) -> bool:
        return self.given.exists()

    def interpreter(self) -> dict[str, object]:
        given: dict[str, object] = json.loads(self.given.read_text(encoding="utf-8"))
        return given


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    site = Installed(tmp_path)
    libexec = site.prefix / "libexec" / "hpcnet"
    libexec.mkdir(parents=True)
    # The lines of the Makefile's install, without the C compiler.
    recipe = subprocess.run(
        ["make", "-n", "-C", str(SOURCES), "install", f"PREFIX={site.prefix}", f"PYTHON={site.python}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", "")
    [lines] = [line for line in recipe.splitlines() if "@HOOK@" in line]
    subprocess.run(["sh", "-c", lines], check=True)
    return site


@pytest.mark.parametrize("hook", ACTIONS)
def test_a_job_that_did_not_ask_starts_nothing(installed: Installed, hook: str) -> None:
    others = {"SLURM_JOB_ID": "4000000017", "SLURM_JOB_EXTRA": "rack=7", "SLURM_JOB_COMMENT": "my hpcnet run"}
    for environment in ({}, {"SLURM_JOB_ID": "4000000017"}, others):
        done = installed.run(hook, environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not installed.started()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("hook", ACTIONS)
def test_a_job_that_did_not_ask_forks_nothing(installed: Installed, hook: str) -> None:
    script = installed.prefix / "libexec" / "hpcnet" / hook
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=process", DASH, str(script)],
        env={"SLURM_JOB_ID": "4000000017"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("execve(") == 1
    assert "fork(" not in done.stderr
    assert "clone" not in done.stderr


@pytest.mark.parametrize("hook", ACTIONS)
@pytest.mark.parametrize("field", ["SLURM_JOB_EXTRA", "SLURM_JOB_COMMENT"])
def test_either_field_of_the_record_will_do(installed: Installed, hook: str, field: str) -> None:
    done = installed.run(hook, {"SLURM_JOB_ID": "4000000017", field: "the user's own text hpcnet:v1,n=1"})
    # the interpreter's own exit code; but for PrologSlurmctld one that breaks must not cost the job its life
    assert done.returncode == (0 if hook == "prolog_slurmctld" else 7)
    given = installed.interpreter()
    assert given["argv"] == ["-I", "-c", START, ACTIONS[hook]]
    assert given["cwd"] == "/"


def test_of_its_own_arguments_only_profile_goes_on(installed: Installed) -> None:
    for own, handed_on in (("--profile", ["--profile"]), ("--other", []), ("", [])):
        installed.run("prolog", {"SLURM_JOB_ID": "4000000017", "SLURM_JOB_COMMENT": "hpcnet:v1"}, own)
        assert installed.interpreter()["argv"] == ["-I", "-c", START, "prolog", *handed_on]
        installed.given.unlink()


@pytest.mark.parametrize("hook", ACTIONS)
def test_the_listed_variables_pass_unchanged_and_no_others(installed: Installed, hook: str) -> None:
    unlisted = {
        "LD_PRELOAD": "",
        "PYTHONPATH": "/home/u",
        "HOME": "/home/u",
        "SPANK_X": "1",
        "SLURM_JOB_WORK_DIR": "/home/u",
        "IFS": "S",
        "ENV": "/home/u/.profile",
        "PATH": "/home/u/bin",
        "name": "x",
        "hook": "x",
        "python": "/bin/false",
    }
    installed.run(hook, {**unlisted, **LISTED})
    given = installed.interpreter()
    assert given["env"] == {**FIXED, **LISTED}


@pytest.mark.parametrize("hook", ACTIONS)
def test_unset_is_not_empty(installed: Installed, hook: str) -> None:
    environment = {"SLURM_JOB_ID": "4000000017", "SLURM_JOB_EXTRA": "", "SLURM_JOB_COMMENT": "hpcnet:v1"}
    installed.run(hook, environment)
    given = installed.interpreter()
    assert given["env"] == {**FIXED, **environment}


@pytest.mark.parametrize(
    ("hook", "code"), [("prolog", 1), ("epilog", 1), ("prolog_slurmctld", 0), ("epilog_slurmctld", 1)]
)
def test_a_missing_interpreter_is_said_and_paid_for(installed: Installed, hook: str, code: int) -> None:
    installed.python.unlink()
    done = installed.run(hook, {"SLURM_JOB_ID": "4000000017", "SLURM_JOB_COMMENT": "hpcnet:v1"})
    assert done.returncode == code
    assert f"hpcnet {hook}: job 4000000017: no interpreter at {installed.python}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a directory in /run: needs root")
def test_an_epilog_without_the_record_goes_by_what_the_node_holds(installed: Installed) -> None:
    job_id = str(3_900_000_000 + os.getpid())
    state = Path("/run/hpcnet/jobs") / job_id
    made = [path for path in (state, *state.parents) if not path.exists()]
    state.mkdir(parents=True)
    try:
        assert installed.run("prolog", {"SLURM_JOB_ID": job_id}).returncode == 0
        assert not installed.started()
        assert installed.run("epilog", {"SLURM_JOB_ID": job_id}).returncode == 7
        assert installed.started()
    finally:
        for path in made:
            path.rmdir()


def test_the_folder_shows_the_names_that_sites_look_for() -> None:
    for hook in ACTIONS:
        assert (SOURCES / hook).samefile(SOURCES / "hook")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("hook", ACTIONS)
def test_shellcheck_finds_nothing(installed: Installed, hook: str) -> None:
    script = installed.prefix / "libexec" / "hpcnet" / hook
    done = subprocess.run(["shellcheck", "-s", "dash", str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
