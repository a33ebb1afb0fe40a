"""Netlink messages and their attributes one by one, for what comes in hundreds; `netlink` walks millions.

Layout: include/uapi/linux/netlink.h; headers are in the byte order of the host, little endian. Recordings come
from strangers: a length that lies ends the walk.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER: Final = struct.Struct("<IHHII")  # struct nlmsghdr
_ATTRIBUTE: Final = struct.Struct("<HH")  # struct nlattr
_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class Message(NamedTuple):
    """``kind``: nlmsg_type; ``body``: what is behind the header."""

    kind: int
    flags: int
    body: bytes


def headers(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type and flags of each of the messages that lie back to back, and where its body begins and ends."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, *_ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= size <= len(data) - at:
            return
        yield kind, flags, at + _HEADER.size, at + size
        at += size + 3 & ~3


def messages(data: bytes) -> Iterator[Message]:
    """The messages that lie back to back."""
    for kind, flags, start, end in headers(data):
        yield Message(kind, flags, data[start:end])


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= size <= len(data) - at:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3


def first(data: bytes) -> dict[int, bytes]:
    """Type -> value of the first of each."""
    found: dict[int, bytes] = {}
    for kind, value in attributes(data):
        found.setdefault(kind, value)
    return found


def text(value: bytes) -> str:
    """A name that ends with a zero byte."""
    return value.partition(b"\0")[0].decode("utf-8", "backslashreplace")
