# SPDX-License-Identifier: Apache-2.0
"""The encoder of hooks against bytes written down by hand, and against pyroute2, which shares nothing with it."""

from __future__ import annotations

import errno
import socket
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from hpcnet.kernel import rtnl

NOBODY = 0x7FFFFFFF
"""The largest index of an interface: nothing has it."""

MAC = bytes.fromhex("02420a800001")


def native(text: str) -> bytes:
    """Numbers in hexadecimal, 4, 8 or 2 digits each, in the machine's byte order."""
    words = [bytes.fromhex(word) for word in text.split()]
    return b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)


def reference(kind: type[Any], message_type: int, flags: int, fields: dict[str, Any], attrs: list[Any]) -> bytes:
    """The same message by pyroute2."""
    made = kind()
    made.update(fields)
    made["header"]["type"] = message_type
    made["header"]["flags"] = flags
    made["attrs"] = attrs
    made.encode()
    return bytes(made.data)


def test_a_message_by_hand() -> None:
    made = rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(5, rtnl.IFF_UP, rtnl.IFF_UP),
        rtnl.text(rtnl.IFLA_IFNAME, "hpc0"),
        rtnl.number(rtnl.IFLA_MTU, 1450),
    )
    assert made == (
        native("00000034 0010 0601 00000000 00000000")  # nlmsghdr: length, RTM_NEWLINK, flags, sequence, port
        + native("00 00 0000 00000005 00000001 00000001")  # ifinfomsg: family, pad, type, index, flags, change
        + native("0009 0003")
        + b"hpc0\0"
        + b"\0\0\0"  # IFLA_IFNAME, padded
        + native("0008 0004 000005aa")  # IFLA_MTU
    )


@given(st.integers(0, 0x3FFF), st.binary(max_size=300))
def test_an_attribute_is_padded_to_four_bytes_and_says_its_own_length(kind: int, payload: bytes) -> None:
    made = rtnl.attribute(kind, payload)
    assert len(made) % 4 == 0
    assert int.from_bytes(made[:2], sys.byteorder) == 4 + len(payload)
    assert int.from_bytes(made[2:4], sys.byteorder) == kind
    assert made[4 : 4 + len(payload)] == payload
    assert set(made[4 + len(payload) :]) <= {0}


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8), st.binary(max_size=32))
def test_attributes_read_back_what_attribute_wrote(payloads: dict[int, bytes], head: bytes) -> None:
    data = head + b"".join(rtnl.attribute(kind, payload) for kind, payload in payloads.items())
    assert rtnl.attributes(data, len(head)) == payloads


@given(st.binary(max_size=200), st.integers(0, 32))
def test_attributes_of_any_bytes_end(data: bytes, offset: int) -> None:
    for payload in rtnl.attributes(data, offset).values():
        assert len(payload) <= len(data)


def test_the_flags_of_nested_and_byte_order_are_no_part_of_a_kind() -> None:
    assert rtnl.attributes(rtnl.attribute(0x8012, b"x") + rtnl.attribute(0x4004, b"y")) == {0x12: b"x", 4: b"y"}


@given(st.integers(1, NOBODY))
def test_a_default_route_is_pyroute2s(index: int) -> None:
    made = rtnl.message(
        rtnl.RTM_NEWROUTE,
        rtnl.CREATE | rtnl.REPLACE,
        rtnl.route_header(0, flags=rtnl.RTNH_F_ONLINK),
        rtnl.attribute(rtnl.RTA_GATEWAY, IPv4Address("192.0.0.8").packed),
        rtnl.attribute(rtnl.RTA_PREFSRC, IPv4Address("10.128.0.1").packed),
        rtnl.number(rtnl.RTA_OIF, index),
    )
    main, static, unicast, onlink = 254, 4, 1, 4
    assert made == reference(
        rtmsg,
        24,  # RTM_NEWROUTE
        0x1 | 0x400 | 0x100,  # NLM_F_REQUEST, NLM_F_CREATE, NLM_F_REPLACE
        {"family": socket.AF_INET, "table": main, "proto": static, "scope": 0, "type": unicast, "flags": onlink},
        [["RTA_GATEWAY", "192.0.0.8"], ["RTA_PREFSRC", "10.128.0.1"], ["RTA_OIF", index]],
    )


