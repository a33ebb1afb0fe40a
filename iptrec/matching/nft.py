"""Whether the conditions of a native rule of nf_tables fit a packet: yes, no and why not, or nobody can know.

Fields are compared as the kernel does (net/netfilter/nft_cmp.c, nft_bitwise.c, nft_lookup.c). What the kernel
alone remembers (limits, sets that rules change, random numbers) cannot be known afterwards.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.rulesets.nft_matches import (
    Bitwise,
    Concat,
    Match,
    Named,
    OneOf,
    Prefix,
    Range,
    Writes,
    keys,
)
from iptrec.decode.rulesets.nft_others import UNREAD, Other
from iptrec.matching import moments, nft_ct, nft_lookup, nft_words
from iptrec.matching.facts import Clause, Judgement
from iptrec.matching.field import AbsentError, IfThere, dumped_of_tcp
from iptrec.matching.iptables_host import of_ipsec
from iptrec.matching.nft_fields import depends, field
from iptrec.matching.nft_parts import extracts, garbled, scrambled
from iptrec.matching.nft_payload import span
from iptrec.matching.rewrites import MARK, can_be_mended, is_written, rewritten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from iptrec.decode.rulesets.nft_matches import Condition, Element, Flags, Left, Scalar, Value
    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts
    from iptrec.matching.field import Field

_SHIFTS: Final = frozenset(["<<", ">>"])
_REGISTER: Final = 32  # bits, of fields that are compared at once
_MOST_WAYS: Final = 64  # in which the parts of a concatenation may be, each looked up
_WIDEST: Final = 128  # bits, of what is shifted
_REASONS: Final[dict[str, Callable[[Facts], str]]] = {
    "meta ipsec exists": of_ipsec,
    "meta hour": moments.unjudged,
    "meta time": moments.unjudged_time,
    "meta day": moments.unjudged_day,
    **nft_ct.REASONS,
}
_PRESENT: Final = frozenset(["has", "read"])
_TCP_OPTION: Final = "tcp option "
_LOOKUPS: Final = frozenset(["map", "vmap"])
_UNREAD: Final = Judgement(None, Clause(UNREAD))


class _Values(NamedTuple):
    """What the packet may have; ``known`` is empty where that is not known. ``own``: for a reader.

    ``there``: it is known to have the header at all.
    """

    known: tuple[int | str, ...]
    number: Callable[[Scalar], int | str]
    own: object
    there: bool = True


def judge(rule: Rule, facts: Facts) -> Judgement:
    """Evaluate a rule of nft's syntax."""
    return _evaluated(rule, facts)[0]


def passed(rule: Rule, facts: Facts) -> Facts:
    """A packet that a rule did not match: with what the rule changed before the condition that failed."""
    upto = rule.matches[: _conditions(rule)]
    return _evaluated(replace(rule, matches=upto), facts)[1] if any(_writes(upto)) else facts


def matched(rule: Rule, facts: Facts) -> Facts:
    """A packet that a rule matched, with all that the rule changed."""
    for one in _writes(rule.matches):
        facts = _written(one, facts, certain=True)
    return facts


def changes(rule: Rule, *, matched: bool) -> frozenset[str]:
    """The keys of all that a rule may change; one that did not match only what stands before a condition."""
    return frozenset(
        one.key for one in _writes(rule.matches if matched else rule.matches[: _conditions(rule)])
    )


def _conditions(rule: Rule) -> int:
    """Where a rule's last condition ends."""
    return max(
        (at for at, one in enumerate(rule.matches, 1) if not isinstance(one, Writes)), default=0
    )


def _writes(statements: Iterable[Condition]) -> Iterator[Writes]:
    return (one for one in statements if isinstance(one, Writes))


def _evaluated(rule: Rule, facts: Facts) -> tuple[Judgement, Facts]:
    """What can be said of a rule, and what it leaves of a packet that it does not match."""
    unknown: Judgement | None = None if rule.listed or rule.matches else _UNREAD
    lacks = _lacks(rule, facts)
    for at, condition in enumerate(rule.matches):
        match condition:
            case Writes():
                facts = _written(condition, facts, certain=unknown is lacks is None)
                continue
            case Match():
                fits, own = _judged(condition, facts)
            case Other():
                fits, own = None, None
        if fits is False and _may_hold(rule, at, facts):
            fits = None
        if fits is False:
            instead = "" if own is None else f"it is {own}"
            return Judgement(False, nft_words.told(condition), instead), facts
        if fits is None and unknown is None:
            unknown = Judgement(None, nft_words.told(condition), _hint(condition, own, facts))
    return lacks or unknown or Judgement(True), facts


def _lacks(rule: Rule, facts: Facts) -> Judgement | None:
    """What a packet lacks of what nft need not print; where that stands in the rule is not known."""
    for one in rule.compiled:
        fits, own = _judged(one, facts)
        if fits is False:
            return Judgement(False, nft_words.told(one), f"it is {own}; nft does not print that")
    return None


