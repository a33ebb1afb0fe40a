"""The keys of elements of nf_tables' sets as numbers: those that the kernel tells, and those that nft lists.

Where both can be read, one is found by the other. Types: nft's src/datatype.c; a concatenation has each part at
a multiple of four bytes (NFT_REG32_SIZE).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.decode.attributes import text
from iptrec.decode.rulesets.nft_matches import Joined, Prefix, Range
from iptrec.names import PROTOCOL_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.decode.rulesets.nft_matches import Element, Scalar

Part = int | str
Span = tuple[Part, Part]  # from and to, both included

_NAME: Final = "ifname"
SIZES: Final = {
    "ipv4_addr": 4, "ipv6_addr": 16, "ether_addr": 6, "inet_proto": 1, "inet_service": 2, "mark": 4, _NAME: 16,
}  # fmt: skip
_OF_HOST: Final = frozenset(["mark"])  # in its byte order; little endian, as recordings are


def is_name(type_: str) -> bool:
    """Whether its values are names, not numbers."""
    return type_ == _NAME


def size(types: Sequence[str]) -> int:
    """How many bytes a key has. Raises KeyError for a type that is not known."""
    if len(types) == 1:
        return SIZES[types[0]]
    return sum(SIZES[one] + 3 & ~3 for one in types)


def of_kernel(key: bytes, types: Sequence[str]) -> tuple[Part, ...]:
    """The parts of a key. Raises ValueError where it is not one of these types, KeyError for others."""
    if len(key) != size(types):
        raise ValueError(key)
    found: list[Part] = []
    at = 0
    for one in types:
        data = key[at : at + SIZES[one]]
        order = "little" if one in _OF_HOST else "big"
        found.append(text(data) if one == _NAME else int.from_bytes(data, order))  # type: ignore[arg-type]
        at += SIZES[one] + 3 & ~3
    return tuple(found)


def of_listing(element: Element, types: Sequence[str]) -> tuple[Span, ...]:
    """What each part of an element reaches from and to. Raises ValueError and its like for others."""
    parts = element.parts if isinstance(element, Joined) else (element,)
    return tuple(_span(one, type_) for one, type_ in zip(parts, types, strict=True))


def _span(value: Element, type_: str) -> Span:
    match value:
        case Range(low, high):
            return _part(low, type_), _part(high, type_)
        case Prefix(str(address), length):
            network = ipaddress.ip_network((address, length), strict=False)
            return int(network.network_address), int(network.broadcast_address)
        case int() | str():
            return _part(value, type_), _part(value, type_)
    raise ValueError(value)


def _part(value: Scalar, type_: str) -> Part:
    match type_:
        case "ipv4_addr":
            return int(ipaddress.IPv4Address(value))
        case "ipv6_addr":
            return int(ipaddress.IPv6Address(value))
        case "ether_addr":
            return int(str(value).replace(":", ""), 16)
        case "inet_proto" if isinstance(value, str):
            return PROTOCOL_NUMBERS[value]
        case "ifname" if isinstance(value, str) and not {"*", "\\"} & {*value}:
            return value
    if isinstance(value, str) or type_ == _NAME:
        raise ValueError(value)
    return value
