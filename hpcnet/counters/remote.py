# SPDX-License-Identifier: Apache-2.0
"""Counters over ssh, where neither steps nor agents are wanted: one connection to each node, with a sampler on it.

As root the sampler reads all jobs of the node, as anybody else those that he has processes of
(``reading.read_mine``).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from hpcnet import nodelist
from hpcnet.counters.steps import StepSource, refusal, sampler, watched
from hpcnet.counters.streams import Target

SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")
"""The rest is for ssh_config(5) to say."""


class SshSource(StepSource):
    """Samples over ssh; see hpcnet.counters.source.Source. The jobs are those that steps would show."""

    def _targets(
        self, interval: float, wanted: frozenset[int], lost: Mapping[str, frozenset[str]]
    ) -> dict[str, Target]:
        nodes: dict[str, set[int]] = {}
        targets = {}
        for network in watched(wanted, self.ask):
            job_id = network.job.id
            if refusal(network):
                targets[f"job {job_id}"] = Target(frozenset({job_id}), frozenset(), problem=refusal(network))
                continue
            for node in nodelist.expand(network.job.nodelist):
                nodes.setdefault(node, set()).add(job_id)
        for node, jobs in nodes.items():
            command = (*SSH, node, shlex.join(sampler("all", interval)))
            targets[f"node {node}"] = Target(frozenset(jobs), frozenset({node}), command, node=node)
        return targets
