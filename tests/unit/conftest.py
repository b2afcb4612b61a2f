# SPDX-License-Identifier: Apache-2.0
"""Property tests have no clock: how long one example takes says something of the machine only."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no-clock", deadline=None)
settings.load_profile("no-clock")
