"""What nf_tables tells of named sets: that they, or elements of theirs, come and go.

Each element that a transaction adds or deletes is told, before its generation; so is each of a set that is
flushed, and the set alone where it or its table is deleted (net/netfilter/nf_tables_api.c, nft_delset). What
rules add, and that an element ends by itself, is not told.
"""

from __future__ import annotations

import itertools
import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.attributes import attributes, first, headers, text
from iptrec.decode.nft_changes import (
    DELETE_ELEMENTS,
    DELETE_SET,
    FAMILY_HEADER,
    NEW_ELEMENTS,
    NEW_GENERATION,
    NEW_RULE,
    NEW_SET,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.decode.rulesets.types import TableName

_TOLD: Final = {NEW_SET, DELETE_SET, NEW_ELEMENTS, DELETE_ELEMENTS}
_NAME, _SET_FLAGS, _KEY_SIZE, _ELEMENTS, _RULE_EXPRESSIONS = 2, 3, 5, 3, 4  # NFTA_*
_KEY, _ELEMENT_FLAGS, _EXPIRES, _KEY_END = 1, 3, 5, 10  # NFTA_SET_ELEM_*
_INTERVAL, _BY_RULES = 0x4, 0x20  # NFT_SET_*; the latter is NFT_SET_EVAL
_ENDS: Final = 0x1  # NFT_SET_ELEM_INTERVAL_END
_IN_RULES: Final = b"dynset\0"
_WORD: Final = re.compile(rb"[\w./\\-]+\0")
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")


class Element(NamedTuple):
    """``upto``: of a concatenation of intervals. ``ends``: it is not in the set, and ends an interval.

    ``expires_ms``: after how long it is no longer there, None for one that stays. ``key`` is empty where it is
    not a key.
    """

    key: bytes
    upto: bytes | None = None
    ends: bool = False
    expires_ms: int | None = None


class Told(NamedTuple):
    """One message; ``kind``: NFT_MSG_ of it, `NEW_RULE` where rules may change the set from now on.

    ``key_size`` (bytes), ``interval``: of a new set.
    """

    kind: int
    table: TableName
    name: str = ""
    elements: tuple[Element, ...] = ()
    key_size: int = 0
    interval: bool = False


class TooManyError(Exception):
    """More was told than one may keep."""


def told(datagrams: Iterable[tuple[int, bytes]], most: int) -> Iterator[tuple[int, list[Told]]]:
    """Each generation of the rules, and what was done to sets in it.

    ``most``: of messages and elements together; raises `TooManyError` where there are more.
    """
    found: list[Told] = []
    left = most
    for _, datagram in datagrams:
        for kind, _, start, end in headers(datagram):
            body = datagram[start:end]
            if kind == NEW_GENERATION:
                number = first(body[FAMILY_HEADER:]).get(1, b"")
                yield _number(number, _U32), found
                found = []
            elif len(body) >= FAMILY_HEADER and (
                kind in _TOLD or (kind == NEW_RULE and _IN_RULES in body)
            ):
                for one in _read(kind, body, left):
                    found.append(one)
                    left -= 1 + len(one.elements)
                    if left < 0:
                        raise TooManyError


def _number(value: bytes | None, of: struct.Struct) -> int:
    return int(of.unpack(value)[0]) if value is not None and len(value) == of.size else -1


def _read(kind: int, body: bytes, most: int) -> Iterator[Told]:
    """What a message tells, with not many more than ``most`` elements."""
    found = first(body[FAMILY_HEADER:])
    table = table_of(body, found)
    if kind == NEW_RULE:
        for name in set(_WORD.findall(found.get(_RULE_EXPRESSIONS, b""))):
            yield Told(kind, table, text(name))
        return
    name = text(found.get(_NAME, b""))
    if kind == NEW_SET:
        flags = max(_number(found.get(_SET_FLAGS), _U32), 0)
        size = _number(found.get(_KEY_SIZE), _U32)
        yield Told(kind, table, name, key_size=size, interval=bool(flags & _INTERVAL))
        if flags & _BY_RULES:
            yield Told(NEW_RULE, table, name)
        return
    listed = (_element(one) for _, one in attributes(found.get(_ELEMENTS, b"")))
    yield Told(kind, table, name, tuple(itertools.islice(listed, most + 1)))


def _element(data: bytes) -> Element:
    found = first(data)
    expires = _number(found.get(_EXPIRES), _U64)
    return Element(
        _value(found.get(_KEY, b"")) or b"",
        _value(found.get(_KEY_END, b"")),
        bool(max(_number(found.get(_ELEMENT_FLAGS), _U32), 0) & _ENDS),
        None if expires < 0 else expires,
    )


def _value(data: bytes) -> bytes | None:
    return first(data).get(1)  # NFTA_DATA_VALUE
