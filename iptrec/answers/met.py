"""What a packet was at each rule that it met: as the kernel told it, and as rules had rewritten it by then.

An event of nf_tables tells of the packet after its rule: each its mark, the first of a base chain all else.
What rules have changed since then is reckoned. Each event of legacy iptables tells all of it, before its rule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.answers.before import changed
from iptrec.decode.conntrack import STATES
from iptrec.decode.rulesets.nft_matches import TEMPLATE
from iptrec.matching import after, changes
from iptrec.matching.rewrites import ANYTHING, MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.answers.before import Before
    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts

_OF_TEMPLATES: Final = frozenset(["ct", TEMPLATE])


class Met(NamedTuple):
    """A step. ``facts``: before its own rule; ``passed``: the rules passed over, with number and facts."""

    facts: Facts
    passed: list[tuple[int, Rule, Facts]]


def met(steps: Iterable[tuple[Before, Facts]]) -> Iterator[Met]:
    """For each step of a packet; with each comes what its event tells, and the mark before it."""
    last: Before | None = None
    state: Facts | None = None  # of the packet after the last step
    for step, told in steps:
        if not step.late:
            yield Met(told, [(number, rule, told) for number, rule in step.rules])
            last = state = None
            continue
        near = state if last is not None and last.place.hook == step.place.hook else None
        if not step.dumps:
            same = near is not None and last is not None and last.place.pass_ == step.place.pass_
            begin = _carried(told, near if same else None)
        else:
            begin = _before_dump(step, told, None if near is None else near.mark)
            begin = replace(begin, written=begin.written | _untold(told, near))
        one = _walked(step, begin)
        yield one
        after_ = _after(step, one.facts)
        dumped = replace(told, ct_mark=after_.ct_mark, written=_untold(told, after_))
        state = dumped if step.dumps else after_
        state = replace(state, mark=step.mark_after)
        last = step


def _untold(told: Facts, state: Facts | None) -> frozenset[str]:
    """What rules made of a packet that has no connection: a trace does not tell whether it has a template."""
    if state is None or not told.ct_state & STATES["invalid"]:
        return frozenset()
    return state.written & _OF_TEMPLATES


def _walked(step: Before, begin: Facts) -> Met:
    """The rules that were passed over, one after the other."""
    passed = []
    for number, rule in step.rules:
        passed.append((number, rule, begin))
        begin = after(rule, begin, matched=False)
    if step.mark is not None:
        begin = replace(begin, mark=step.mark)
    return Met(begin, passed)


def _after(step: Before, facts: Facts) -> Facts:
    """A packet behind the rule of a step."""
    if ANYTHING in changed(step.place):
        return replace(facts, written=frozenset([ANYTHING]))
    rule = step.place.rule
    return facts if rule is None else after(rule, facts, matched=True)


def _carried(told: Facts, state: Facts | None) -> Facts:
    """What an event tells that does not tell the packet; ``state``: what that was, None where nobody knows."""
    if state is None:
        return replace(told, written=frozenset([ANYTHING]))
    return replace(
        told,
        header=state.header,
        bits=state.bits,
        written=state.written,
        mark=state.mark,
        ct_mark=state.ct_mark,
    )


def _before_dump(step: Before, told: Facts, mark: int | None) -> Facts:
    """A packet before the rules behind which it was dumped; ``mark``: after the last step of this hook."""
    passed = frozenset(key for _, rule in step.rules for key in changes(rule, matched=False))
    if step.mark is not None and not {MARK, ANYTHING} & passed:
        mark = step.mark
    return replace(told, mark=mark, written=(passed | changed(step.place)) - {MARK})