def _hint(condition: Match | Other, own: object, facts: Facts) -> str:
    """What is known although it is not enough, and why no more is."""
    for left in keys(condition.left) if isinstance(condition, Match) else ():
        if left.startswith(_TCP_OPTION):
            return dumped_of_tcp(facts)
        if left in _REASONS:
            return _REASONS[left](facts)
        if re.match("fib .* oif", left) and own is not None:
            return f"it is {own}"
    return ""


def _written(one: Writes, facts: Facts, *, certain: bool) -> Facts:
    return rewritten(facts, one.key, _value(one, facts), certain=certain)


def _value(one: Writes, facts: Facts) -> int | None:
    """What a field is set to, None where nobody knows."""
    own = field(one.key)
    try:
        if one.by is not None:
            (value,) = _read(one.by, facts).known
        elif one.value is not None and own is not None:
            value = _bits(one.value, own.number)
        else:
            return None
    except (AbsentError, ValueError, OverflowError, TypeError, LookupError):  # a stranger's ruleset
        return None
    return value if isinstance(value, int) and value >= 0 else None


def _may_hold(rule: Rule, at: int, facts: Facts) -> bool:
    """Whether a rule may match although one condition of its does not hold.

    nft 1.0.6 compares neighbouring fields at once: sport != 1 dport != 2 matches unless both are equal.
    """
    beside = [*rule.matches[max(at - 1, 0) : at], *rule.matches[at + 1 : at + 2]]
    own = rule.matches[at]
    return isinstance(own, Match) and any(
        isinstance(one, Match)
        and _compared_at_once(own, one)
        and _judged(one, facts)[0] is not False
        for one in beside
    )


def _compared_at_once(one: Match, other: Match) -> bool:
    """Whether nft may merge two conditions."""
    if not one.op == other.op == "!=" or not isinstance(one.left, str):
        return False
    spans = [span(match.left) for match in (one, other) if isinstance(match.left, str)]
    scalars = isinstance(one.right, int | str) and isinstance(other.right, int | str)
    if len(spans) < 2 or None in spans or not scalars:  # noqa: PLR2004 - both
        return False
    first, second = sorted(filter(None, spans))
    return (
        first.base == second.base
        and first.start + first.size == second.start
        and first.size + second.size <= _REGISTER
    )


def _judged(match: Match, facts: Facts) -> tuple[bool | None, object]:
    """Whether a condition holds, and what the packet has; None: it cannot be known."""
    try:
        if match.op in _PRESENT and isinstance(match.left, str):
            option = match.op == "has" and match.left.startswith(_TCP_OPTION)
            return (_can_be_set if option else _has)(match.left, facts), None
        parts = match.left.parts if isinstance(match.left, Concat) else (match.left,)
        part = isinstance(match.left, Concat) or isinstance(match.right, Named)
        values = [_read(one, facts, part=part) for one in parts]
        own = " . ".join(str(one.own) for one in values if one.own is not None) or None
        holds = _compared(match, values, facts)
        return holds if all(one.there for one in values) else holds and None, own
    except AbsentError as instead:
        return False, instead
    except (ValueError, OverflowError, TypeError, LookupError):  # a stranger's ruleset
        return None, None


def _compared(match: Match, values: list[_Values], facts: Facts) -> bool | None:
    """Whether a condition holds for a packet that has what is looked at."""
    if isinstance(match.right, OneOf | Named) or isinstance(match.left, Concat):
        return _looked_up(match, values, facts)
    (value,) = values
    match = match._replace(right=_first_bits(match.right, match.left))
    found = {_holds(one, match, value.number) for one in value.known}
    return found.pop() if len(found) == 1 else None


def _first_bits(right: Value | Flags, left: Left) -> Value | Flags:
    """The first bits of a field, of which nft makes a prefix: tcp sport 2048/8."""
    own = span(left) if isinstance(left, str) else None
    if own is None or not isinstance(right, Prefix) or not isinstance(right.address, int):
        return right
    rest = own.size - right.length
    return Range(right.address, right.address | (1 << rest) - 1) if rest >= 0 else right


def _can_be_set(key: str, facts: Facts) -> bool | None:
    """Whether a rule that sets an option of TCP goes on (nft_exthdr_tcp_set_eval). Raises AbsentError.

    So it does where a segment has no such option; where that is cut short, or there is no TCP, the rule ends.
    """
    there = _has("tcp doff", facts)
    if not there:
        return there
    try:
        return _has(key, facts)
    except AbsentError:
        return True


def _has(key: str, facts: Facts) -> bool | None:
    """Whether a packet has a field, whatever rules have made of it. Raises AbsentError."""
    if key == MARK:
        return True
    if key.startswith("ct ") and not is_written("ct state", facts.written):
        return nft_ct.connected(facts) or None
    one = field(key)
    known = () if one is None else _possible(one, facts)
    mended = can_be_mended(facts, key)
    if not mended:
        if mended is None:
            return None
        raise AbsentError("cut short")
    return None if any(isinstance(each, IfThere) for each in known) else bool(known) or None


