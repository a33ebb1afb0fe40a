"""The conditions of native rules of nf_tables, out of nft's JSON, as small values.

A rule keeps these and not the JSON, which as values takes ten times the memory. What is not understood
is an `Other`: it may or may not hold. man 5 libnftables-json: STATEMENTS, EXPRESSIONS.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.decode.rulesets import nft_others
from iptrec.decode.rulesets.nft_others import Other, other

if TYPE_CHECKING:
    from collections.abc import Iterator

Scalar = int | str


class Range(NamedTuple):
    """From one value to another, both included."""

    low: Scalar
    high: Scalar


class Prefix(NamedTuple):
    """A network, or the first bits of a number."""

    address: Scalar
    length: int


class Flags(NamedTuple):
    """Some bits by their names. ``joined``: one value (syn | ack), not a list of bits (syn,ack)."""

    names: tuple[str, ...]
    joined: bool = False


class Joined(NamedTuple):
    """A value for each part of a concatenation."""

    parts: tuple[Element, ...]


class OneOf(NamedTuple):
    """An anonymous set, or the keys of an anonymous map."""

    values: tuple[Element, ...]


class Named(NamedTuple):
    """A set or map with a name."""

    name: str


Element = Scalar | Range | Prefix | Flags | Joined
Value = Element | OneOf | Named


class Bitwise(NamedTuple):
    """``of op by``; ``op``: one of &, |, ^, <<, >>."""

    of: Left
    op: str
    by: Scalar | Flags


class Concat(NamedTuple):
    """Several things that are compared together."""

    parts: tuple[Left, ...]


# A key of nft's JSON: "meta mark", "tcp dport", "ct original ip saddr", "exthdr frag", "fib daddr type".
Left = str | Bitwise | Concat


class Match(NamedTuple):
    """A condition: ``left op right``.

    ``op``: one of ==, !=, <, >, <=, >=; "in": a bit of ``right`` is set; "!": none is; "map", "vmap": a map has
    it as a key; "has": the packet has such a field, which is set; "read": it has one, which is set elsewhere.
    """

    left: Left
    op: str
    right: Value


class Writes(NamedTuple):
    """A statement that changes what later conditions look at: a key as `Left` has it; "ct" for all of it.

    "" is any. ``value``: what it is then, None where the rule does not tell; ``by``: how it is made of what it
    was.
    """

    key: str
    value: Scalar | Flags | None = None
    by: Left | None = None


Condition = Match | Writes | Other

_OPS: Final = frozenset(["==", "!=", "<", ">", "<=", ">=", "in", "!"])
_DEEPEST: Final = 8
_BITWISE: Final = frozenset(["&", "|", "^", "<<", ">>"])
_BASES: Final = frozenset(["ll", "nh", "th", "ih"])
# Numbers of the same size, in the same order of bytes.
_ONE_ANOTHERS: Final = {"meta mark", "ct mark"}
# What a packet gets whose zone is set while it has no connection: one that is none (nft_ct.c, xt_CT.c).
# Kernels differ in what other rules see of it.
TEMPLATE: Final = "template"
_MARKS: Final = frozenset(["MARK", "CONNMARK"])
# Targets of xtables that change nothing that conditions look at.
_HARMLESS: Final = frozenset(
    ["AUDIT", "CLASSIFY", "IDLETIMER", "LED", "LOG", "NFLOG", "RATEEST", "REJECT", "SET", "TEE", "TRACE"]
)  # fmt: skip
_SETS: Final = re.compile(r"\bset\b")  # of a statement that is told as text
_NAT: Final = frozenset(["dnat", "snat", "redirect", "masquerade", "tproxy"])


def read(name: str, value: Any) -> list[Condition]:  # noqa: ANN401 - JSON
    """What must hold for a statement to let a packet on, and what it changes, in order."""
    try:
        match name:
            case "match":
                return [_match(value)]
            case "vmap":
                return [_in_map(value, "vmap")]
            case "mangle":
                return _mangle(value)
            case "notrack":
                return [Writes("ct")]
            case "xt" if value.get("type") == "target" and value.get("name") not in _HARMLESS:
                keys = _ONE_ANOTHERS if value.get("name") in _MARKS else {""}
                return [other(name, value), *map(Writes, sorted(keys))]
            case _ if name in _NAT:
                return [*_taken(value), other(name, value)]
            case "" | nft_others.TEXT if not isinstance(value, str) or _SETS.search(value):
                return [other(name, value), Writes("")]
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        if name == "mangle":
            return [other(name, value), Writes("")]
    return [other(name, value)]


def _match(value: Any) -> Match:  # noqa: ANN401 - JSON
    op = value["op"]
    if op not in _OPS:
        raise ValueError(op)
    left = _left(value["left"])
    if isinstance(value["right"], bool) and isinstance(left, str):
        left = sys.intern(f"{left} exists")
    return Match(left, op, _value(value["right"]))


def _in_map(value: Any, op: str) -> Match:  # noqa: ANN401 - JSON
    data = value["data"]
    if isinstance(data, str):
        return Match(_left(value["key"]), op, _named(data))
    return Match(_left(value["key"]), op, OneOf(tuple(_element(key) for key, _ in data["set"])))


def _taken(value: Any) -> list[Match]:  # noqa: ANN401 - JSON
    """The maps out of which a new address and port are taken: for what they do not have the rule ends."""
    parts = (value.get("addr"), value.get("port")) if isinstance(value, dict) else ()
    maps = (one["map"] for one in parts if isinstance(one, dict) and "map" in one)
    return [_in_map(one, "map") for one in maps]


def _mangle(value: Any) -> list[Condition]:  # noqa: ANN401 - JSON
    """A field that is set: of the packet it must be there, and a map that it is taken from must tell it."""
    key = _left(value["key"])
    if not isinstance(key, str):
        raise TypeError(key)
    found: list[Condition] = []
    written = Writes(key)
    match value["value"]:
        case {"map": dict(taken)}:
            found.append(_in_map(taken, "map"))
        case {"|": [str(), *_] as names} if all(isinstance(one, str) for one in names):
            written = Writes(key, _flags(names))
        case dict(taken):
            read, written = _made_of(key, taken)
            found += read
        case list(names):
            written = Writes(key, _flags(names))
        case plain:
            written = Writes(key, _scalar(plain))
    if key.startswith("ct ") and key.endswith("zone"):
        return [*found, Writes(TEMPLATE)]
    # nft_ct.c sets nothing where there is no connection, and goes on.
    if not key.startswith(("meta ", "ct ")):
        found.append(Match(key, "has", 0))
    return [*found, written]


def _made_of(key: str, taken: Any) -> tuple[list[Condition], Writes]:  # noqa: ANN401 - JSON
    """What the packet must have for a value that is read of it, and the value."""
    try:
        left = _left(taken)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return [other(f"{key} set", None)], Writes(key)
    if isinstance(left, Concat):
        raise ValueError(key)  # noqa: TRY004 - a number is set
    own = read_of(left)
    by = left if own == key or {own, key} == _ONE_ANOTHERS else None
    return [Match(own, "read", 0)], Writes(key, by=by)


def read_of(left: Left) -> str:
    """What an expression is made of. Raises ValueError for several."""
    while isinstance(left, Bitwise):
        left = left.of
    if isinstance(left, Concat):
        raise ValueError(left)  # noqa: TRY004 - of a number
    return left


def keys(left: Left) -> Iterator[str]:
    """All that an expression looks at."""
    match left:
        case Concat(parts):
            for one in parts:
                yield from keys(one)
        case Bitwise(of):
            yield from keys(of)
        case _:
            yield left


def _left(printed: Any, deep: int = 0) -> Left:  # noqa: ANN401 - JSON
    ((kind, what),) = printed.items()
    if deep > _DEEPEST:
        raise ValueError(kind)
    if kind in _BITWISE:
        of, by = what
        return Bitwise(_left(of, deep + 1), kind, _flags(by) if isinstance(by, list) else _by(by))
    if kind == "concat" and what and not deep:
        return Concat(tuple(_left(one, deep + 1) for one in what))
    return sys.intern(shown(key(kind, what)))


def key(kind: str, what: Any) -> str:  # noqa: ANN401 - JSON
    """The key of one thing that nft's JSON looks at. Raises ValueError and its like for what is not one."""
    match kind, what:
        case "payload", {"base": str(base), "offset": int(offset), "len": int(size)}:
            if base not in _BASES or offset < 0 or size < 1:
                raise ValueError(base)
            return f"@{base},{offset},{size}"
        case "payload", {"protocol": str(protocol), "field": str(name)}:
            return f"{protocol} {name}"
        case "meta" | "rt" | "socket", {"key": str(key)}:
            return f"{kind} {key}"
        case "ct", {"key": str(key), "dir": str(direction)}:
            return f"ct {direction} {key}"
        case "ct", {"key": str(key)}:
            return f"ct {key}"
        case "fib", {"result": str(result), "flags": flags}:
            names = [flags] if isinstance(flags, str) else flags
            return f"fib {' . '.join(names)} {result}"
        case (("exthdr" | "ip option" | "tcp option" | "sctp chunk"), {"name": str(name), **rest}):
            return f"{kind} {name} {rest['field']}" if "field" in rest else f"{kind} {name}"
    raise ValueError(kind)


