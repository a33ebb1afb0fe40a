"""What iptables compares with bytes of packets by their place: ``--u32``, and programs of BPF (``--bytecode``).

Addresses of IPv4 that u32 compares as a whole, or with a network, are mapped (man 8 iptables-extensions). What
else may hold an address or a payload is taken out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.redact.maps import UntrueError
from iptrec.redact.words import length_of

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

_TEST: Final = re.compile(r"(\d+|0x[0-9a-fA-F]+)(?:&\w+|>>\w+|<<\w+)*=[\w:,]+")
_OF_ADDRESS: Final = re.compile(
    r"(?P<at>\d+|0x[0-9a-fA-F]+)(?:&(?P<mask>\w+))?=(?P<values>[\w:,]+)"
)
_BEHIND: Final = re.compile(
    r"(?P<length>0(?:x0)?>>(?:22|0x16)&(?:60|0x3[cC])@)?(?P<at>\d+|0x[0-9a-fA-F]+)"
    r"(?:&\w+|>>\w+|<<\w+|@\w+)*=[\w:,]+"
)
_VALUE: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")
_SMALL: Final = 0xFFFF  # no address is in numbers up to this
_ADDRESSES: Final = (12, 16)  # where those of IPv4 are
_V4_ADDRESSES: Final = range(9, 20)  # where a number of four bytes has some of them
_V6_ADDRESSES: Final = range(5, 40)
_MODE, _ABSOLUTE = 0xE0, 0x20  # BPF_MODE, BPF_ABS


def u32(maps: Maps, tests: str, *, ipv6: bool, kept: bool = False) -> str | None:
    """Tests in the place of others; None where they are not understood. Raises `UntrueError`.

    ``kept``: payloads stay, and with them what is compared with bytes behind the header of IP.
    """
    parts = [
        one if kept and _is_behind(one, ipv6=ipv6) else _test(maps, one, ipv6=ipv6)
        for one in tests.split("&&")
    ]
    return None if None in parts else "&&".join(filter(None, parts))


def _is_behind(test: str, *, ipv6: bool) -> bool:
    """Whether it compares what is behind the header, by its length or by a number."""
    found = _BEHIND.fullmatch(test.replace(" ", ""))
    if found is None or (ipv6 and found["length"]):
        return False
    return bool(found["length"]) or int(found["at"], 0) >= (40 if ipv6 else 20)


def _test(maps: Maps, test: str, *, ipv6: bool) -> str | None:
    plain = test.replace(" ", "")
    if _is_plain_test(plain, ipv6=ipv6):
        return test
    found = _OF_ADDRESS.fullmatch(plain)
    if found is None or ipv6 or int(found["at"], 0) not in _ADDRESSES:
        return None
    length = 32
    if found["mask"] is not None:
        try:
            mask = int(found["mask"], 0)
            length = length_of(".".join(map(str, mask.to_bytes(4, "big"))), 32)
        except (UntrueError, ValueError, OverflowError):
            return None
    try:
        values = [_values(maps, one, length) for one in found["values"].split(",")]
    except (ValueError, OverflowError):
        return None
    return None if None in values else f"{plain.partition('=')[0]}={','.join(filter(None, values))}"


def _values(maps: Maps, text: str, length: int) -> str | None:
    """An address, a network's beginning or a range of addresses."""
    low, _, high = text.partition(":")
    if high and length < 32:  # noqa: PLR2004 - a range of beginnings
        return None
    packed = [int(one, 0).to_bytes(4, "big") for one in (low, high) if one]
    made = [*maps.range(*packed)] if high else [maps.network(packed[0], length)]
    return ":".join(hex(int.from_bytes(one, "big")) for one in made)


def _is_plain_test(test: str, *, ipv6: bool) -> bool:
    """Whether it compares small numbers, of where there is no address."""
    found = _TEST.fullmatch(test)
    if found is None or int(found[1], 0) in (_V6_ADDRESSES if ipv6 else _V4_ADDRESSES):
        return False
    return all(int(one, 0) <= _SMALL for one in _VALUE.findall(test.rpartition("=")[2]))


def is_plain_bytecode(code: str, *, ipv6: bool) -> bool:
    """Whether a program of BPF compares small numbers, and loads nothing of an address by its place."""
    addresses = range(8, 40) if ipv6 else range(10, 20)  # and the checksum
    for line in code.split(",")[1:]:
        words = line.split()
        if len(words) != 4 or not all(one.isdecimal() for one in words):  # noqa: PLR2004
            return False
        instruction, constant = int(words[0]), int(words[3])
        size = {0: 4, 8: 2, 16: 1}.get(instruction & 0x18, 0)
        if instruction & 7 in (0, 1):  # BPF_LD, BPF_LDX
            touched = range(constant, constant + size)
            if instruction & _MODE == _ABSOLUTE and set(touched) & set(addresses):
                return False
        elif constant > _SMALL and instruction & 7 != 6:  # noqa: PLR2004 - BPF_RET
            return False
    return True