def _read(left: Left, facts: Facts, *, part: bool = False) -> _Values:
    """What a packet has of what a condition looks at. Raises ValueError for what is not understood.

    ``part``: of a concatenation or as a named set has it, see `nft_parts`.
    """
    if isinstance(left, Concat):
        raise ValueError(left)  # noqa: TRY004 - of a concatenation
    if isinstance(left, Bitwise):
        inner = _read(left.of, facts, part=part)
        by = _bits(left.by, inner.number)
        combined = [_combined(one, left.op, by) for one in inner.known]
        if part and extracts(left):
            return inner._replace(known=tuple({*inner.known, *combined}))
        return inner._replace(known=() if scrambled(left) else tuple(combined))
    one = field(left)
    if one is None:
        return _Values((), str, None)
    if any(is_written(key, facts.written) for key in depends(left)):
        return _Values((), one.number, None)
    known = _possible(one, facts)  # raises where the header is not there
    if is_written(left, facts.written) or (part and scrambled(left)):
        return _Values((), one.number, None)
    there = not any(isinstance(each, IfThere) for each in known)
    return _Values(known, one.number, one.own(facts), there)


def _possible(one: Field, facts: Facts) -> tuple[int | str, ...]:
    value = one.read(facts)
    if value is None:
        return ()
    return tuple(value) if isinstance(value, frozenset) else (value,)


def _combined(own: int | str, op: str, by: int) -> int:
    if isinstance(own, str) or (op in _SHIFTS and by > _WIDEST):
        raise TypeError(own)
    match op:
        case "&":
            return own & by
        case "|":
            return own | by
        case "^":
            return own ^ by
        case "<<":
            return own << by & 0xFFFFFFFF
        case _:
            return own >> by


def _looked_up(match: Match, values: list[_Values], facts: Facts) -> bool | None:
    """Whether a set, or a map, has what the packet has."""
    if match.op not in ("==", "!=", *_LOOKUPS):
        return None
    numbers = [one.number for one in values]
    ways = [one.known or (None,) for one in values]
    if math.prod(map(len, ways)) > _MOST_WAYS:
        return None
    found = {_among(match, own, numbers, facts) for own in itertools.product(*ways)}
    one = found.pop() if len(found) == 1 else None
    if match.op != "!=":
        return one
    # What is not known may not be there at all: then nothing is unequal to it.
    open_ = any(not each.known for each in values)
    return None if one is None or (not one and open_) else not one


def _among(
    match: Match,
    own: Sequence[int | str | None],
    numbers: Sequence[Callable[[Scalar], int | str]],
    facts: Facts,
) -> bool | None:
    if isinstance(match.right, Named):
        return _in_named(match.right.name, own, numbers, facts)
    if garbled(match.left):
        return None
    right = match.right if isinstance(match.right, OneOf) else OneOf((match.right,))
    return nft_lookup.among(own, right, numbers)


def _in_named(
    name: str,
    own: Sequence[int | str | None],
    numbers: Sequence[Callable[[Scalar], int | str]],
    facts: Facts,
) -> bool | None:
    """Whether it is in a named set, whichever of those that may have been the packet's."""
    found = {
        None if one is None else nft_lookup.contains(one, own, numbers, facts.time_ns)
        for one in facts.nft_sets(name)
    }
    return found.pop() if len(found) == 1 else None


def _holds(own: int | str, match: Match, number: Callable[[Scalar], int | str]) -> bool | None:
    right = match.right
    assert not isinstance(right, OneOf | Named)  # noqa: S101 - looked up
    match match.op:
        case "==":
            return nft_lookup.fits(own, nft_lookup.span(right, number))
        case "!=":
            return _differs(own, right, number)
    if isinstance(own, str):
        raise TypeError(own)
    bits = _bits(right, number)
    match match.op:
        case "in":
            return own & bits != 0
        case "!":
            return own & bits == 0
        case "<":
            return own < bits
        case "<=":
            return own <= bits
        case ">":
            return own > bits
        case ">=":
            return own >= bits
    raise ValueError(match.op)


def _differs(own: int | str, value: Element, number: Callable[[Scalar], int | str]) -> bool | None:
    """Of ttl < 60 ttl > 40, in this order, nft 1.0.6 prints ttl != 60-40.

    None: ttl != 60-60 may be a range, which most are outside of, or ttl < 60 ttl > 60, which nothing is.
    """
    wanted = nft_lookup.span(value, number)
    if isinstance(value, Range) and isinstance(own, int) and not isinstance(wanted, str):
        low, high = wanted
        if low == high:
            return False if own == low else None
        return not low <= own <= high if low < high else high < own < low
    return not nft_lookup.fits(own, wanted)


def _bits(value: Value | Scalar | Flags, number: Callable[[Scalar], int | str]) -> int:
    """One number, or several bits by their names."""
    if isinstance(value, OneOf | Named):
        raise TypeError(value)
    wanted = nft_lookup.span(value, number)
    if isinstance(wanted, str) or wanted[0] != wanted[1]:
        raise TypeError(value)
    return wanted[0]
