"""Interfaces, addresses, routes, routing rules and neighbours out of rtnetlink's messages.

Layout: man 7 rtnetlink; include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h, neighbour.h. A
message is a struct and attributes; `LAYOUTS` has both for each kind of snapshot. Numbers are the kernel's own.
What does not fit is left out.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.attributes import attributes, first, messages, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LINK: Final = struct.Struct("<BxHiII")  # struct ifinfomsg
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_IFF_UP: Final = 1
_IFLA_IFNAME: Final = 3
_NEXTHOP: Final = struct.Struct("<HBBi")  # struct rtnexthop
_ALT_IFNAME: Final = 53

Read = Callable[[bytes], Any]  # raises ValueError or struct.error for what it cannot be


@dataclass(frozen=True, slots=True)
class LinkChange:
    """An interface is there with this name, or ``gone``."""

    index: int
    name: str
    gone: bool


def link_changes(datagram: bytes) -> Iterator[LinkChange]:
    """What one datagram of the group RTNLGRP_LINK tells."""
    for message in messages(datagram):
        body = message.body
        if message.kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= _LINK.size:
            index = _LINK.unpack_from(body)[2]
            name = first(body[_LINK.size :]).get(_IFLA_IFNAME)
            if name is not None and index > 0:
                yield LinkChange(index, text(name), message.kind == _RTM_DELLINK)


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A route came, or is ``gone``; or all routes of a ``link`` are, of one that is down all but local ones.

    The kernel does not tell of routes that end with their link.
    """

    row: Mapping[str, Any] | None
    gone: bool
    link: int = 0
    down: bool = False


def route_changes(datagram: bytes) -> Iterator[RouteChange]:
    """What one datagram tells of routes and of links that end them."""
    layout = LAYOUTS["routes"]
    for message in messages(datagram):
        body = message.body
        if message.kind in (_RTM_NEWROUTE, _RTM_DELROUTE) and len(body) >= layout.header.size:
            row = _row(layout, body)
            yield RouteChange(row, gone=message.kind == _RTM_DELROUTE)
        elif message.kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= _LINK.size:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            if message.kind == _RTM_DELLINK or not flags & _IFF_UP:
                yield RouteChange(None, gone=True, link=index, down=message.kind == _RTM_NEWLINK)


@dataclass(frozen=True, slots=True)
class Layout:
    """Messages of type ``kind``. ``fields``: of ``header``. ``attributes``: type -> name and reader."""

    kind: int
    header: struct.Struct
    fields: tuple[str, ...]
    attributes: Mapping[int, tuple[str, Read]]


def rows(layout: Layout, data: bytes) -> Iterator[dict[str, Any]]:
    """The messages of a dump, each as field -> value; attributes that are not there are left out."""
    for message in messages(data):
        if message.kind == layout.kind and len(message.body) >= layout.header.size:
            yield _row(layout, message.body)


def _row(layout: Layout, body: bytes) -> dict[str, Any]:
    values = layout.header.unpack_from(body)
    row = dict(zip(layout.fields, values, strict=True))
    return row | named(layout.attributes, body[layout.header.size :])


def named(known: Mapping[int, tuple[str, Read]], data: bytes) -> dict[str, Any]:
    """Attributes by their names, each read; unknown and unreadable ones are left out."""
    found = {}
    for kind, value in attributes(data):
        if kind in known:
            name, read = known[kind]
            try:
                found[name] = read(value)
            except (ValueError, struct.error):
                continue
    return found


def number(layout: str) -> Read:
    """One number, exactly as long as the struct says."""
    read = struct.Struct(layout)
    return lambda value: read.unpack(value)[0]


def address(value: bytes) -> str:
    """An IPv4 or IPv6 address by its length."""
    return str(ipaddress.ip_address(value))


def hardware(value: bytes) -> str:
    """An address of the link layer; of a tunnel that is an IP address."""
    return value.hex(":")


def _range(layout: str) -> Read:
    read = struct.Struct(layout)
    return lambda value: list(read.unpack(value))


def _raw(value: bytes) -> dict[str, str]:
    """Attributes that each kind of interface has of its own: type -> hexadecimal."""
    return {str(kind): one.hex() for kind, one in attributes(value)}


def _nested(known: Mapping[int, tuple[str, Read]]) -> Read:
    return lambda value: named(known, value)


def _names(value: bytes) -> list[str]:
    return [text(one) for kind, one in attributes(value) if kind == _ALT_IFNAME]


