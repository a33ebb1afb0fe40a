"""Checksums of packets whose bytes were changed: those that were right are so again, no others.

RFC 1071 and 1624: a sum is adjusted by what changed, so that what was not captured need not be known. A sender
on the same machine leaves the sum to the device: then only that of the pseudo-header is there.
"""

from __future__ import annotations

import functools
from typing import Final

ONES: Final = 0xFFFF  # sums of words of 16 bits are equal if they are modulo this
_CASTAGNOLI: Final = 0x82F63B78  # RFC 9260, appendix A; reflected


def total(data: bytes) -> int:
    """Of the words of 16 bits, modulo 65,535."""
    return int.from_bytes(data + bytes(len(data) & 1), "big") % ONES


def adjusted(told: int, before: int, after: int) -> int:
    """A checksum whose data had the sum ``before``."""
    return (told + before - after) % ONES


def transport(told: int, bodies: tuple[bytes, bytes], ends: tuple[int, int], length: int) -> int:
    """That of TCP, UDP and their like; ``bodies``: before and after, without it.

    ``ends``: the sums of both addresses and the protocol; ``length``: what the IP header says.
    """
    before, after = ends
    for more in (0, length):
        if told % ONES == (before + more) % ONES:
            made = (after + more) % ONES
            return made or (ONES if told else 0)
    return adjusted(told, total(bodies[0]) + before, total(bodies[1]) + after)


@functools.cache
def _table() -> list[int]:
    found = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        found.append(value)
    return found


def crc32c(data: bytes) -> bytes:
    """As it stands in a packet of SCTP."""
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return (value ^ 0xFFFFFFFF).to_bytes(4, "little")
