# SPDX-License-Identifier: Apache-2.0
"""The variables by which libraries are told the interface to use: the default ones, and what a site may set. Pure.

of(DEFAULTS, "hpc0")     # {"NCCL_SOCKET_IFNAME": "=hpc0", "GLOO_SOCKET_IFNAME": "hpc0", ...}

What each library documents, and what is left out and why, is in docs/programs.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

INTERFACE = "{interface}"
"""In a value: stands for the interface's name."""

DEFAULTS: Mapping[str, str] = {
    "NCCL_SOCKET_IFNAME": f"={INTERFACE}",  # without "=" it is the first characters of names
    "GLOO_SOCKET_IFNAME": INTERFACE,
    "TP_SOCKET_IFNAME": INTERFACE,
    "OMPI_MCA_btl_tcp_if_include": INTERFACE,
    "OMPI_MCA_oob_tcp_if_include": INTERFACE,
    "PRTE_MCA_prte_if_include": INTERFACE,
    "FI_TCP_IFACE": INTERFACE,
    "HYDRA_IFACE": INTERFACE,
    "I_MPI_HYDRA_IFACE": INTERFACE,
}
"""Variable to value; an empty value: not set."""

LIMIT = 64
"""How many variables a site may list."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED = ("HPCNET_", "SLURM_")
_VALUE = re.compile(r"[!#-\[\]-z|~]{0,128}")  # printable ASCII but blank, quote, backslash and braces


def check(name: str, value: object) -> str:
    """The value of one variable of the site's list. Raises ValueError with what is allowed."""
    if not _NAME.fullmatch(name) or name.startswith(_RESERVED):
        raise ValueError(f"the name of a variable, and not one of {' or '.join(f'{each}*' for each in _RESERVED)}")
    if not isinstance(value, str) or not _VALUE.fullmatch(value.replace(INTERFACE, "")):
        raise ValueError(f"text without blanks, with {INTERFACE} for the interface's name, or empty: not set")
    return value


def listed(variables: Mapping[str, str]) -> str:
    """The variables as HPCNET_ENV lists them: ``NAME=VALUE NAME=VALUE``; :func:`unlisted` reads it back."""
    return " ".join(f"{name}={value}" for name, value in variables.items())


def unlisted(text: str) -> dict[str, str]:
    """The variables of an HPCNET_ENV."""
    return {name: value for name, _, value in (word.partition("=") for word in text.split())}


def of(variables: Mapping[str, str], interface: str) -> dict[str, str]:
    """The variables that are set, for an interface of this name."""
    return {name: value.replace(INTERFACE, interface) for name, value in variables.items() if value}


def not_given(variables: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are set beside an environment of the user's: none that is there, and no ``..._include`` of Open
    MPI's beside its ``..._exclude``, which it takes together as nothing at all (spank_hooks/environment.c).
    """
    given = {*environment, *(re.sub("_exclude$", "_include", name) for name in environment)}
    return {name: value for name, value in variables.items() if name not in given}
