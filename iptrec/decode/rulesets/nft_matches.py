"""The conditions of native rules of nf_tables, out of nft's JSON, as small values.

A rule keeps these and not the JSON, which as values takes ten times the memory. What is not understood
is None: it may or may not hold. man 5 libnftables-json: MATCH, EXPRESSIONS.
"""

from __future__ import annotations

import sys
from typing import Any, Final, NamedTuple

Scalar = int | str


class Range(NamedTuple):
    """From one value to another, both included."""

    low: Scalar
    high: Scalar


class Prefix(NamedTuple):
    """A network."""

    address: str
    length: int


class Flags(NamedTuple):
    """Some bits by their names."""

    names: tuple[str, ...]


class OneOf(NamedTuple):
    """An anonymous set."""

    values: tuple[Scalar | Range | Prefix, ...]


Value = Scalar | Range | Prefix | Flags | OneOf


class Match(NamedTuple):
    """A condition: ``left op right``, or with a mask ``left & mask op right``.

    ``left``: a key of nft's JSON: "meta mark", "tcp dport", "ct state". ``op``: one of ==, !=, <, >, <=,
    >=; "in": a bit of ``right`` is set; "!": none is.
    """

    left: str
    op: str
    right: Value
    mask: Scalar | Flags | None = None


_OPS: Final = {one: one for one in ("==", "!=", "<", ">", "<=", ">=", "in", "!")}


def read(value: Any) -> Match | None:  # noqa: ANN401 - JSON
    """Read what a statement "match" has."""
    try:
        return _match(value)
    except (LookupError, TypeError, ValueError):
        return None


def _match(value: Any) -> Match:  # noqa: ANN401 - JSON
    op, right = _OPS[value["op"]], _value(value["right"])
    match value["left"]:
        case {"&": [left, list(mask)]}:
            return Match(_key(left), op, right, _flags(mask))
        case {"&": [left, mask]}:
            return Match(_key(left), op, right, _scalar(mask))
        case left:
            return Match(_key(left), op, right)


def _key(left: Any) -> str:  # noqa: ANN401 - JSON
    match left:
        case {"payload": {"protocol": str(protocol), "field": str(field)}}:
            return sys.intern(shown(f"{protocol} {field}"))
        case {"meta": {"key": str(key)}}:
            return sys.intern(shown(f"meta {key}"))
        case {"ct": {"key": str(key), **rest}} if not rest:  # of no direction
            return sys.intern(shown(f"ct {key}"))
    raise ValueError(left)


def _value(right: Any) -> Value:  # noqa: ANN401 - JSON
    match right:
        case list():
            return _flags(right)
        case {"set": list(values)}:
            return OneOf(tuple(map(_element, values)))
        case str() if right.startswith("@"):  # what it had in it nobody knows
            raise ValueError(right)
    return _element(right)


def _element(value: Any) -> Scalar | Range | Prefix:  # noqa: ANN401 - JSON
    match value:
        case {"range": [low, high]}:
            return Range(_scalar(low), _scalar(high))
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return Prefix(shown(address), length)
    return _scalar(value)


def _flags(names: list[Any]) -> Flags:
    if not all(isinstance(one, str) for one in names):
        raise ValueError(names)
    return Flags(tuple(sys.intern(shown(one)) for one in names))


def _scalar(value: Any) -> Scalar:  # noqa: ANN401 - JSON
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(value)
    return shown(value) if isinstance(value, str) else value


def shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """A name as text that can be written anywhere; "" for what is not one."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
