"""Numbers that nft prints where addresses are meant, or bytes of packets; addresses that are compared by order.

A set of what was given by its place in the packet is printed as ``ip saddr { 0xa000001, 0xa000002 }``, in JSON
as numbers (nft 1.0.6). What a number means is told by what it is compared with.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final

from iptrec.redact import raw_payload
from iptrec.redact.maps import UntrueError
from iptrec.redact.words import length_of

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

ORDERED: Final = frozenset({"<", ">", "<=", ">="})
_SIZES: Final = {"ip": 4, "ip6": 16, "ether": 6}
_ENDS: Final = frozenset({"saddr", "daddr"})
_ELEMENTS: Final = frozenset({"elem", "val", "set", "concat"})  # in these are others of the sort
_MAC: Final = 6
_NUMBER: Final = re.compile(
    r"(?P<first>0x[0-9a-f]+|[1-9]\d*|0)(?:-(?P<last>0x[0-9a-f]+|[1-9]\d*|0)|/(?P<len>\d+))?"
)
_LARGE: Final = 0xFFFF


def mapped(maps: Maps, left: Any, right: Any) -> Any:  # noqa: ANN401 - JSON
    """What is compared with ``left``, its numbers mapped; the rest as it is. Raises `UntrueError`."""
    match left, right:
        case _, bool() | str():
            return right
        case {"concat": list(parts)}, {"concat": list(values)} if len(parts) == len(values):
            return {"concat": [mapped(maps, *both) for both in zip(parts, values, strict=True)]}
        case _, int():
            return number(maps, left, right)
        case _, list():
            return [mapped(maps, left, one) for one in right]
        case _, {"range": [int(low), int(high)]}:
            return {"range": _range(maps, left, low, high)}
        case _, {"prefix": {"addr": int(address), "len": int(length)}}:
            return {"prefix": {"addr": _network(maps, left, address, length), "len": length}}
        case _, dict():
            return {
                key: mapped(maps, left, one) if key in _ELEMENTS else one
                for key, one in right.items()
            }
    return right


def number(maps: Maps, left: Any, value: int) -> int:  # noqa: ANN401
    """A number in the place of another one."""
    size = size_of(left)
    if size:
        packed = value.to_bytes(size, "big")
        made = maps.mac(packed) if size == _MAC else maps.address(packed)
        return int.from_bytes(made, "big")
    match left:
        case {"payload": {"base": str(base), "offset": int(offset), "len": int(length)}}:
            return raw_payload.mapped(maps, base, offset, length, value)
        case "integer" if value > _LARGE:
            raise UntrueError("a number in a set, which may be an address,")
        case dict() if value > _LARGE and (of := _combined(left)) is not None and _is_part(of):
            raise UntrueError(f"a comparison of a part of an address with {value:#x}")
    return value


def size_of(left: Any) -> int:  # noqa: ANN401
    """Bytes of the addresses that an expression is; 0 for one that is none."""
    match left:
        case {"payload": {"protocol": str(protocol), "field": str(field)}}:
            first, _, kind = field.partition(" ")  # of ARP: saddr ip, saddr ether
            return _SIZES.get(kind or protocol, 0) if first in _ENDS else 0
        case {"ct": {"key": str(key)}}:
            kind, _, end = key.partition(" ")
            return _SIZES.get(kind, 0) if end in _ENDS else 0
        case {"payload": {"base": str(base), "offset": int(offset), "len": int(length)}}:
            return length // 8 if raw_payload.is_address(base, offset, length) else 0
    return 0


def _range(maps: Maps, left: Any, low: int, high: int) -> list[int]:  # noqa: ANN401
    size = size_of(left)
    if not size:
        if high > _LARGE and _is_part(left):
            raise UntrueError("a comparison of a part of an address")
        return [low, high]
    ends = maps.range(low.to_bytes(size, "big"), high.to_bytes(size, "big"))
    return [int.from_bytes(one, "big") for one in ends]


def _network(maps: Maps, left: Any, address: int, length: int) -> int:  # noqa: ANN401
    size = size_of(left)
    if size not in (0, _MAC):
        return int.from_bytes(maps.network(address.to_bytes(size, "big"), length), "big")
    if address > _LARGE and (size or _is_part(left)):
        raise UntrueError("a comparison of a part of an address")
    return address


def _combined(left: dict[str, Any]) -> Any:  # noqa: ANN401
    """What a mask is put on, or is added to."""
    match next(iter(left.items()), None):
        case ("&" | "|" | "^" | "<<" | ">>", [of, *_]):
            return of
    return None


def _is_part(left: Any) -> bool:  # noqa: ANN401
    match left:
        case {"payload": {"base": str(base), "offset": int(offset), "len": int(length)}}:
            return raw_payload.has_address(base, offset, length)
    return bool(left == "integer")


def is_ordered(left: Any, right: Any) -> bool:  # noqa: ANN401
    """Whether what is compared by order are addresses, or parts of some."""
    return _ends(left, right) is not None or (isinstance(right, int) and _is_part(left))


def border(maps: Maps, left: Any, op: str, right: Any) -> None:  # noqa: ANN401
    """Have a comparison by order stay true, with what it has. Raises `UntrueError`."""
    ends = _ends(left, right)
    if ends is None:
        raise UntrueError("a comparison by the order of addresses")
    low, high, size = ends
    maps.border(low if op in ("<", ">=") else high + 1, size)


def _ends(left: Any, right: Any) -> tuple[int, int, int] | None:  # noqa: ANN401
    """Both ends of a network, and the size of its addresses; None of what is not one."""
    match right:
        case bool():
            return None
        case str():
            return ends_of(right)
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return ends_of(f"{address}/{length}")
        case int() if size := size_of(left):
            return right, right, size
    return None


def parsed(word: str) -> Any:  # noqa: ANN401
    """A word of nft's text as its JSON has it: a number, a range or a network of numbers; or the word."""
    found = _NUMBER.fullmatch(word)
    if found is None:
        return word
    first = int(found["first"], 0)
    if found["last"]:
        return {"range": [first, int(found["last"], 0)]}
    return {"prefix": {"addr": first, "len": int(found["len"])}} if found["len"] else first


def printed(value: Any, word: str) -> str:  # noqa: ANN401
    """A number, or some, as ``word`` was printed."""
    if value == parsed(word):
        return word
    write = hex if word.startswith("0x") else str
    match value:
        case {"range": [low, high]}:
            return f"{write(low)}-{write(high)}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{write(address)}/{length}"
    return write(value)


def ends_of(text: str) -> tuple[int, int, int] | None:
    """The same of a word: an address, with the length of a network perhaps, or that of a network card."""
    address, _, length = text.partition("/")
    if address.count(":") == 5 and len(address) == 17:  # noqa: PLR2004
        number_ = int(address.replace(":", ""), 16)
        return number_, number_, _MAC
    try:
        packed = ipaddress.ip_address(address).packed
    except ValueError:
        return None
    behind = 8 * len(packed) - (length_of(length, 8 * len(packed)) if length else 8 * len(packed))
    low = int.from_bytes(packed, "big")
    return low, low | (1 << behind) - 1, len(packed)
