# SPDX-License-Identifier: Apache-2.0
"""``hpcnet agent``: the node's service: Docker's driver, metrics where configured. Tasks' networks need none."""

from __future__ import annotations

import os
import signal
import socket
import threading

from hpcnet import config, journal, names
from hpcnet.agent.driver import Driver
from hpcnet.agent.metrics import MetricsServer
from hpcnet.agent.naming import name_later
from hpcnet.agent.server import Server
from hpcnet.config import Site


def run(config_file: str) -> int:
    """Serve until SIGTERM or SIGINT. Raises SiteError, NodeError."""
    site = config.load(config_file)
    journal.prepare()
    scraped = MetricsServer(site.agent) if site.agent.metrics else None

    def settings() -> Site:
        return config.load(config_file)

    driver = Driver(settings, lambda job, endpoint, owner: name_later(job, endpoint, owner, settings))
    with Server(names.DOCKER_PLUGIN, driver.answer) as server:
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if scraped:
            threading.Thread(target=scraped.serve_forever, daemon=True).start()
        _tell_systemd("READY=1")
        stopped.wait()
        server.shutdown()
    if scraped:
        scraped.shutdown()
        scraped.server_close()
    return 0


def _tell_systemd(state: str) -> None:
    """sd_notify(3), so that docker.service starts when its driver answers."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1))
