"""Whether the conditions of a native rule of nf_tables fit a packet: yes, no and why not, or nobody can know.

Fields of the packet are compared as the kernel does (net/netfilter/nft_cmp.c, nft_payload.c, nft_meta.c,
nft_ct.c). A condition that looks into a header implies that the packet has it: nft compiles that in, and does
not print it. What the kernel remembers (named sets, limits, maps) cannot be known afterwards.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_matches import Flags, OneOf, Prefix, Range
from iptrec.matching.facts import Judgement
from iptrec.matching.nft_fields import FIELDS, NAMES, AbsentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iptrec.decode.rulesets.nft_matches import Match, Scalar, Value
    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts

_UNQUALIFIED: Final = frozenset({"meta iif", "meta oif", "meta iifname", "meta oifname"})


def judge(rule: Rule, facts: Facts) -> Judgement:
    """Evaluate a rule of nft's syntax."""
    open_ = None in rule.matches
    for match in rule.matches:
        if match is not None:
            fits, own = _judged(match, facts)
            if fits is False:
                return Judgement(False, f"{_words(match)} (it is {own})")
            open_ = open_ or fits is None
    return Judgement(None, _without_comment(rule)) if open_ else Judgement(True)


def _without_comment(rule: Rule) -> str:
    return (
        rule.spec if rule.comment is None else rule.spec.removesuffix(f' comment "{rule.comment}"')
    )


def _judged(match: Match, facts: Facts) -> tuple[bool | None, object]:
    """Whether a condition holds, and what the packet has; None: it cannot be known."""
    if match.left in NAMES:
        name = NAMES[match.left](facts)
        return _holds_of_name(name, match), name or "none"
    field = FIELDS.get(match.left)
    if field is None:
        return None, None
    try:
        value = field.read(facts)
        return None if value is None else _holds(value, match, field.number), field.own(facts)
    except AbsentError as instead:
        return False, instead
    except (
        ValueError,
        OverflowError,
        TypeError,
    ):  # a number that is none, in a ruleset of a stranger
        return None, None


def _holds(own: int, match: Match, number: Callable[[Scalar], int]) -> bool:
    if match.mask is not None:
        own &= _bits(match.mask, number)
    match match.op:
        case "==" | "!=":
            among = any(low <= own <= high for low, high in _spans(match.right, number))
            return among == (match.op == "==")
        case "in":
            return own & _bits(match.right, number) != 0
        case "!":
            return own & _bits(match.right, number) == 0
        case "<":
            return own < _bits(match.right, number)
        case "<=":
            return own <= _bits(match.right, number)
        case ">":
            return own > _bits(match.right, number)
        case _:
            return own >= _bits(match.right, number)


def _bits(value: Value, number: Callable[[Scalar], int]) -> int:
    """One number, or several bits by their names."""
    match value:
        case Flags(names):
            bits = 0
            for name in names:
                bits |= number(name)
            return bits
        case int() | str():
            return number(value)
    raise ValueError(value)


def _spans(value: Value, number: Callable[[Scalar], int]) -> Iterator[tuple[int, int]]:
    """The numbers that a value stands for, each from and to."""
    match value:
        case OneOf(values):
            for one in values:
                yield from _spans(one, number)
        case Range(low, high):
            yield number(low), number(high)
        case Prefix(address, length):
            network = ipaddress.ip_network((address, length), strict=False)
            yield int(network.network_address), int(network.broadcast_address)
        case _:
            yield (_bits(value, number),) * 2


def _holds_of_name(own: str | None, match: Match) -> bool | None:
    """Whether an interface's name is among some: one that is not there has the name "" (nft_meta.c)."""
    values: Iterable[object] = (
        match.right.values if isinstance(match.right, OneOf) else (match.right,)
    )
    names = [one for one in values if isinstance(one, str)]
    if match.op not in ("==", "!=") or match.mask is not None or not names:
        return None
    return any(_is_called(own or "", one) for one in names) == (match.op == "==")


def _is_called(own: str, wanted: str) -> bool:
    if wanted.endswith("\\*"):  # a name that ends so
        return own == f"{wanted[:-2]}*"
    return own.startswith(wanted[:-1]) if wanted.endswith("*") else own == wanted


def _words(match: Match) -> str:
    """A condition as nft prints it."""
    field = FIELDS.get(match.left)
    text = _quoted if field is None else field.text
    key = match.left.removeprefix("meta ") if match.left in _UNQUALIFIED else match.left
    op = "" if match.op in ("==", "in") else f"{match.op} "
    right = _printed(match.right, text)
    if match.mask is None:
        return f"{key} {op}{right}"
    mask = _printed(match.mask, text)
    if match.left == "tcp flags":
        return f"{key} {op}{right} / {mask}"
    if match.op == "==" and isinstance(match.right, int | str | Flags):
        op = "== "
    return f"{key} & {mask} {op}{right}"


def _printed(value: Value, text: Callable[[Scalar], str]) -> str:
    match value:
        case OneOf(values):
            return f"{{ {', '.join(_printed(one, text) for one in values)} }}"
        case Range(low, high):
            return f"{text(low)}-{text(high)}"
        case Prefix(address, length):
            return f"{address}/{length}"
        case Flags(names):
            return ",".join(map(text, names))
        case _:
            return text(value)


def _quoted(name: Scalar) -> str:
    return f'"{name}"'
