# SPDX-License-Identifier: Apache-2.0
"""hpcnet-tui on a real job, typed into as a person would."""

from __future__ import annotations

from pathlib import Path

import pytest
import textual

from hpcnet.lab.layout import PREFIX
from tests.cluster.cluster import Cluster, eventually
from tests.cluster.test_stats import samplers, steps
from tests.tui.terminal import Terminal

pytestmark = pytest.mark.cluster

TRAFFIC = """
srun bash -c '
if [ $SLURM_PROCID = 0 ]; then exec timeout 60 iperf3 -s -1 -B $HPCNET_ADDRESS > /dev/null; fi
for try in {1..40}; do iperf3 -4 -c n1 -t 40 -b 800M > /dev/null && exit 0; sleep 0.3; done'
"""


def test_a_job_is_watched_from_its_begin_to_its_end(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(TRAFFIC, "--network=ib", "-N2", "-w", "n[1-2]")
    eventually("the job runs", lambda: cluster.state_of(job) == "RUNNING")
    terminal = Terminal(tmp_path / "tmux", tmp_path)
    try:
        # The lab's installation has what nodes need; Textual comes from beside this test.
        beside = str(Path(textual.__file__).parents[1])
        program = (
            f"exec env TERM=xterm-256color PYTHONPATH={beside} {PREFIX}/bin/python -m hpcnet.tui.main --interval 1"
        )
        words = ["sh", "-c", f"cd /tmp; {program}"]
        terminal.start(*cluster.lab.command("login", words, "alice"))
        terminal.wait("1 job ", str(job), "alice", "vxlan")
        # 800 Mbit/s is what iperf3 was told to send, and headers; a second in which it began has less
        terminal.wait_for(lambda text: any(f" {rate}M" in text for rate in range(790, 880)), "800 Mbit/s")
        terminal.press("Enter")
        terminal.wait("n1", "n2", "median", "10.128.")
        terminal.press("Enter")
        terminal.wait("hpc0", "hpcvx", f"namespace hpcnet-{job}", "received")
        terminal.press("Escape", "Escape")
        terminal.wait("1 job ")
        cluster.root("ctl", "scancel", str(job))
        terminal.wait("0 jobs", "no job has a network now")
        terminal.press("v")
        terminal.wait("ended")
        terminal.press("q")
        terminal.wait("exit code 0")
    finally:
        terminal.close()
    cluster.finished(job)
    own = f"hpcnet sample {job}"
    eventually("no step and no sampler is left", lambda: not steps(cluster, job) and own not in samplers(cluster))
