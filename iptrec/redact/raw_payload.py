"""Values that nf_tables compares with bytes by their place in a packet: ``@nh,96,32 0xa000001``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.redact.maps import UntrueError

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

NAMED: Final = re.compile(r"@(ll|nh|th|ih),(\d+),(\d+)")
SMALL: Final = 16  # bits in which no address is
_V4: Final = ((96, 32), (128, 32))
_V6: Final = ((64, 128), (192, 128))
_MACS: Final = ((0, 48), (48, 48))
_IN_NETWORK: Final = range(64, 320)  # where addresses are, bits
_IN_LINK: Final = 96  # where those of Ethernet end
_BEHIND: Final = 64  # the transport header may end here


def is_address(base: str, offset: int, length: int) -> bool:
    """Whether an address is there."""
    place = offset, length
    return place in _V4 + _V6 if base == "nh" else base == "ll" and place in _MACS


def has_address(base: str, offset: int, length: int) -> bool:
    """Whether as much of one may be there as is not told."""
    if length <= SMALL:
        return False
    if base == "nh":
        return offset + length > _IN_NETWORK.start and offset < _IN_NETWORK.stop
    return base == "ll" and offset < _IN_LINK


def mapped(maps: Maps, base: str, offset: int, length: int, number: int) -> int:
    """What is compared, in its place. Raises `UntrueError` for a part of an address."""
    if length <= SMALL:
        return number
    if is_address(base, offset, length):
        packed = number.to_bytes(length // 8, "big")
        return int.from_bytes((maps.mac if base == "ll" else maps.address)(packed), "big")
    if has_address(base, offset, length):
        raise UntrueError(f"a comparison of @{base},{offset},{length}, a part of an address,")
    if base == "ih" or (base == "th" and offset >= _BEHIND):
        maps.removed("what nft compares with a payload")
        digest = maps.digest(number.to_bytes((length + 7) // 8, "big"))
        return int.from_bytes(digest, "big") & ((1 << min(length, 128)) - 1)
    return number
