# SPDX-License-Identifier: Apache-2.0
"""The exception tree. Each error says who can act on it, and so decides a hook's exit code.

    HpcnetError
    ├── UserError    the job's owner: a bad option        (the job's tasks are refused, no node drains)
    ├── SiteError    the site: configuration, full pool   (the job's tasks are refused, no node drains)
    ├── NodeError    this node: uplink down, no VXLAN     (Prolog exits 1, Slurm drains the node)
    └── LabError     whoever runs the lab

A message is one line: what was wrong, what is allowed, what to do.
"""

from __future__ import annotations


class HpcnetError(Exception):
    """Base of all errors that hpcnet raises on purpose; its text is for a person to read."""


class UserError(HpcnetError):
    """The user asked for something that cannot be had."""


class SiteError(HpcnetError):
    """The site's configuration, pools or controller do not allow the job its network."""


class NodeError(HpcnetError):
    """This node cannot give a job its network; it wants an admin."""


class LabError(HpcnetError):
    """The lab could not do what was asked."""
