# SPDX-License-Identifier: Apache-2.0
"""Install hpcnet at /opt/hpcnet of the lab's hosts, as a site would: a venv, the hooks, the SPANK plugin.

Everything is copied: SlurmUser and the lab's users run it, and may not be able to enter the checkout.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path

import hpcnet
from hpcnet.errors import LabError
from hpcnet.lab.host import Host
from hpcnet.lab.layout import PREFIX, Layout

_DEPENDENCIES = ("pyroute2", "tomli")
_ENTRY_POINT = f"""#!{PREFIX}/bin/python -I
import sys

from hpcnet.cli.main import main

sys.exit(main())
"""


def spank_hooks() -> Path:
    """The hooks' sources beside the hpcnet package. Raises LabError when there are none (a wheel)."""
    directory = Path(hpcnet.__file__).resolve().parent.parent / "spank_hooks"
    if not (directory / "Makefile").exists():
        raise LabError(f"{directory} is not there: the lab runs from a checkout of hpcnet (pip install -e .)")
    return directory


def install(layout: Layout, host: Host) -> None:
    """Fill the installation that all hosts share, working on one of them."""
    _checked(host, ["/usr/bin/python3", "-m", "venv", "--without-pip", PREFIX])
    for name in _DEPENDENCIES:
        _copy_distribution(name, _packages(layout))
    script = layout.prefix / "bin" / "hpcnet"
    script.write_text(_ENTRY_POINT, encoding="ascii")
    script.chmod(0o755)
    reinstall(layout, host)


def reinstall(layout: Layout, host: Host) -> None:
    """Bring the installation up to the checkout: the package, the hooks, the SPANK plugin."""
    package = _packages(layout) / "hpcnet"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(Path(hpcnet.__file__).parent, package)
    # What was copied with its compiled files is skipped: the copy keeps the times.
    _checked(host, [f"{PREFIX}/bin/python", "-m", "compileall", "-q", f"{PREFIX}/lib"])
    # Built outside the checkout, so that labs beside each other do not build in one directory. Where compiling is
    # slow (tools/ipoib-vm) the plugin is found built.
    build = os.environ.get("HPCNET_LAB_BUILD") or str(layout.root / "build")
    _checked(host, ["make", "-s", "-C", str(spank_hooks()), "install", f"PREFIX={PREFIX}", f"BUILD={build}"])


def load_filter(host: Host) -> None:
    """What a site's boot does on every host of the fabric: the packet filter, before anybody logs in."""
    _checked(host, [f"{PREFIX}/bin/hpcnet", "filter", "load"])


def _packages(layout: Layout) -> Path:
    [packages] = layout.prefix.glob("lib/python3*/site-packages")
    return packages


def _copy_distribution(name: str, packages: Path) -> None:
    """Copy an installed distribution, compiled files and all."""
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or ():
        source, target = Path(str(file.locate())), packages / file
        if ".." in file.parts or not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _checked(host: Host, argv: list[str]) -> None:
    done = host.run(argv, timeout=600)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise LabError(f"installation failed: {' '.join(argv)}\n{words}")
