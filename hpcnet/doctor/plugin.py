# SPDX-License-Identifier: Apache-2.0
"""plugstack.conf, and the SPANK plugin that it names: for which Slurm it was built, of which hpcnet it is.

The file is read, not loaded: loading would run it, and doctor may be root's.
Source: spank(8), PLUGSTACK; slurm/spank.h, SPANK_PLUGIN; the System V ABI's ELF chapters, elf(5).
"""

from __future__ import annotations

import glob
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcnet import __version__
from hpcnet.doctor.model import Finding, Host, fail, ok, warn
from hpcnet.slurm import configuration

NAME = "hpcnet_spank.so"

_DYNAMIC_SYMBOLS = 11  # SHT_DYNSYM
_DEPTH = 8  # of includes
_INSTALL = "make -C spank_hooks install PREFIX=/opt/hpcnet"


@dataclass(frozen=True)
class Line:
    """A plugin's line of plugstack.conf: required or optional, and its file."""

    word: str
    plugin: str


@dataclass(frozen=True)
class Plugin:
    """What the file says of itself."""

    slurm: tuple[int, int]
    """Major and minor number of the release that it was built for."""
    hpcnet: str
    """Empty: an older one, which does not say."""


def check_plugin(host: Host) -> Iterable[Finding]:
    """The stack of this host, and the plugin in it."""
    path = stack_path(host)
    try:
        stack = lines(path)
    except OSError as error:
        what = f"{path}: {error.strerror}: tasks would run in the node's network"
        return [fail(what, f"make it, with the line: required /opt/hpcnet/lib/hpcnet/{NAME}")]
    found = list(judge_stack(path, stack))
    ours = [line.plugin for line in stack if os.path.basename(line.plugin) == NAME]
    if ours:
        directory = host.slurm.get("PluginDir") if host.slurm else ""
        found += check_file(os.path.join(directory, ours[0]))
    return [each for each in found if each.status != "ok"] or found


def check_file(path: str) -> list[Finding]:
    """A plugin against Slurm's commands on this host and against this hpcnet."""
    try:
        plugin = read(Path(path).read_bytes())
    except OSError as error:
        what = f"{path}: {error.strerror}: jobs on this host fail, since plugstack.conf requires it"
        return [fail(what, f"{_INSTALL} on this host")]
    except (KeyError, ValueError, struct.error):
        return [fail(f"{path} is no SPANK plugin", f"{_INSTALL} on this host")]
    return judge_plugin(path, plugin, configuration.release(), __version__)


def stack_path(host: Host) -> str:
    """Where Slurm on this host looks for plugstack.conf."""
    beside = os.path.dirname(os.environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf")
    if host.slurm:
        if host.slurm.get("PlugStackConfig"):
            return host.slurm.get("PlugStackConfig")
        beside = os.path.dirname(os.environ.get("SLURM_CONF") or host.slurm.get("SLURM_CONF"))
    fetched = "/run/slurm/conf"  # of a configless slurmd
    return f"{beside if os.path.isdir(beside) else fetched}/plugstack.conf"


def lines(path: str, depth: int = 0) -> list[Line]:
    """The plugins' lines of a file and of what it includes. Raises OSError."""
    found: list[Line] = []
    for text in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        words = text.partition("#")[0].split()
        if words[:1] == ["include"] and len(words) > 1 and depth < _DEPTH:
            pattern = os.path.join(os.path.dirname(path), words[1])
            for included in sorted(glob.glob(pattern)):
                found += lines(included, depth + 1)
        elif len(words) > 1 and words[0] in ("required", "optional"):
            found.append(Line(words[0], words[1]))
    return found


def judge_stack(path: str, stack: list[Line]) -> Iterator[Finding]:
    """hpcnet's plugin is there, required, and first."""
    names = [os.path.basename(line.plugin) for line in stack]
    if NAME not in names:
        what = f"{path} does not name {NAME}: tasks of jobs with a network run in the node's"
        yield fail(what, f"add, as the first plugin: required /opt/hpcnet/lib/hpcnet/{NAME}")
        return
    if stack[names.index(NAME)].word != "required":
        what = f"{path}: {NAME} is optional: if it cannot be loaded, tasks run in the node's network"
        yield fail(what, f"write: required {stack[names.index(NAME)].plugin}")
    if names[0] != NAME:
        what = f"{path}: {names[0]} stands before {NAME}: when it fails, tasks of jobs with a network do not start"
        yield warn(what, f"make {NAME} the first plugin")


def judge_plugin(path: str, plugin: Plugin, running: tuple[int, int], own: str) -> list[Finding]:
    """``running``: Slurm's release on this host; ``own``: this hpcnet's version."""
    built, here = "{}.{:02}".format(*plugin.slurm), "{}.{:02}".format(*running)
    if plugin.slurm != running:
        what = f"{path} was built for Slurm {built}, and Slurm here is {here}, which does not load it"
        return [fail(what, f"install Slurm {here}'s headers, then {_INSTALL}")]
    if plugin.hpcnet != own:
        what = f"{path} is of hpcnet {plugin.hpcnet or '(older)'}, and this is hpcnet {own}"
        return [warn(what, f"{_INSTALL}, from the same checkout as the program")]
    return [ok(f"{NAME} of hpcnet {own}, built for Slurm {built}")]


def read(data: bytes) -> Plugin:
    """Of a shared object's bytes. Raises KeyError, ValueError, struct.error: it is no SPANK plugin."""
    version = struct.unpack(_order(data) + "I", symbol(data, "plugin_version"))[0]
    symbol(data, "spank_plugin_version")
    try:
        own = symbol(data, "hpcnet_version").rstrip(b"\0").decode("ascii", "replace")
    except KeyError:
        own = ""
    return Plugin((version >> 16 & 0xFF, version >> 8 & 0xFF), own)


def _order(data: bytes) -> str:
    if data[:5] != b"\x7fELF\x02" or data[5] not in (1, 2):
        raise ValueError("no ELF object of 64 bits")
    return "<" if data[5] == 1 else ">"


def symbol(data: bytes, name: str) -> bytes:
    """The bytes of a dynamic symbol of an ELF object. Raises ValueError, KeyError."""
    order = _order(data)
    start, size, count = *struct.unpack_from(order + "Q", data, 40), *struct.unpack_from(order + "HH", data, 58)
    # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link
    sections = [struct.unpack_from(order + "IIQQQQI", data, start + size * number) for number in range(count)]
    for _, kind, _, _, offset, length, link in sections:
        if kind != _DYNAMIC_SYMBOLS:
            continue
        for place in range(offset, offset + length, 24):
            text, _, _, section, value, extent = struct.unpack_from(order + "IBBHQQ", data, place)
            begin = sections[link][4] + text
            if data[begin : data.index(b"\0", begin)] == name.encode() and 0 < section < count:
                where = value - sections[section][3] + sections[section][4]
                return data[where : where + extent]
    raise KeyError(name)
