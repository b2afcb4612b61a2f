# SPDX-License-Identifier: Apache-2.0
"""sshd on nodes of the lab, for as long as a test wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from tests.cluster.cluster import Cluster, eventually
from tests.cluster.test_prometheus import running

_SSHD = """
HostKey /etc/ssh/lab
AuthorizedKeysFile /etc/ssh/keys/%u
StrictModes no
UsePAM no
PidFile none
"""
_SSH = """
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
IdentityFile /etc/ssh/%u
"""


@contextmanager
def serving(cluster: Cluster, nodes: Sequence[str], client: str, users: Sequence[str]) -> Iterator[None]:
    """sshd on ``nodes``, for ``users`` with keys that they have on the host ``client``."""
    made = "/etc/ssh/lab /etc/ssh/lab.pub /etc/ssh/keys /etc/ssh/lab.conf"
    here = " ".join(f"{user} {user}.pub" for user in users)
    cluster.root(client, "sh", "-c", f"cat > /etc/ssh/ssh_config.d/lab.conf <<'X'{_SSH}X")
    try:
        for node in nodes:
            script = f"mkdir -p /run/sshd /etc/ssh/keys; cat > /etc/ssh/lab.conf <<'X'{_SSHD}X"
            cluster.root(node, "sh", "-c", script + "\nssh-keygen -qt ed25519 -N '' -f /etc/ssh/lab")
        for user in users:
            make = f"cd /etc/ssh; ssh-keygen -qt ed25519 -N '' -f {user}; chown {user} {user}; cat {user}.pub"
            key = cluster.root(client, "sh", "-c", make)
            for node in nodes:
                cluster.root(node, "sh", "-c", f"echo '{key}' > /etc/ssh/keys/{user}")
        with ExitStack() as daemons:
            for node in nodes:
                daemons.enter_context(running(cluster, node, "/usr/sbin/sshd", "-D", "-f", "/etc/ssh/lab.conf"))
                eventually("sshd answers", partial(_answers, cluster, node, client, users[0]))
            yield
    finally:
        for node in nodes:
            cluster.root(node, "rm", "-rf", *made.split())
        cluster.root(client, "sh", "-c", f"cd /etc/ssh; rm -f {here} ssh_config.d/lab.conf")


def _answers(cluster: Cluster, node: str, client: str, user: str) -> bool:
    return cluster.run("ssh", node, "true", user=user, on=client, check=False).returncode == 0
