"""What of an explanation is worth a line: the rules that decided or changed something, and the way to them.

All else is folded, and nothing of it is lost: each rule that was passed over is in exactly one fold.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.packets.model import decided_at

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from iptrec.answers.why import ExplainedStep, Explanation, Passed
    from iptrec.packets.model import Step

# Targets that do nothing to a packet.
_QUIET: Final = frozenset([
    "AUDIT", "CHECKSUM", "IDLETIMER", "LED", "LOG", "NFLOG", "RATEEST", "RETURN", "SET", "TRACE", "ULOG",
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Met:
    """A rule that matched, or the end of a chain.

    ``decided``: it is what became of the packet. ``last``: it is the last that was seen of the packet.
    """

    step: ExplainedStep
    decided: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Fold:
    """Rules of a chain, one after the other, that did nothing to the packet.

    ``passed``: those that did not match. ``went_on``: those that did, each followed by what was met in the
    chains that it called and that returned.
    """

    passed: tuple[Passed, ...] = ()
    went_on: tuple[ExplainedStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A chain in which something happened, or the part of it between two chains that it called."""

    table: str
    chain: str
    rows: tuple[Met | Fold, ...]


@dataclass(frozen=True, slots=True)
class Through:
    """A base chain that let the packet go on, with the chains that it called.

    ``leads``: it is the part of it that ends with a call of the chain of the section that follows.
    """

    steps: tuple[ExplainedStep, ...]
    leads: bool = False


def fold(
    explanation: Explanation, *, effects: bool = True, callers: bool = True, most: int = 4
) -> Iterator[Section | Through]:
    """Fold what is of no interest.

    ``effects``: what changed the packet is of interest, too, not only what decided. ``callers``: and so are the
    calls that led to it. ``most``: folds between two rules that are of interest; one where there would be more.
    """
    steps = explanation.steps
    calls = _calls([one.step for one in steps])
    decided = decided_at(explanation.packet.decided_by, explanation.packet.steps)
    shown = _with_callers({len(steps) - 1 if decided is None else decided}, calls)
    if effects:
        changed = _effects(steps, calls)
        shown |= _with_callers(changed, calls) if callers else changed
    homes = _homes(calls, {call.visit for at, call in enumerate(calls) if at in shown})
    for (told, _), group in itertools.groupby(range(len(steps)), key=lambda at: homes[at][:2]):
        turns = [
            (under, list(turn))
            for under, turn in itertools.groupby(group, key=lambda at: homes[at].under)
        ]
        if told:
            pieces = [
                piece
                for under, turn in turns
                for piece in _pieces(under, turn, steps, shown, decided)
            ]
            here = steps[turns[0][0]].step
            yield Section(here.table, here.chain, tuple(_rows(pieces, most)))
        else:
            within = [at for _, turn in turns for at in turn]
            leads = any(call.caller == within[-1] for call in calls[within[-1] + 1 :][:1])
            yield Through(tuple(steps[at] for at in within), leads)


class _Call(NamedTuple):
    """Where a step stands: the number of the visit to its chain, and the step that called the chain."""

    visit: int
    caller: int | None


def _calls(steps: Sequence[Step]) -> list[_Call]:
    found: list[_Call] = []
    stack: list[tuple[str, str, _Call]] = []  # table and chain of each visit that has not ended
    visits = itertools.count()
    for at, (before, step) in enumerate(itertools.pairwise([None, *steps])):
        assert step is not None  # noqa: S101 - only the first is
        called = before is not None and _calls_chain(before, step)
        if not called:
            while stack and (stack[-1][:2] != (step.table, step.chain) or _ended(before)):
                stack.pop()
        if called or not stack:
            call = _Call(next(visits), at - 1 if called else None)
            stack.append((step.table, step.chain, call))
        found.append(stack[-1][2])
    return found


def _calls_chain(step: Step, to: Step) -> bool:
    return step.type == "rule" and (step.table, step.target) == (to.table, to.chain)


def _ended(step: Step | None) -> bool:
    return step is not None and step.type == "policy"


def _effects(steps: Sequence[ExplainedStep], calls: Sequence[_Call]) -> set[int]:
    """The rules that changed the packet, or let it leave a base chain."""
    callers = {call.caller for call in calls}
    return {at for at, one in enumerate(steps) if at not in callers and _has_effect(one)}


def _has_effect(one: ExplainedStep) -> bool:
    if one.step.type != "rule":
        return False
    marked = one.mark is not None and one.mark[0] != one.mark[1]
    return marked or (one.step.target is not None and one.step.target not in _QUIET)


def _with_callers(wanted: set[int], calls: Sequence[_Call]) -> set[int]:
    found = set(wanted)
    for at in range(len(calls) - 1, -1, -1):  # a caller comes before what it called
        caller = calls[at].caller
        if at in found and caller is not None:
            found.add(caller)
    return found


class _Home(NamedTuple):
    """Under which visit to a chain a step is told, and under which step of it.

    ``shown``: the visit is. Else it is that to a base chain which let the packet go on.
    """

    shown: bool
    visit: int
    under: int


def _homes(calls: Sequence[_Call], shown: set[int]) -> list[_Home]:
    homes: list[_Home] = []
    for at, call in enumerate(calls):
        if call.visit in shown or call.caller is None:
            homes.append(_Home(call.visit in shown, call.visit, at))
        else:
            homes.append(homes[call.caller])
    return homes


def _pieces(
    under: int,
    turn: Sequence[int],
    steps: Sequence[ExplainedStep],
    shown: set[int],
    decided: int | None,
) -> Iterator[Met | Fold]:
    """A step with the rules passed over before it, and what was met in the chains that it called.

    ``under``: that step. It is not in its turn where a chain that it called was told in between.
    """
    called = tuple(steps[at] for at in turn if at != under)
    if under not in turn:
        yield Fold(went_on=called)
        return
    for _, alike in itertools.groupby(steps[under].passed, key=reason):
        yield Fold(passed=tuple(alike))
    bare = replace(steps[under], passed=())
    if under in shown or bare.step.type != "rule":
        yield Met(bare, under == decided, under == len(steps) - 1)
        if called:
            yield Fold(went_on=called)
    else:
        yield Fold(went_on=(bare, *called))


def reason(one: Passed) -> Hashable:
    """Those with the same one share a fold."""
    clause, remark = one.judgement.clause, one.judgement.remark
    return one.fits, clause and (clause.module, clause.asks), remark


def _rows(pieces: Sequence[Met | Fold], most: int) -> Iterator[Met | Fold]:
    for folded, group in itertools.groupby(pieces, key=lambda one: isinstance(one, Fold)):
        if not folded:
            yield from group
            continue
        folds = list(_joined(one for one in group if isinstance(one, Fold)))
        yield from folds if len(folds) <= most else [_one(folds)]


def _joined(folds: Iterable[Fold]) -> Iterator[Fold]:
    """Rules that went on share a fold, but for those whose chains passed over rules."""
    for quiet, group in itertools.groupby(folds, key=_is_quiet):
        if quiet:
            yield _one(group)
        else:
            yield from group


def _is_quiet(one: Fold) -> bool:
    return bool(one.went_on) and not any(step.passed for step in one.went_on)


def _one(folds: Iterable[Fold]) -> Fold:
    every = list(folds)
    return Fold(
        tuple(passed for one in every for passed in one.passed),
        tuple(step for one in every for step in one.went_on),
    )
