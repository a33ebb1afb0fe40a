"""Blocks and options of pcapng, little endian.

As https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html has them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode.headers import spans
from iptrec.views.escape import printable

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterable

    from iptrec.names import I64

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

SECTION, INTERFACE, NAMES, STATISTICS, PACKET = 0x0A0D0D0A, 1, 4, 5, 6
_IPV4_NAME, _IPV6_NAME = 1, 2
_IPV4_BYTES: Final = 4
# An enhanced packet block is a head, the packet, options, and a tail: the total length again.
_HEAD: Final = np.dtype(
    [(name, "<u4") for name in ("type", "total", "interface", "high", "low", "captured", "length")]
)
_TAIL: Final = 4


class Blocks:
    """Enhanced packet blocks, one behind the other, of zeros until they are filled.

    ``frame``, ``options``: where these begin, shape (n,).
    """

    def __init__(self, captured: I64, options: I64) -> None:
        """``captured``, ``options``: bytes of each."""
        self._captured = captured
        padded = captured + 3 & ~3
        self._total = _HEAD.itemsize + padded + options + _TAIL
        self._end = np.cumsum(self._total)
        self._begin = self._end - self._total
        self.buffer = np.zeros(int(self._end[-1]), np.uint8)
        self.frame = self._begin + _HEAD.itemsize
        self.options = self.frame + padded

    def write_heads(self, interface: I64, times: I64, length: I64) -> None:
        """Fill in what is before the frames, and the ends. ``length``: of the frames on the wire, bytes."""
        heads = np.empty(len(self._total), _HEAD)
        heads["type"], heads["total"], heads["interface"] = PACKET, self._total, interface
        heads["high"], heads["low"] = times >> 32, times & 0xFFFFFFFF
        heads["captured"], heads["length"] = self._captured, length
        spans(self.buffer, _HEAD.itemsize)[self._begin] = heads.view(f"V{_HEAD.itemsize}")
        tails = self._total.astype("<u4").view(f"V{_TAIL}")
        spans(self.buffer, _TAIL)[self._end - _TAIL] = tails


def resolved(known: Iterable[tuple[IP, str]]) -> bytes:
    """The block of addresses that have a name; nothing where none has one."""
    records = [
        option(
            _IPV4_NAME if len(address.packed) == _IPV4_BYTES else _IPV6_NAME,
            address.packed + printable(name).encode() + b"\0",
        )
        for address, name in known
    ]
    return block(NAMES, b"".join([*records, bytes(4)])) if records else b""


def split(time_ns: int) -> bytes:
    """A time as two words, the high one first."""
    return struct.pack("<II", time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF)


def encoded(*given: tuple[int, str | bytes]) -> bytes:
    """Options and their end."""
    return b"".join(
        option(code, printable_lines(value) if isinstance(value, str) else value)
        for code, value in given
    ) + bytes(4)  # fmt: skip


def printable_lines(text: str) -> bytes:
    """Lines that are safe on a terminal, as bytes of at most what an option takes."""
    safe = "\n".join(printable(line) for line in text.split("\n")).encode()
    return safe[:65_000].decode(errors="ignore").encode()


def option(code: int, value: bytes) -> bytes:
    """One option, padded to 32 bits."""
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(kind: int, body: bytes) -> bytes:
    """A block of some type around its body."""
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)