@given(
    index=st.integers(0, NOBODY), mtu=st.integers(68, 65535), name=st.from_regex("[a-z0-9]{1,15}", fullmatch=True)
)
def test_a_link_is_pyroute2s(index: int, mtu: int, name: str) -> None:
    made = rtnl.message(
        rtnl.RTM_NEWLINK,
        rtnl.CREATE | rtnl.EXCLUSIVE,
        rtnl.link_header(index, rtnl.IFF_UP, rtnl.IFF_UP),
        rtnl.text(rtnl.IFLA_IFNAME, name),
        rtnl.attribute(rtnl.IFLA_ADDRESS, MAC),
        rtnl.number(rtnl.IFLA_MTU, mtu),
        rtnl.number(rtnl.IFLA_LINK, 3),
        rtnl.number(rtnl.IFLA_GROUP, 0x68706E),
        rtnl.number(rtnl.IFLA_NET_NS_FD, 9),
    )
    assert made == reference(
        ifinfmsg,
        16,  # RTM_NEWLINK
        0x1 | 0x400 | 0x200,  # NLM_F_REQUEST, NLM_F_CREATE, NLM_F_EXCL
        {"family": 0, "index": index, "flags": 1, "change": 1},
        [
            ["IFLA_IFNAME", name],
            ["IFLA_ADDRESS", "02:42:0a:80:00:01"],
            ["IFLA_MTU", mtu],
            ["IFLA_LINK", 3],
            ["IFLA_GROUP", 0x68706E],
            ["IFLA_NET_NS_FD", 9],
        ],
    )


def test_nested_link_information_is_pyroute2s() -> None:
    info = rtnl.text(rtnl.IFLA_INFO_KIND, "macvlan") + rtnl.attribute(rtnl.IFLA_INFO_DATA, rtnl.number(1, 4))
    made = rtnl.message(rtnl.RTM_NEWLINK, 0, rtnl.link_header(), rtnl.attribute(rtnl.IFLA_LINKINFO, info))
    data = {"attrs": [["IFLA_MACVLAN_MODE", "bridge"]]}
    nested = {"attrs": [["IFLA_INFO_KIND", "macvlan"], ["IFLA_INFO_DATA", data]]}
    expected = reference(ifinfmsg, 16, 0x1, {"family": 0}, [["IFLA_LINKINFO", nested]])
    assert without_nested_flag(made) == without_nested_flag(expected)


def without_nested_flag(message: bytes) -> object:
    """Attributes by kind, three levels deep: NLA_F_NESTED may be set or not (linux/netlink.h)."""
    (info,) = rtnl.attributes(message, 32).items()
    inner = rtnl.attributes(info[1])
    return message[:32], info[0], inner[rtnl.IFLA_INFO_KIND], rtnl.attributes(inner[rtnl.IFLA_INFO_DATA])


def test_an_ifalias_is_pyroute2s() -> None:
    made = rtnl.message(rtnl.RTM_NEWLINK, 0, rtnl.link_header(7), rtnl.text(rtnl.IFLA_IFALIAS, "hpcnet:lab:12:7"))
    expected = reference(ifinfmsg, 16, 0x1, {"family": 0, "index": 7}, [["IFLA_IFALIAS", "hpcnet:lab:12:7"]])
    assert made == expected


def test_an_ipv4_address_is_pyroute2s() -> None:
    made = rtnl.message(
        rtnl.RTM_NEWADDR,
        rtnl.CREATE | rtnl.REPLACE,
        rtnl.address_header(socket.AF_INET, 29, 7),
        rtnl.attribute(rtnl.IFA_LOCAL, IPv4Address("10.128.0.1").packed),
        rtnl.attribute(rtnl.IFA_ADDRESS, IPv4Address("10.128.0.1").packed),
        rtnl.number(rtnl.IFA_FLAGS, rtnl.IFA_F_PERMANENT | rtnl.IFA_F_NODAD),
    )
    assert made == reference(
        ifaddrmsg,
        20,  # RTM_NEWADDR
        0x1 | 0x400 | 0x100,  # NLM_F_REQUEST, NLM_F_CREATE, NLM_F_REPLACE
        {"family": socket.AF_INET, "prefixlen": 29, "flags": 0x80, "scope": 0, "index": 7},
        [["IFA_LOCAL", "10.128.0.1"], ["IFA_ADDRESS", "10.128.0.1"], ["IFA_FLAGS", 0x82]],
    )