def _value(right: Any) -> Value:  # noqa: ANN401 - JSON
    if isinstance(right, list):
        return _flags(right)
    if isinstance(right, dict) and "set" in right:
        return OneOf(tuple(map(_element, right["set"])))
    if isinstance(right, str) and right.startswith("@"):
        return _named(right)
    return _element(right)


def _named(text: str) -> Named:
    if not text.startswith("@"):
        raise ValueError(text)
    return Named(sys.intern(shown(text[1:])))


def element(value: Any) -> Element:  # noqa: ANN401 - JSON
    """Read one element of a set. Raises ValueError and its like for what is not one."""
    return _element(value)


def _element(value: Any) -> Element:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return _scalar(value)
    match value:
        case {"range": [low, high]}:
            return Range(_scalar(low), _scalar(high))
        case {"prefix": {"addr": address, "len": int(length)}}:
            return Prefix(_scalar(address), length)
        case {"concat": list(parts)} if not any(
            isinstance(one, dict) and "concat" in one for one in parts
        ):
            return Joined(tuple(map(_element, parts)))
        case {"|": list(names)}:
            return Flags(_flags(names).names, joined=True)
        case {"elem": {"val": one}} if not isinstance(one, dict) or "elem" not in one:
            return _element(one)  # with a comment or a counter
    raise ValueError(value)


def _flags(names: list[Any]) -> Flags:
    if not all(isinstance(one, str) for one in names):
        raise ValueError(names)
    return Flags(tuple(sys.intern(shown(one)) for one in names))


def _by(value: Any) -> Scalar | Flags:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return _flags(value["|"])
    return _scalar(value)


def _scalar(value: Any) -> Scalar:  # noqa: ANN401 - JSON
    """A number or a word; whether something is there is told by 1 or 0."""
    if isinstance(value, str):
        return shown(value)
    if not isinstance(value, int):
        raise TypeError(value)
    return int(value)


def shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """A name as text that can be written anywhere; "" for what is not one."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
