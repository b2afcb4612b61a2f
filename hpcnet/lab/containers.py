# SPDX-License-Identifier: Apache-2.0
"""Docker on the lab's nodes: its configuration, and a small image that is made here, from no registry."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from hpcnet.errors import LabError
from hpcnet.lab.host import Host
from hpcnet.lab.layout import Layout

_SECONDS = 300.0  # for one docker command; where the processor is emulated, the first took more than 60

IMAGE = "hpcnet-lab"
"""Name of the image on every node: busybox and iperf3."""


def daemon_json(data_root: Path) -> str:
    """dockerd's configuration: no network of its own, so that nothing but hpcnet gives containers one."""
    settings = {
        "data-root": str(data_root),
        "exec-root": "/run/docker",
        "pidfile": "/run/docker.pid",
        "hosts": ["unix:///run/docker.sock"],
        "group": "docker",
        "bridge": "none",
        "iptables": False,
        "ip-forward": False,
        "storage-driver": "overlay2",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
    }
    return json.dumps(settings, indent=1) + "\n"


def make_image(layout: Layout) -> None:
    """Write the image's root file system as a tar."""
    busybox, iperf3 = Path("/bin/busybox").resolve(), Path(shutil.which("iperf3") or "/usr/bin/iperf3")
    applets = _output([str(busybox), "--list"]).split()
    with tarfile.open(layout.image, "w") as tar:
        for directory in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin"):
            _add(tar, directory, type=tarfile.DIRTYPE, mode=0o1777 if directory == "tmp" else 0o755)
        tar.add(busybox, "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                _add(tar, f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox")
        tar.add(iperf3, "usr/bin/iperf3")
        for library in _libraries(iperf3):
            tar.add(library.resolve(), str(library).lstrip("/"))
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
        _add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")


def load_image(host: Host, layout: Layout) -> None:
    """Import the image on a node, unless its dockerd has it from before a reboot."""
    if host.run(["docker", "image", "inspect", IMAGE], timeout=_SECONDS).returncode == 0:
        return
    done = host.run(["docker", "import", "-c", 'CMD ["sh"]', str(layout.image), IMAGE], timeout=_SECONDS)
    if done.returncode:
        raise LabError(f"docker import failed on {host.name}: {done.stderr.strip()}")


def _libraries(program: Path) -> list[Path]:
    """The shared libraries of a program and its loader, by the paths at which it looks for them."""
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", _output(["ldd", str(program)]))]


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", **header: object) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o644, len(content)
    for key, value in header.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))
