# SPDX-License-Identifier: Apache-2.0
"""doctor finds what is wrong with Slurm's settings and with files, and says what to do."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.doctor import configured, doctor, edited, instead, only, slurmctld_says, undone, wrong

pytestmark = pytest.mark.cluster

LIBEXEC = "/opt/hpcnet/libexec/hpcnet"
PLUGIN = "/opt/hpcnet/lib/hpcnet/hpcnet_spank.so"


def test_a_slurm_conf_that_lacks_what_hpcnet_needs(cluster: Cluster) -> None:
    changed = {"PrologFlags": None, "PrologEpilogTimeout": "60", "JobSubmitPlugins": None, "Licenses": None}
    changed |= {"Epilog": "/bin/true", "PrologSlurmctld": None, "Prolog": "/opt/site/prolog"}
    cluster.lab.configure(slurm=changed)
    try:
        report = doctor(cluster, "n1")["findings"]
        settings = "\n".join(each["finding"] for each in report if each["check"] == "slurm.conf")
        hooks = {each["finding"]: each["status"] for each in report if each["check"] == "hooks"}
        on_login = wrong(cluster, "login")
        assert cluster.lab.run("ctl", ["hpcnet", "doctor"], check=False).returncode == 1
    finally:
        cluster.lab.configure()
    for part in ("no Alloc", "hooks may take 65 s", "has no lua", "no such licence", "PrologSlurmctld is not set"):
        assert part in settings
    assert hooks == {
        "Prolog=/opt/site/prolog cannot be run on this host": "fail",
        "Epilog=/bin/true says nothing of hpcnet": "warn",
    }
    assert list(on_login) == ["slurm.conf"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("s/^(PrologFlags *=) .*/\\1 Alloc,Contain/", "PrologFlags has no DeferBatch: batch scripts do not wait"),
        ("s/^(SLURM_VERSION *=) .*/\\1 22.05.8/", '"extra", which Slurm has from 23.02'),
        (
            "s/^(SLURM_VERSION *=) .*/\\1 24.11.5/; s/^(SchedulerParameters *=) .*/\\1 extra_constraints/",
            "SchedulerParameters has extra_constraints, which would parse it",
        ),
    ],
    ids=["DeferBatch", "extra of an old Slurm", "extra with constraints"],
)
def test_a_slurmctld_with_other_settings(cluster: Cluster, answer: str, says: str) -> None:
    """Its answer is changed on its way: nothing is restarted for it."""
    record = "-e '/^licence/s/$/\\nrecord = \"extra\"/'" if "SLURM_VERSION" in answer else "-e ''"
    with slurmctld_says(cluster, "n1", answer) as under, configured(cluster, "n1", f"sed -i {record}"):
        said = only(cluster, "n1", "slurm.conf", "fail", under=under)
    assert says in said and ("-> slurm.conf: PrologFlags=" in said or '-> hpcnet.toml: record = "auto"' in said)


def test_a_job_submit_lua_that_does_not_call_hpcnets(cluster: Cluster) -> None:
    script = cluster.lab.layout.host("ctl") / "etc/slurm/job_submit.lua"
    with instead(script, b"function slurm_job_submit() return slurm.SUCCESS end\n"):
        assert "job_submit.lua says nothing of hpcnet" in only(cluster, "ctl", "hooks", "fail")
    with instead(script, script.read_bytes() + b"function slurm_job_modify() return slurm.SUCCESS end\n"):
        assert "a slurm_job_modify of its own" in only(cluster, "ctl", "hooks", "fail")
    with edited(cluster, "ctl", "/etc/slurm/job_submit.lua", "rm /etc/slurm/job_submit.lua"):
        said = only(cluster, "ctl", "hooks", "fail")
        assert "/etc/slurm/job_submit.lua cannot be read -> install it" in said
    installed = cluster.lab.layout.prefix / "share/hpcnet/job_submit.lua"
    later = "touch -d '+1 minute' /opt/hpcnet/share/hpcnet/job_submit.lua"
    with undone(
        cluster, "ctl", later, "touch /opt/hpcnet/share/hpcnet/job_submit.lua; touch /etc/slurm/job_submit.lua"
    ):
        assert "-> touch /etc/slurm/job_submit.lua" in only(cluster, "ctl", "hooks", "warn")
    with instead(script, installed.read_bytes() + b"-- older\n"):
        assert "of another version" in only(cluster, "ctl", "hooks", "warn")
    assert wrong(cluster, "ctl") == {}


def test_a_plugin_for_another_release_of_another_version_or_none(cluster: Cluster) -> None:
    file = cluster.lab.layout.prefix / PLUGIN.removeprefix("/opt/hpcnet/")
    data = file.read_bytes()
    built = (22 << 16 | 5 << 8 | 8).to_bytes(4, "little")
    assert data.count(built) == 1 and data.count(b"0.1.0\0") == 1
    with instead(file, data.replace(built, (23 << 16 | 11 << 8).to_bytes(4, "little"))):
        assert "built for Slurm 23.11, and Slurm here is 22.05" in only(cluster, "login", "plugin", "fail")
    with instead(file, data.replace(b"0.1.0\0", b"0.0.9\0")):
        assert "is of hpcnet 0.0.9" in only(cluster, "n1", "plugin", "warn")
    with instead(file, b"#!/bin/sh\n" + data[10:]):
        assert "is no SPANK plugin" in only(cluster, "n1", "plugin", "fail")
    conf = "/etc/slurm/plugstack.conf"
    with edited(cluster, "n2", conf, f"rm {conf}"):
        said = only(cluster, "n2", "plugin", "fail")
        assert f"{conf}: No such file or directory: tasks would run in the node's network -> make it" in said
    stack = cluster.lab.layout.host("n2") / "etc/slurm/plugstack.conf"
    with instead(stack, f"optional {PLUGIN}\n".encode()):
        assert "is optional" in only(cluster, "n2", "plugin", "fail")
    with instead(stack, b"# none\n"):
        assert "does not name hpcnet_spank.so" in only(cluster, "n2", "plugin", "fail")
    with instead(stack, b"required /opt/site/hpcnet_spank.so\n"):
        assert "No such file" in only(cluster, "n2", "plugin", "fail")


def test_a_clock_that_is_wrong(cluster: Cluster) -> None:
    # One machine has one clock: slurmctld's answer is changed on its way.
    answer = r"s/^(Configuration data as of 1)[0-9]/\10/"
    with slurmctld_says(cluster, "n1", answer) as under:
        said = only(cluster, "n1", "clock", "fail", under=under)
    assert "this host's clock is ahead of slurmctld's by" in said and "-> run chrony" in said


def test_a_hook_that_cannot_be_run(cluster: Cluster) -> None:
    with undone(cluster, "n1", f"chmod a-x {LIBEXEC}/epilog", f"chmod a+x {LIBEXEC}/epilog"):
        assert f"Epilog={LIBEXEC}/epilog cannot be run" in only(cluster, "n1", "hooks", "fail")


def test_a_lease_store_that_is_not_slurms_or_is_damaged(cluster: Cluster) -> None:
    store = "/var/spool/slurmctld/other/hpcnet.sqlite"
    cluster.root("ctl", "install", "-d", "-o", "slurm", "-m", "0700", "/var/spool/slurmctld/other")
    cluster.lab.configure(hpcnet={"pool": {"store": store}})
    try:
        assert wrong(cluster, "ctl") == {}
        cluster.root(
            "ctl", "sh", "-c", f"head -c 9000 /dev/zero >{store}; chown slurm {store}; chmod 0600 {store}"
        )
        assert "lease store" in only(cluster, "ctl", "leases", "fail")
        cluster.root("ctl", "rm", store)
        cluster.root("ctl", "install", "-o", "slurm", "-m", "0600", "/dev/null", store)
        for command, undo, says in (
            ("chmod 0644", "chmod 0600", f"others can read who has which network -> chmod 0600 {store}"),
            ("chown root", "chown slurm", f"no job gets a lease -> chown slurm {store}"),
            ("chown bob", "chown slurm", "belongs to uid 20002, not to root or SlurmUser"),
        ):
            with undone(cluster, "ctl", f"{command} {store}", f"{undo} {store}"):
                status, finding, remedy = wrong(cluster, "ctl")["store"]
            assert status == "fail" and says in f"{finding} -> {remedy}"
        cluster.root("ctl", "rm", store)
        with undone(
            cluster, "ctl", "chown root /var/spool/slurmctld/other", "chown slurm /var/spool/slurmctld/other"
        ):
            assert "not to SlurmUser slurm" in only(cluster, "ctl", "store", "fail")
        with undone(cluster, "ctl", "chown root /var/log/hpcnet.log", "chown slurm /var/log/hpcnet.log"):
            assert "is not SlurmUser slurm's to write" in only(cluster, "ctl", "log", "warn")
        cluster.root("ctl", "rmdir", "/var/spool/slurmctld/other")
        assert "no job gets a lease" in only(cluster, "ctl", "store", "fail")
    finally:
        cluster.lab.configure()


def test_files_that_others_can_change(cluster: Cluster) -> None:
    for path, mode, check in (
        (f"{LIBEXEC}/prolog", "0757", "programs"),
        ("/opt/hpcnet/lib", "0777", "programs"),
        ("/etc/hpcnet/hpcnet.toml", "0666", "programs"),
        ("/run/hpcnet", "0777", "state"),
    ):
        before = cluster.root("n1", "stat", "-c", "%a", path).strip()
        with undone(cluster, "n1", f"chmod {mode} {path}", f"chmod {before} {path}"):
            said = only(cluster, "n1", check, "fail", "--local")
        assert f"{path} has mode {mode}: others than its owner can change it -> chmod go-w {path}" in said
    path = f"{LIBEXEC}/epilog"
    with undone(cluster, "n1", f"chown 20002 {path}", f"chown root {path}"):
        said = only(cluster, "n1", "programs", "fail", "--local")
    assert f"{path} belongs to uid 20002, not to root -> chown root {path}" in said


def test_a_token_of_the_metrics_that_is_not_there_or_is_everybodys(cluster: Cluster) -> None:
    token = "/etc/hpcnet/metrics.token"
    serving = "printf '[agent]\\nmetrics = \"127.0.0.1:9834\"\\n' >>"
    with configured(cluster, "n1", serving):
        said = only(cluster, "n1", "state", "fail", "--local")
        assert f"{token} is not there: hpcnet agent does not start -> (umask 077; openssl rand" in said
        with undone(cluster, "n1", f"echo 0123456789abcdef0123 >{token}; chmod 0644 {token}", f"rm {token}"):
            said = only(cluster, "n1", "state", "fail", "--local")
            assert f"{token} has mode 0644: others can read the counters of all jobs -> chmod 0600 {token}" in said
            cluster.root("n1", "chmod", "0600", token)
            assert wrong(cluster, "n1", "--local") == {}
