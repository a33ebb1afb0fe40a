"""What nf_tables told of its ruleset: tables, chains, rules, sets and elements as the kernel has them.

The analysis compares what rules are made of, and reads few of their parts (`decode.nft_changes`,
`decode.nft_elements`, `decode.rulesets.nft_unprinted`): numbers stay, the rest is a digest.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from iptrec.decode.attributes import first, text
from iptrec.decode.nft_changes import table_of
from iptrec.decode.nft_keys import SIZES
from iptrec.redact.netlink import attributes, each, keep, messages, nested, walk
from iptrec.redact.values import Values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.redact.maps import Maps
    from iptrec.redact.netlink import Change, Layout

    SetName = tuple[str, str, str]  # family and name of the table, its own name

_TABLES, _CHAINS, _RULES, _SETS, _ELEMENTS = (0, 2), (3, 5), (6, 8), (9, 11), (12, 14)
_GENERATION: Final = 15
_OBJECTS: Final = (18, 20, 22, 24)
_SUBSYSTEM: Final = 0x0A
_NAME, _DATA, _KEY_TYPE, _SET_NAME, _SET_FLAGS = 1, 2, 4, 2, 3
_KEY, _FLAGS, _KEY_END, _ENDS, _LIST = 1, 3, 10, 1, 3
# Types of keys (nft's enum datatypes), six bits each.
_TYPES: Final = {
    7: "ipv4_addr", 8: "ipv6_addr", 9: "ether_addr", 12: "inet_proto", 13: "inet_service", 19: "mark",
    41: "ifname",
}  # fmt: skip
_RANGES: Final = ("ipv4_addr", "ipv6_addr", "ether_addr")
_META_KEY, _COMPARED_KEYS = 2, frozenset({0, 1, 3, 8, 15, 16})
# Expressions whose attributes are numbers alone.
_NUMBERS: Final = frozenset(
    {"counter", "last", "quota", "limit", "connlimit", "meta", "payload", "rt", "fib", "exthdr", "socket",
    "hash", "numgen", "byteorder", "masq", "redir", "nat", "reject", "queue", "notrack", "ct", "dup", "fwd",
    "tproxy", "osf"}
)  # fmt: skip


class NftMessages:
    """``types``: of the keys of named sets, as their listings have them."""

    def __init__(self, maps: Maps, types: dict[SetName, Sequence[str]]) -> None:
        self._maps = maps
        self._types = types
        value = Values(maps)
        self._value = value
        verdict = nested({1: keep, 2: value.name, 3: keep})
        self._either: Change = nested({1: value.digest, 2: verdict})
        hook = nested({1: keep, 2: keep, 3: value.name, 4: each(value.name)})
        self._table: Layout = {1: value.name, 2: keep, 3: keep, 4: keep, 6: value.digest}
        self._chain: Layout = {
            1: value.name, 2: keep, 3: value.name, 4: hook, 5: keep, 6: keep, 7: keep, 10: keep, 11: keep,
            12: value.digest,
        }  # fmt: skip
        self._rule: Layout = {
            1: value.name, 2: value.name, 3: keep, 4: self._expressions, 5: value.digest, 6: keep,
            7: value.digest, 9: keep,
        }  # fmt: skip
        self._set: Layout = {
            1: value.name, 2: value.name, **dict.fromkeys((3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16), keep),
            13: value.digest, 17: self._expression, 18: each(self._expression),
        }  # fmt: skip
        self._object: Layout = {1: value.name, 2: value.name, 3: keep, 5: keep, 6: keep}
        self._generation: Layout = {1: keep, 2: keep, 3: value.name}

    def __call__(self, data: bytes) -> bytes:
        """Messages back to back."""
        return messages(data, self._message)

    def _message(self, kind: int, body: bytes) -> bytes | None:
        number = kind & 0xFF if kind >> 8 == _SUBSYSTEM else -1
        layouts = {
            **dict.fromkeys(_TABLES, self._table), **dict.fromkeys(_CHAINS, self._chain),
            **dict.fromkeys(_RULES, self._rule), **dict.fromkeys(_SETS, self._set),
            **dict.fromkeys(_OBJECTS, self._object), _GENERATION: self._generation,
        }  # fmt: skip
        if number in _ELEMENTS:
            return body[:4] + self._elements(body)
        if number not in layouts:
            self._maps.removed(f"messages of nf_tables of the type {kind}")
            return None
        if number == _SETS[0]:
            self._remember(body)
        return body[:4] + attributes(body[4:], layouts[number])

    def _expressions(self, value: bytes) -> bytes:
        """Of a rule; what is compared with what nft calls meta stays, where it is a number."""
        found = b""
        before: bytes | None = None  # the key of meta
        for _, expression in walk(value):
            found += self._listed(expression, before)
            told = first(expression)
            of_meta = told.get(_NAME) == b"meta\0"
            before = first(told.get(_DATA, b"")).get(_META_KEY) if of_meta else None
        return found

    def _listed(self, expression: bytes, before: bytes | None) -> bytes:
        value = self._expression(expression, before)
        size = len(value) + 4
        return struct.pack("<HH", size, 0x8001) + value + bytes(-size & 3)

    def _expression(self, value: bytes, before: bytes | None = None) -> bytes:
        name = text(first(value).get(_NAME, b""))
        data: Change
        of_meta = name == "cmp" and before and int.from_bytes(before, "big") in _COMPARED_KEYS
        if name in _NUMBERS or of_meta:
            data = keep
        elif name == "cmp":
            data = nested({1: keep, 2: keep, 3: self._either})
        elif name == "immediate":
            data = nested({1: keep, 2: self._either})
        elif name in ("lookup", "dynset"):
            data = nested({
                1: self._value.name, **dict.fromkeys((2, 3, 4, 5, 6, 9), keep), 7: self._expression,
                10: each(self._expression),
            })  # fmt: skip
        elif name == "objref":
            data = nested({1: keep, 2: self._value.name, 3: keep, 4: self._value.name, 5: keep})
        else:
            data = self._whole
        return attributes(value, {_NAME: keep, _DATA: data})

    def _whole(self, value: bytes) -> bytes:
        digest = self._value.digest(value)
        size = len(digest) + 4
        return struct.pack("<HH", size, 1) + digest + bytes(-size & 3)

    def _remember(self, body: bytes) -> None:
        told = first(body[4:])
        number = int.from_bytes(told.get(_KEY_TYPE, b""), "big")
        types: list[str] = []
        while number:
            types.insert(0, _TYPES.get(number & 63, ""))
            number >>= 6
        family, table = table_of(body, told)
        name = text(told.get(_SET_NAME, b""))
        if all(types):
            self._types[family, table, name] = types

    def _elements(self, body: bytes) -> bytes:
        """Keys by the types of their set; of an unknown one digests."""
        told = first(body[4:])
        family, table = table_of(body, told)
        types = self._types.get((family, table, text(told.get(_SET_NAME, b""))))
        elements = [value for _, value in walk(told.get(_LIST, b""))]
        keys = self._keys(elements, types)
        listed = b"".join(
            struct.pack("<HH", len(one) + 4, 0x8001) + one + bytes(-len(one) & 3)
            for one in map(self._element, elements, keys)
        )
        layout = {1: self._value.name, 2: self._value.name, 3: lambda _: listed, 4: keep}
        return attributes(body[4:], layout)

    def _element(self, element: bytes, keys: tuple[bytes, bytes]) -> bytes:
        return attributes(
            element,
            {
                _KEY: nested({1: lambda _: keys[0]}), _KEY_END: nested({1: lambda _: keys[1]}),
                2: self._either, 3: keep, 4: keep, 5: keep, 6: self._value.digest, 7: self._expression,
                9: self._value.name, 11: each(self._expression),
            },
        )  # fmt: skip

    def _keys(
        self, elements: Sequence[bytes], types: Sequence[str] | None
    ) -> list[tuple[bytes, bytes]]:
        """Of each element its key and the end of it."""
        told = [first(one) for one in elements]
        keys = [first(one.get(_KEY, b"")).get(1, b"") for one in told]
        ends = [first(one.get(_KEY_END, b"")).get(1, b"") for one in told]
        sizes = [SIZES.get(one) for one in types or ()]
        if not types or None in sizes:
            return [
                (self._value.digest(key), self._value.digest(end))
                for key, end in zip(keys, ends, strict=True)
            ]
        if len(types) == 1 and types[0] in _RANGES:
            flags = [int.from_bytes(one.get(_FLAGS, b""), "big") & _ENDS for one in told]
            return [(one, b"") for one in self._intervals(keys, flags)]
        return [self._joined(key, end or key, types) for key, end in zip(keys, ends, strict=True)]

    def _intervals(self, keys: Sequence[bytes], flags: Sequence[int]) -> list[bytes]:
        """An interval is two elements, its first key and the first one behind it."""
        found = dict[int, bytes]()
        order = sorted(range(len(keys)), key=lambda at: (keys[at], not flags[at]))
        opened: int | None = None
        for at in order:
            size = len(keys[at])
            if size not in (4, 6, 16):
                found[at] = self._value.digest(keys[at])
            elif not flags[at]:
                opened = at
                found[at] = self._single(keys[at])
            elif opened is not None and int.from_bytes(keys[at], "big"):
                last = (int.from_bytes(keys[at], "big") - 1).to_bytes(size, "big")
                low, high = self._maps.range(keys[opened], last)
                behind = int.from_bytes(high, "big") + 1
                found[opened] = low
                found[at] = behind.to_bytes(size, "big") if behind >> 8 * size == 0 else bytes(size)
                opened = None
            elif not keys[at].strip(b"\0"):
                found[at] = keys[at]
            else:
                found[at] = self._single(keys[at])
        return [found[at] for at in range(len(keys))]

    def _single(self, key: bytes) -> bytes:
        return self._maps.mac(key) if len(key) == 6 else self._maps.address(key)  # noqa: PLR2004

    def _joined(self, key: bytes, upto: bytes, types: Sequence[str]) -> tuple[bytes, bytes]:
        """A key of several parts, each at a multiple of four bytes."""
        low, high, at = b"", b"", 0
        for one in types:
            size = SIZES[one]
            first_, last = key[at : at + size], upto[at : at + size]
            if one in _RANGES and len(first_) == len(last) == size:
                if first_ == last:
                    first_ = last = self._single(first_)
                else:
                    first_, last = self._maps.range(first_, last)
            elif one == "ifname":
                first_, last = (self._value.name(part) for part in (first_, last))
            pad = -size & 3 if len(types) > 1 else 0
            low, high, at = low + first_ + bytes(pad), high + last + bytes(pad), at + size + pad
        return low, high
