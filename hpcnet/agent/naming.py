# SPDX-License-Identifier: Apache-2.0
"""Which container has which of a job's addresses: Docker's driver is not told, so dockerd is asked, once for each.

Not while it starts, when dockerd waits for us, and not when counters are read: the name goes beside the address,
into the job's directory (:func:`hpcnet.slots.describe`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from hpcnet import slots
from hpcnet.config import Site
from hpcnet.errors import HpcnetError
from hpcnet.model import Endpoint
from hpcnet.runtimes import docker
from hpcnet.runtimes.engine import Engine

_PAUSES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds before each question: dockerd knows the name of an endpoint once its container has joined."""


def name_later(job_id: int, endpoint: Endpoint, owner: str, site: Callable[[], Site]) -> None:
    """Find the name of an endpoint's container in a thread, and write it down; who ends first gets none.

    ``owner`` is that of the endpoint's slot, and ends with Docker's id of the endpoint.
    """
    identity = owner.rpartition(" ")[2]

    def work() -> None:
        for pause in _PAUSES:
            time.sleep(pause)
            with contextlib.suppress(HpcnetError, OSError):
                settings = site().docker
                name = docker.container_of(job_id, identity, Engine(settings.socket, settings.deadline))
                if name:
                    slots.describe(job_id, endpoint.slot, owner, f"{endpoint.ipv4} {name}")
                    return

    threading.Thread(target=work, name=f"name of {endpoint.ipv4}", daemon=True).start()
