"""Interfaces that come, change and go, out of rtnetlink's notifications.

Layout: include/uapi/linux/netlink.h, rtnetlink.h, if_link.h (man 7 rtnetlink); numbers are in the byte
order of the host, little endian. Recordings come from strangers: what does not fit is left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER: Final = struct.Struct("<IHHII")  # struct nlmsghdr
_LINK: Final = struct.Struct("<BxHiII")  # struct ifinfomsg
_ATTRIBUTE: Final = struct.Struct("<HH")  # struct rtattr
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_IFLA_IFNAME: Final = 3
_TYPE_MASK: Final = 0x3FFF


@dataclass(frozen=True, slots=True)
class LinkChange:
    """An interface is there with this name, or ``gone``."""

    index: int
    name: str
    gone: bool


def link_changes(datagram: bytes) -> Iterator[LinkChange]:
    """What one datagram of the group RTNLGRP_LINK tells."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        size, kind, *_ = _HEADER.unpack_from(datagram, at)
        if not _HEADER.size <= size <= len(datagram) - at:
            return
        body = datagram[at + _HEADER.size : at + size]
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= _LINK.size:
            index = _LINK.unpack_from(body)[2]
            name = _attribute(body[_LINK.size :], _IFLA_IFNAME)
            if name is not None and index > 0:
                text = name.rstrip(b"\0").decode("utf-8", "backslashreplace")
                yield LinkChange(index, text, kind == _RTM_DELLINK)
        at += size + 3 & ~3


def _attribute(data: bytes, wanted: int) -> bytes | None:
    """The value of the first attribute of a type."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= size <= len(data) - at:
            return None
        if kind & _TYPE_MASK == wanted:
            return data[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3
    return None
