# SPDX-License-Identifier: Apache-2.0
"""Which way to the counters a viewer takes.

source = transport("auto", "/etc/hpcnet/hpcnet.toml")
source.everybodys                   # whether it shows other users' jobs too
"""

from __future__ import annotations

from typing import Protocol

from hpcnet.counters.source import Source
from hpcnet.errors import SiteError
from hpcnet.slurm.networks import JobList

AUTO, SRUN, AGENT, SSH = TRANSPORTS = ("auto", "srun", "agent", "ssh")


class Transport(Source, Protocol):
    """A Source of the cluster's own jobs."""

    everybodys: bool
    """Whether this caller sees all users' jobs, root or not."""

    @property
    def ask(self) -> JobList:
        """Asks Slurm for jobs, no oftener than a viewer may."""
        ...


def transport(name: str, config_file: str) -> Transport:
    """The one of that name; ``auto``: the agents where this user may ask them, else steps. Raises SiteError."""
    # What is not used is not imported: a screen waits for it.
    if name == SSH:
        from hpcnet.counters.remote import SshSource

        return SshSource()
    if name in (AUTO, AGENT):
        from hpcnet import config
        from hpcnet.counters.agents import AgentSource

        try:
            return AgentSource(config.load(config_file).agent)
        except SiteError:
            if name == AGENT:
                raise
    from hpcnet.counters.steps import StepSource

    return StepSource()
