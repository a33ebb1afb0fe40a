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
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _match(value: Any) -> Match:  # noqa: ANN401 - JSON
    op, left, mask = _OPS[value["op"]], value["left"], None
    if "&" in left:
        left, mask = left["&"]
        mask = _flags(mask) if isinstance(mask, list) else _scalar(mask)
    return Match(_key(left), op, _value(value["right"]), mask)


def _key(left: Any) -> str:  # noqa: ANN401 - JSON
    ((kind, what),) = left.items()
    if kind == "payload":
        return sys.intern(shown(f"{what['protocol']} {what['field']}"))
    if kind not in ("meta", "ct") or len(what) > 1:  # a ct of one direction
        raise ValueError(left)
    return sys.intern(shown(f"{kind} {what['key']}"))


def _value(right: Any) -> Value:  # noqa: ANN401 - JSON
    if isinstance(right, list):
        return _flags(right)
    if isinstance(right, dict) and "set" in right:
        return OneOf(tuple(map(_element, right["set"])))
    if isinstance(right, str) and right.startswith("@"):  # what it had in it nobody knows
        raise ValueError(right)
    return _element(right)


def _element(value: Any) -> Scalar | Range | Prefix:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return _scalar(value)
    match value:
        case {"range": [low, high]}:
            return Range(_scalar(low), _scalar(high))
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return Prefix(shown(address), length)
    raise ValueError(value)


def _flags(names: list[Any]) -> Flags:
    if not all(isinstance(one, str) for one in names):
        raise ValueError(names)
    return Flags(tuple(sys.intern(shown(one)) for one in names))


def _scalar(value: Any) -> Scalar:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    return value


def shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """A name as text that can be written anywhere; "" for what is not one."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
