"""Netlink's messages, attribute by attribute: each is kept, mapped, or taken out.

What a layout does not name goes. All numbers stay where they are; lengths are those of what is left.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from iptrec.decode.attributes import headers

if TYPE_CHECKING:
    from collections.abc import Iterator

Change = Callable[[bytes], bytes | None]  # None: it goes
Layout = Mapping[int, Change]

_MESSAGE: Final = struct.Struct("<IHH8s")
_ATTRIBUTE: Final = struct.Struct("<HH")
_TYPE_MASK: Final = 0x3FFF
_ERROR, _DONE = 2, 3
_ERROR_SIZE: Final = 20  # the errno, and the header of the request


def keep(value: bytes) -> bytes:
    """Numbers, and words of the kernel's."""
    return value


def nested(layout: Layout) -> Change:
    """Attributes inside."""
    return lambda value: attributes(value, layout)


def each(change: Change) -> Change:
    """All attributes inside, of whatever type."""
    return lambda value: b"".join(
        _attribute(kind, changed)
        for kind, inside in walk(value)
        if (changed := change(inside)) is not None
    )


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type, with its flags, and value of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= size <= len(data) - at:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3


def attributes(data: bytes, layout: Layout) -> bytes:
    """Those that ``layout`` has."""
    found = []
    for kind, value in walk(data):
        change = layout.get(kind & _TYPE_MASK)
        if change is not None:
            changed = value if change is keep else change(value)
            if changed is not None:
                found.append(_attribute(kind, changed))
    return b"".join(found)


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size & 3)


def messages(data: bytes, change: Callable[[int, bytes], bytes | None]) -> bytes:
    """Messages back to back; ``change``: of a type and a body. A message that goes leaves its header."""
    found = []
    for kind, _, start, last in headers(data):
        body = data[start:last]
        if kind == _ERROR:
            changed: bytes | None = body[:_ERROR_SIZE]
        elif kind == _DONE:
            changed = body[:4]
        else:
            changed = change(kind, body)
        _, _, flags, rest = _MESSAGE.unpack_from(data, start - _MESSAGE.size)
        changed = changed or b""
        size = _MESSAGE.size + len(changed)
        found.append(_MESSAGE.pack(size, kind, flags, rest) + changed + bytes(-size & 3))
    return b"".join(found)
