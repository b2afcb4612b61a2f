# SPDX-License-Identifier: Apache-2.0
"""Per-job container networks for Slurm clusters on InfiniBand."""

__version__ = "0.1.0"
