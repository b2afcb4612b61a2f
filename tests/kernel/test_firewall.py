# SPDX-License-Identifier: Apache-2.0
"""What doctor reads out of nftables' rules is what the kernel does with a packet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpcnet.doctor.firewall import DROPPED, PASSED, UNKNOWN, judge
from hpcnet.kernel import nft
from tests.kernel.hosts import Host

pytestmark = pytest.mark.kernel

CHAIN = "add chain inet site input { type filter hook input priority 0; policy %s; }\n"
RULE = "add rule inet site input "
OTHER = "add chain inet site other\n"

# Rules of a host, and what becomes of a packet to UDP port 4789 that comes in by ib0; UNKNOWN: nobody says.
RULES = {
    "nothing": ("", PASSED),
    "a policy of accept": (CHAIN % "accept", PASSED),
    "a policy of drop": (CHAIN % "drop", DROPPED),
    "accepted by port": (CHAIN % "drop" + RULE + "udp dport 4789 accept", PASSED),
    "accepted by a set of ports": (CHAIN % "drop" + RULE + "udp dport { 53, 4000-5000 } accept", PASSED),
    "another port": (CHAIN % "drop" + RULE + "udp dport { 53, 5000-6000 } accept", DROPPED),
    "another protocol": (CHAIN % "drop" + RULE + "tcp dport 4789 accept", DROPPED),
    "any protocol's port": (CHAIN % "drop" + RULE + "meta l4proto { tcp, udp } th dport 4789 accept", PASSED),
    "by interface": (CHAIN % "drop" + RULE + 'iifname "ib*" accept', PASSED),
    "by another interface": (CHAIN % "drop" + RULE + 'iifname { "lo", "eth0" } accept', DROPPED),
    "all but an interface": (CHAIN % "accept" + RULE + 'iifname != "lo" drop', DROPPED),
    "not a new connection": (CHAIN % "drop" + RULE + "ct state established,related accept", DROPPED),
    "a verdict map": (CHAIN % "accept" + RULE + "ct state vmap { established : accept, new : drop }", DROPPED),
    "a verdict map without it": (CHAIN % "accept" + RULE + "ct state vmap { invalid : drop }", PASSED),
    "rejected": (CHAIN % "accept" + RULE + "counter log reject with icmpx admin-prohibited", DROPPED),
    "IPv6 only": (CHAIN % "accept" + RULE + "meta nfproto ipv6 drop", PASSED),
    "a jump that comes back": (
        CHAIN % "drop"
        + OTHER
        + "add rule inet site other tcp dport 22 drop\n"
        + RULE
        + "jump other\n"
        + RULE
        + "accept",
        PASSED,
    ),
    "a goto that does not": (
        CHAIN % "drop"
        + OTHER
        + "add rule inet site other tcp dport 22 drop\n"
        + RULE
        + "goto other\n"
        + RULE
        + "accept",
        DROPPED,
    ),
    "a jump that drops": (
        CHAIN % "accept" + OTHER + 'add rule inet site other iifname "ib0" drop\n' + RULE + "jump other",
        DROPPED,
    ),
    "a return": (CHAIN % "drop" + RULE + "udp dport 4789 return\n" + RULE + "accept", DROPPED),
    "an earlier hook": (
        "add chain inet site early { type filter hook prerouting priority -300; }\n"
        "add rule inet site early udp dport 4789 drop\n",
        DROPPED,
    ),
    "a table of family ip": (
        "add table ip old\nadd chain ip old input { type filter hook input priority 0; policy drop; }\n",
        DROPPED,
    ),
    "by an address that doctor does not know": (CHAIN % "drop" + RULE + "ip saddr 192.0.2.1 accept", UNKNOWN),
    "an address, and dropped either way": (
        CHAIN % "drop" + RULE + "ip saddr 192.0.2.1 drop\n" + RULE + "udp dport 4789 drop",
        DROPPED,
    ),
    "by payload": (CHAIN % "accept" + RULE + "@th,96,24 0x000001 drop", UNKNOWN),
    "a limit": (CHAIN % "accept" + RULE + "udp dport 4789 limit rate over 5/second drop", UNKNOWN),
}

_LISTEN = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.bind(("", 4789))
    print("ready", flush=True)
    for line in iter(input, "end"):
        here.settimeout(float(line))
        try:
            print(here.recv(100).decode(), flush=True)
        except OSError:
            print("nothing", flush=True)
"""


class Pair:
    """A host with rules and a socket on port 4789, and another one that sends to it."""

    def __init__(self) -> None:
        self.host, self.peer = Host("here"), Host("there")
        peer = ("peer", "name", "ib0", "netns", str(self.peer.pid))
        self.host.run("ip", "link", "add", "ib0", "type", "veth", *peer)
        for number, each in enumerate((self.host, self.peer), 1):
            each.run("ip", "addr", "add", f"192.0.2.{number}0/24", "dev", "ib0")
            each.run("ip", "link", "set", "ib0", "up")
        self._listener = self.host.start_python(_LISTEN)
        assert self._read() == "ready"

    def rules(self, text: str) -> None:
        """Have these rules, and no others."""
        self.host.run("nft", "-f", "-", text=f"flush ruleset\nadd table inet site\n{text}")

    def ruleset(self) -> str:
        """As JSON."""
        return self.host.run("nft", "--json", "--terse", "list", "ruleset").stdout

    def arrives(self, word: str, seconds: float) -> bool:
        """Whether a packet with this word comes to the socket."""
        script = (
            "import socket, sys; s = socket.socket(2, 2); s.sendto(sys.argv[1].encode(), ('192.0.2.10', 4789))"
        )
        self.peer.python(script, word)
        return self._tell(seconds) == word

    def _tell(self, seconds: float) -> str:
        assert self._listener.stdin is not None
        self._listener.stdin.write(f"{seconds}\n")
        self._listener.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._listener.stdout is not None
        return self._listener.stdout.readline().strip()

    def close(self) -> None:
        """End both."""
        self._listener.communicate("end\n", timeout=60)
        for each in (self.host, self.peer):
            each.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_the_rules_are_followed_as_the_kernel_does(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    packet = {"iifname": "ib0", "protocol": "udp", "dport": 4789, "state": "new"}
    answers = {}
    for number, (what, (rules, _)) in enumerate(RULES.items()):
        pair.rules(rules)
        done = (0, pair.ruleset(), "")
        monkeypatch.setattr(nft, "_run", lambda *words, done=done: done)
        answer = judge(nft.ruleset(), "input", packet)
        # one that passes after all, and late, would be taken for the next one
        if answer.verdict != UNKNOWN:
            arrives = pair.arrives(f"{number}", 10.0 if answer.verdict == PASSED else 0.05)
            assert arrives == (answer.verdict == PASSED), what
        assert (answer.where == "") == (answer.verdict == PASSED), what
        answers[what] = answer.verdict
    assert answers == {what: verdict for what, (_, verdict) in RULES.items()}
    pair.rules("")
    assert pair.arrives("last", 10.0), "a packet that should have been dropped came late"


def test_tables_of_ones_own_are_passed_over(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.rules(CHAIN % "drop")
    done = (0, pair.ruleset(), "")
    monkeypatch.setattr(nft, "_run", lambda *words: done)
    assert judge(nft.ruleset(), "input", {}).where == "inet site input"
    assert judge(nft.ruleset(), "input", {}, own=["site"]).verdict == PASSED
    assert judge(nft.ruleset(), "forward", {}).verdict == PASSED