def _via(value: bytes) -> str:
    """A next hop of another family (struct rtvia)."""
    return address(value[2:])


def _nexthops(value: bytes) -> list[dict[str, Any]]:
    found = []
    at = 0
    while at + _NEXTHOP.size <= len(value):
        size, flags, hops, index = _NEXTHOP.unpack_from(value, at)
        if not _NEXTHOP.size <= size <= len(value) - at:
            break
        row = {"oif": index, "flags": flags, "weight": hops + 1}
        found.append(row | named(_OF_ROUTES, value[at + _NEXTHOP.size : at + size]))
        at += size + 3 & ~3
    return found


_u8, _u16, _u32, _s32, _be16 = (number(one) for one in ("<B", "<H", "<I", "<i", ">H"))
_OF_ROUTES: Final[dict[int, tuple[str, Read]]] = {
    1: ("dst", address), 2: ("src", address), 3: ("iif", _s32), 4: ("oif", _s32), 5: ("gateway", address),
    6: ("priority", _u32), 7: ("prefsrc", address), 8: ("metrics", _raw), 9: ("multipath", _nexthops),
    11: ("flow", _u32), 15: ("table", _u32), 16: ("mark", _u32), 18: ("via", _via), 20: ("pref", _u8),
    21: ("encap_type", _u16), 22: ("encap", _raw), 30: ("nh_id", _u32),
}  # fmt: skip
_LINK_INFO: Final[dict[int, tuple[str, Read]]] = {
    1: ("kind", text), 2: ("data", _raw), 4: ("slave_kind", text), 5: ("slave_data", _raw),
}  # fmt: skip

LAYOUTS: Final = {
    "links": Layout(
        _RTM_NEWLINK, _LINK, ("family", "type", "index", "flags", "change"),
        {
            1: ("address", hardware), 2: ("broadcast", hardware), _IFLA_IFNAME: ("name", text),
            4: ("mtu", _u32), 5: ("link", _s32), 10: ("master", _u32), 13: ("txqlen", _u32),
            16: ("operstate", _u8), 17: ("linkmode", _u8), 18: ("linkinfo", _nested(_LINK_INFO)),
            20: ("alias", text), 27: ("group", _u32), 30: ("promiscuity", _u32), 33: ("carrier", _u8),
            37: ("link_netnsid", _s32), 52: ("altnames", _names),
        },
    ),
    "addresses": Layout(
        20, struct.Struct("<BBBBI"), ("family", "prefixlen", "flags", "scope", "index"),
        {
            1: ("address", address), 2: ("local", address), 3: ("label", text), 4: ("broadcast", address),
            8: ("flags", _u32), 9: ("priority", _u32), 11: ("protocol", _u8),
        },
    ),
    "routes": Layout(
        24, struct.Struct("<BBBBBBBBI"),
        ("family", "dst_len", "src_len", "tos", "table", "protocol", "scope", "type", "flags"), _OF_ROUTES,
    ),
    "ip-rules": Layout(
        32, struct.Struct("<BBBBBxxBI"),
        ("family", "dst_len", "src_len", "tos", "table", "action", "flags"),
        {
            1: ("dst", address), 2: ("src", address), 3: ("iif", text), 4: ("goto", _u32),
            6: ("priority", _u32), 10: ("fwmark", _u32), 11: ("flow", _u32),
            12: ("tun_id", number(">Q")), 13: ("suppress_ifgroup", _s32), 14: ("suppress_prefixlen", _s32),
            15: ("table", _u32), 16: ("fwmask", _u32), 17: ("oif", text), 19: ("l3mdev", _u8),
            20: ("uid_range", _range("<II")), 21: ("protocol", _u8), 22: ("ip_proto", _u8),
            23: ("sport_range", _range("<HH")), 24: ("dport_range", _range("<HH")), 25: ("dscp", _u8),
        },
    ),
    **dict.fromkeys(
        ("neighbours", "fdb"),
        Layout(
            28, struct.Struct("<BxxxiHBB"), ("family", "index", "state", "flags", "type"),
            {
                1: ("dst", address), 2: ("lladdr", hardware), 5: ("vlan", _u16), 6: ("port", _be16),
                7: ("vni", _u32), 8: ("via", _u32), 9: ("master", _u32), 12: ("protocol", _u8),
                15: ("flags_ext", _u32),
            },
        ),
    ),
}  # fmt: skip
