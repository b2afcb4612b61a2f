# SPDX-License-Identifier: Apache-2.0
"""What this kernel can, tried; and, for information, whether users may make namespaces of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hpcnet.doctor.model import Finding, Host, fail, ok, raised
from hpcnet.errors import NodeError
from hpcnet.kernel import trial

_USER_NAMESPACES = ("kernel/unprivileged_userns_clone", "user/max_user_namespaces")
_REMEDIES = {
    "network namespaces": "a kernel with CONFIG_NET_NS; see user.max_net_namespaces",
    "vxlan": "modprobe vxlan, or build it (CONFIG_VXLAN)",
    "macvlan": "modprobe macvlan, or build it (CONFIG_MACVLAN)",
    "veth": "modprobe veth, or build it (CONFIG_VETH)",
}


def check_kernel(host: Host) -> Iterable[Finding]:
    """Devices, and the table of the way out: as a job's Prolog makes them."""
    devices, refused = trial.devices(), ""
    try:
        if "host" in host.site.offer.egress and not devices["network namespaces"]:
            trial.takes_translation()
    except NodeError as error:
        refused = str(error)
    return judge_kernel(devices, refused, users_may_unshare())


def judge_kernel(devices: Mapping[str, str], nat: str, users: bool) -> list[Finding]:
    """``devices``: by kind why there is none, empty where there is; ``nat``: why not."""
    found = [fail(f"this kernel makes no {kind}: {why}", _REMEDIES[kind]) for kind, why in devices.items() if why]
    if nat:
        error = raised(NodeError(nat))
        found.append(fail(f"egress=host: {error.text}", "CONFIG_NFT_MASQ, CONFIG_NFT_CT and CONFIG_NF_CT_NETLINK"))
    rootless = "users may make namespaces" if users else "users may not make namespaces: no rootless containers"
    return found or [ok(f"{', '.join(devices)}, nftables; {rootless}")]


def users_may_unshare() -> bool:
    """Whether an unprivileged user may make a user namespace (Debian's switch, and the kernel's limit)."""
    for name in _USER_NAMESPACES:
        path = Path("/proc/sys", name)
        if path.exists() and path.read_text(encoding="ascii").strip() == "0":
            return False
    return True
