"""Conditions of nf_tables in the words in which nft prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_matches import (
    Bitwise,
    Concat,
    Flags,
    Joined,
    Named,
    OneOf,
    Prefix,
    Range,
)
from iptrec.decode.rulesets.nft_others import Other
from iptrec.matching.facts import Clause
from iptrec.matching.nft_fields import field

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.decode.rulesets.nft_matches import Element, Left, Match, Scalar

    Text = Callable[[Scalar], str]

# nft prints these without "meta".
_UNQUALIFIED: Final = frozenset(
    ["iif", "oif", "iifname", "oifname", "iifgroup", "oifgroup", "skuid", "skgid"]
)
_FLAGGED: Final = frozenset(["tcp flags", "ct state", "ct status"])  # value / mask
_SHIFTS: Final = frozenset(["<<", ">>"])
_MOST: Final = 10  # elements that are told


def words(match: Match | Other) -> str:
    """A condition as nft prints it; of a long set its beginning."""
    return told(match).words


def told(match: Match | Other) -> Clause:
    """The same, with what it looks at apart from what it compares that with."""
    asks, value = (match.words, "") if isinstance(match, Other) else _parts(match)
    return Clause(asks, value, asks.partition(" ")[0])


def _parts(match: Match) -> tuple[str, str]:
    left, right = match.left, match.right
    if match.op in ("has", "read"):
        return f"{_key(left)} set" if match.op == "has" else _key(left), ""
    if match.op in ("map", "vmap"):
        return f"{_key(left)} {match.op}", f"@{right.name}" if isinstance(right, Named) else ""
    if isinstance(left, str) and left.endswith(" exists"):
        return left.removesuffix(" exists"), "exists" if right == 1 else "missing"
    if isinstance(left, str) and field(left) is None:
        return _key(left), ""
    texts = _texts(left)
    value = _value(right, texts)
    op = "" if match.op in ("==", "in") else f" {match.op}"
    if not isinstance(left, Bitwise):
        plain = match.op == "==" and left == "tcp flags" and not isinstance(right, OneOf | Named)
        return f"{_key(left)}{' ==' if plain else op}", value
    if left.of in _FLAGGED and left.op == "&":
        return f"{_key(left.of)}{op}", f"{value} / {_element(left.by, texts[0])}"
    if match.op == "==" and not isinstance(right, OneOf):
        op = " =="
    return f"{_key(left)}{op}", value


def _key(left: Left) -> str:
    match left:
        case Concat(parts):
            return " . ".join(map(_key, parts))
        case Bitwise(of, op, by):
            shifted = op in _SHIFTS
            loose = shifted and isinstance(of, Bitwise) and of.op not in _SHIFTS
            inner = f"({_key(of)})" if loose else _key(of)
            return f"{inner} {op} {_element(by, str if shifted else _texts(of)[0])}"
    kind, _, name = left.partition(" ")
    plain = (kind == "meta" and name in _UNQUALIFIED) or kind == "exthdr"
    return name if plain else left


def _texts(left: Left) -> list[Text]:
    """How values are printed, for each part."""
    match left:
        case Concat(parts):
            return [text for part in parts for text in _texts(part)]
        case Bitwise(of):
            return _texts(of)
    one = field(left)
    return [str if one is None else one.text]


def _value(value: Element | OneOf | Named, texts: Sequence[Text]) -> str:
    match value:
        case Named(name):
            return f"@{name}"
        case OneOf(values):
            told = ", ".join(_joined(one, texts) for one in values[:_MOST])
            return f"{{ {told}, ..." if len(values) > _MOST else f"{{ {told} }}"
    return _joined(value, texts)


def _joined(value: Element, texts: Sequence[Text]) -> str:
    if isinstance(value, Joined):
        return " . ".join(map(_element, value.parts, texts))
    return _element(value, texts[0])


def _element(value: Element, text: Text) -> str:
    match value:
        case Range(low, high):
            return f"{text(low)}-{text(high)}"
        case Prefix(address, length):
            return f"{text(address) if isinstance(address, int) else address}/{length}"
        case Flags(names, joined):
            return (" | " if joined else ",").join(map(text, names))
        case Joined(parts):
            return " . ".join(_element(one, text) for one in parts)
        case _:
            return text(value)