def test_a_link_local_address_is_pyroute2s() -> None:
    made = rtnl.message(
        rtnl.RTM_NEWADDR,
        0,
        rtnl.address_header(socket.AF_INET6, 64, 7, 253),
        rtnl.attribute(rtnl.IFA_ADDRESS, IPv6Address("fe80::1").packed),
    )
    assert made == reference(
        ifaddrmsg,
        20,
        0x1,
        {"family": socket.AF_INET6, "prefixlen": 64, "flags": 0x80, "scope": 253, "index": 7},
        [["IFA_ADDRESS", "fe80::1"]],
    )


@pytest.mark.parametrize(
    ("family", "destination", "state", "flags"),
    [
        (socket.AF_INET, IPv4Address("10.128.0.2"), rtnl.NUD_PERMANENT, 0),
        (socket.AF_INET6, IPv6Address("fd68::2"), rtnl.NUD_PERMANENT, 0),
        (socket.AF_BRIDGE, IPv4Address("10.2.0.2"), rtnl.NUD_NOARP | rtnl.NUD_PERMANENT, rtnl.NTF_SELF),
    ],
)
def test_a_neighbour_is_pyroute2s(
    family: int, destination: IPv4Address | IPv6Address, state: int, flags: int
) -> None:
    made = rtnl.message(
        rtnl.RTM_NEWNEIGH,
        rtnl.CREATE | rtnl.REPLACE,
        rtnl.neighbour_header(family, 7, state, flags),
        rtnl.attribute(rtnl.NDA_DST, destination.packed),
        rtnl.attribute(rtnl.NDA_LLADDR, MAC),
    )
    assert made == reference(
        ndmsg,
        28,  # RTM_NEWNEIGH
        0x1 | 0x400 | 0x100,
        {"family": family, "ifindex": 7, "state": state, "flags": flags, "ndm_type": 0},
        [["NDA_DST", str(destination)], ["NDA_LLADDR", "02:42:0a:80:00:01"]],
    )


# The socket, with the machine's own kernel; none of this needs root or changes anything.


def link_named(name: str) -> bytes:
    return rtnl.message(rtnl.RTM_GETLINK, 0, rtnl.link_header(), rtnl.text(rtnl.IFLA_IFNAME, name))


def deletions(count: int) -> list[bytes]:
    """Messages that the kernel refuses: root's, since there is no such interface, and everybody else's."""
    return [rtnl.message(rtnl.RTM_DELLINK, 0, rtnl.link_header(NOBODY))] * count


REFUSALS = (errno.ENODEV, errno.EPERM)


def name_of(answer: tuple[int, bytes] | None) -> str | None:
    return rtnl.attributes(answer[1], 16)[rtnl.IFLA_IFNAME].rstrip(b"\0").decode() if answer else None


def test_get_finds_an_interface_by_name() -> None:
    with rtnl.Rtnl() as netlink:
        assert name_of(netlink.get(link_named("lo"))) == "lo"


def test_get_of_what_is_not_there_is_none() -> None:
    with rtnl.Rtnl() as netlink:
        assert netlink.get(link_named("nosuchthing0")) is None
        assert name_of(netlink.get(link_named("lo"))) == "lo"


def test_dump_gives_every_interface() -> None:
    with rtnl.Rtnl() as netlink:
        request = rtnl.message(rtnl.RTM_GETLINK, rtnl.DUMP, rtnl.link_header())
        found = {name_of(answer) for answer in netlink.dump(request)}
    assert found == {name for _, name in socket.if_nameindex()}


def test_a_refusal_is_raised_with_the_kernels_errno() -> None:
    with rtnl.Rtnl() as netlink, pytest.raises(rtnl.RtnlError) as caught:
        netlink.send(*deletions(1))
    assert caught.value.errno in REFUSALS and caught.value.strerror


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_ignored_refusals_are_no_error_in_any_number(count: int) -> None:
    with rtnl.Rtnl() as netlink:
        netlink.send(*deletions(count), ignore=REFUSALS)
        assert name_of(netlink.get(link_named("lo"))) == "lo"


@pytest.mark.parametrize("count", [2, 100, 250])
def test_after_a_refusal_the_socket_answers_the_next_question(count: int) -> None:
    with rtnl.Rtnl() as netlink:
        with pytest.raises(rtnl.RtnlError):
            netlink.send(*deletions(count))
        assert name_of(netlink.get(link_named("lo"))) == "lo"


def test_sending_leaves_the_messages_as_they_were() -> None:
    messages = deletions(3)
    before = list(messages)
    with rtnl.Rtnl() as netlink:
        netlink.send(*messages, ignore=REFUSALS)
    assert messages == before


def test_closing_twice_is_fine() -> None:
    netlink = rtnl.Rtnl()
    netlink.close()
    netlink.close()
