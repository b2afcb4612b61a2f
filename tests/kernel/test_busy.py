# SPDX-License-Identifier: Apache-2.0
"""Hooks on a node whose interfaces come and go, as udev, NetworkManager and Docker make them, and where somebody
holds the lock that the kernel has for all interfaces (rtnl)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.hosts import (
    Host,
    SlowNft,
    built,
    ended,
    job_environment,
    lease_of,
    removed,
    require_root,
    wait_for,
)

require_root()
pytestmark = pytest.mark.kernel

ENVIRONMENT = job_environment(lease_of(egress="host"), "n[1-2]")
BESIDE = job_environment(lease_of(3), "n[1-2]", 18)
LATE = "not finished after 4 seconds ([hooks] deadline)"

# 200 interfaces of the host's own, of which one half is made while the other is there, until stdin is closed
STORM = """
import select, subprocess

def ip(*lines):
    subprocess.run(["ip", "-force", "-batch", "-"], input="\\n".join(lines), text=True, check=True)

def make(group):
    pairs = [(f"s{group}-{n}", f"t{group}-{n}") for n in range(50)]
    ip(*(f"link add {one} group {group} up type veth peer name {other}" for one, other in pairs))

make(77)
print("made", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    make(78)
    ip("link del group 77")
    make(77)
    ip("link del group 78")
ip("link del group 77")
"""

# SIOCGIFCONF writes into its caller's memory under the lock: a page that is not there yet (userfaultfd(2)) holds
# it until stdin is closed.
HOLD = """
import ctypes, fcntl, mmap, os, select, socket, struct, threading

libc = ctypes.CDLL(None, use_errno=True)
faults = libc.syscall({"x86_64": 323, "aarch64": 282}[os.uname().machine], os.O_CLOEXEC)
assert faults >= 0, os.strerror(ctypes.get_errno())
memory = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(faults, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))  # UFFDIO_API
fcntl.ioctl(faults, 0xC020AA00, struct.pack("QQQQ", address, 4096, 1, 0))  # UFFDIO_REGISTER, missing pages
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
request = struct.pack("iiQ", 4096, 0, address)
asker = threading.Thread(target=lambda: libc.ioctl(asking.fileno(), 0x8912, request))
asker.start()
os.read(faults, 32)
print("held", flush=True)
select.select([sys.stdin], [], [], 20)
fcntl.ioctl(faults, 0xC020AA04, struct.pack("QQQQ", address, 4096, 0, 0))  # UFFDIO_ZEROPAGE
asker.join()
"""


@pytest.fixture
def storm(hosts: list[Host]) -> Iterator[Host]:
    """n1, where interfaces come and go all the time."""
    process = hosts[0].start_python(STORM)
    assert process.stdout and process.stdout.readline() == "made\n"
    yield hosts[0]
    assert ended(process) == (0, "")


def test_hooks_among_interfaces_that_come_and_go(hosts: list[Host], storm: Host) -> None:
    for _ in range(3):
        built([storm], ENVIRONMENT)
        removed([storm], ENVIRONMENT)


def _alarmed(process: subprocess.Popen[str]) -> bool:
    """Whether SIGALRM waits for the process, which is in the kernel: proc_pid_status(5)."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    pending = status.partition("ShdPnd:")[2].split()[0]
    return bool(int(pending, 16) & 1 << 13)


def test_hooks_that_the_kernels_lock_holds_up_past_the_deadline(hosts: list[Host], slow_nft: SlowNft) -> None:
    host = hosts[0]
    before = host.state()
    built([host], BESIDE)
    host.configure(deadline=4)
    slow_nft.hold()
    prolog = host.start_hook("prolog", ENVIRONMENT)
    slow_nft.wait_until_called()
    holder = host.start_python(HOLD)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    slow_nft.go_on()
    epilog = host.start_hook("epilog", BESIDE)
    # on a slow machine the Prolog's alarm came before the lock: then it is its roll-back that waits
    late = time.monotonic() + 6
    wait_for(lambda: _alarmed(prolog) or time.monotonic() > late, "no alarm")
    wait_for(lambda: _alarmed(epilog) or time.monotonic() > late, "no alarm")
    assert ended(holder) == (0, "")
    code, errors = ended(prolog)
    assert code == 1 and f"job 17: {LATE}" in errors and len(errors.splitlines()) == 1
    code, errors = ended(epilog)
    assert len(errors.splitlines()) == 1
    assert code == 0 or "job 18: its network may still carry traffic: " in errors
    host.configure()
    removed([host], BESIDE)
    assert host.state() == before
