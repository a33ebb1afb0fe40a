"""The path of one packet as a whole: is it possible, how did it end, who decided.

Traffic takes few distinct paths. A path is a tuple of place numbers (`Book`); each distinct one is
walked once and its outcomes shared by all packets that took it. Where more than one ruleset may have
been in force, the walk goes on in branches, one for each that fits so far.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Final

from iptrec.packets.branches import Branch, Walk, short_of_the_limit
from iptrec.packets.gaps import across
from iptrec.packets.outcome import outcome, unseen_table

if TYPE_CHECKING:
    from iptrec.names import Family
    from iptrec.packets.outcome import Outcome
    from iptrec.rulesets.grammar import Grammar, State
    from iptrec.rulesets.places import Pass
    from iptrec.rulesets.resolver import Book, Met
    from iptrec.rulesets.timeline import Attached

_REMEMBERED: Final = 100_000
_MOST_BRANCHES: Final = 64


class Walker:
    """Steps and judges paths against the rulesets of a `Book`, remembering what it has seen.

    ``gaps``: packets pass chains that the ruleset does not have, between those that it has, see `gaps`.
    """

    def __init__(self, resolver: Book, *, gaps: bool = False) -> None:
        self._resolver = resolver
        self._gaps = gaps
        self._begun: dict[int, Walk] = {}
        self._steps: dict[tuple[State, Family, int, int, Met], State | None] = {}
        self._outcomes: dict[tuple[int, ...], tuple[Outcome, ...]] = {}
        self._readings: dict[int, tuple[object, ...]] = {}

    def outcomes(self, path: tuple[int, ...]) -> tuple[Outcome, ...]:
        """How a packet that was seen at these places ended; empty if no packet can have been."""
        # Real traffic takes few paths; a made-up file may not.
        if len(self._outcomes) > _REMEMBERED:
            self._outcomes.clear()
        if path not in self._outcomes:
            walk: Walk | None = self.begin(path[0])
            for place in path[1:]:
                walk = self.step(walk, place) if walk else None
            self._outcomes[path] = self.judge(walk) if walk else ()
        return self._outcomes[path]

    def across_holes(
        self, path: tuple[int, ...], *, torn: bool, copied: bool = False
    ) -> Outcome | None:
        """The outcome of a path whose rules are settled; None if no packet can have taken it.

        Events may be missing in it; ``torn``: it may have met old and new rules; ``copied``: a copy did.
        """
        walk = along(self, path, torn=torn, copied=copied)
        return self.judge(walk)[0] if walk else None

    def begin(self, place: int) -> Walk:
        """A path that begins here; headless unless TRACE can have been switched on just before.

        Always the same object for a place. A chain that is passed behind its namesake is not the first.
        """
        resolver = self._resolver
        if place not in self._begun:
            choices = resolver.choices[place]
            begun = [one for one in choices if self._behind(one) is None] or choices
            self._begun[place] = Walk(
                tuple(_begun_at(resolver, one) for one in begun),
                headless=not resolver.places[place].starts,
            )
        return self._begun[place]

    def step(self, walk: Walk, place: int) -> Walk | None:
        """The path with one more event; None if it cannot follow."""
        branches = tuple(
            Branch((*branch.path, one), state, self._resolver.meeting(branch.met, one))
            for branch in short_of_the_limit(walk)
            for one in self._resolver.choices[place]
            if (state := self._follow(branch, one)) is not None
            and not self._again(branch, one)
            and not self._too_early(branch, one)
        )
        return self._narrowed(walk, branches) if branches else None

    def leap(self, walk: Walk, place: int) -> Walk | None:
        """As `step`, over events that are missing; None if ``place`` does not lie further on."""
        resolver = self._resolver
        branches = tuple(
            _begun_at(resolver, one, branch)
            for branch in short_of_the_limit(walk)
            for one in resolver.choices[place]
            if resolver.families[branch.path[-1]] == resolver.families[one]
            and resolver.judging(one, branch.met).later(branch.state, resolver.places[one])
        )
        return replace(self._narrowed(walk, branches), holes=True) if branches else None

    def tear(self, walk: Walk, place: int) -> Walk | None:
        """As `step`, between rulesets: a packet meets old and new rules while they are being changed."""
        resolver = self._resolver
        branches = tuple(
            _begun_at(resolver, one, branch)
            for branch in short_of_the_limit(walk)
            for one in resolver.choices[place]
            if resolver.families[branch.path[-1]] == resolver.families[one]
            and branch.state.status != "ended"
        )
        return replace(self._narrowed(walk, branches), torn=True) if branches else None

    def _narrowed(self, walk: Walk, branches: tuple[Branch, ...]) -> Walk:
        """The walk with these branches; of too many some of each kind that reads and stands differently."""
        if len(branches) <= _MOST_BRANCHES:
            return replace(walk, branches=branches)
        kinds: dict[object, list[Branch]] = {}
        for one in branches:
            kind = self._reading(one.path), one.state, self._resolver.states[one.path[-1]]
            kinds.setdefault(kind, []).append(one)
        in_turn = chain.from_iterable(zip_longest(*kinds.values()))
        kept = islice((one for one in in_turn if one is not None), _MOST_BRANCHES)
        return replace(walk, branches=tuple(kept), cut=True)

    def pass_(self, place: int) -> Pass:
        """The pass that a place belongs to."""
        return self._resolver.places[place].pass_

    def may_come_behind(self, walk: Walk, place: int) -> bool:
        """Whether a packet has passed chains before those of a place where traces begin, and nothing else."""
        there = self.pass_(place)
        return any(
            all(one.hook == there.hook and one != there for one in map(self.pass_, branch.path))
            for branch in walk.branches
        )

    def changes(self, place: int) -> bool:
        """Whether a place is in a table that changed while it was recorded, or that may be another one's."""
        if self._gaps:  # nobody knows when the ruleset was printed
            return True
        there, book = self._resolver.places[place], self._resolver
        timeline = book.timelines.table(book.families[place], there.table)
        return timeline is not None and len(timeline.states) > 1

    def of_bridge(self, place: int) -> bool:
        """Whether a place is in a chain of the bridge family."""
        return self._resolver.places[place].bridged

    def stands_at(self, walk: Walk, target: str) -> bool:
        """Whether the path's last event was a rule with this target."""
        return self._resolver.places[walk.branches[0].path[-1]].target == target

    def judge(self, walk: Walk) -> tuple[Outcome, ...]:
        """What became of a packet that went so and was not seen again: all that a reader could tell.

        Paths that read the same are one. Where one is complete, those that break off are left out, unless that
        is because nobody saw the rules; those that break off only as nothing tells their end come last.
        """
        read: dict[tuple[object, ...], list[Branch]] = {}
        for branch in walk.branches:
            read.setdefault(self._reading(branch.path), []).append(branch)
        found = tuple(
            replace(outcome(self._resolver, walk, first), alike=tuple(one.path for one in others))
            for first, *others in read.values()
        )
        if not any(one.complete for one in found):
            return found
        left = (
            one
            for one in found
            if one.complete or one.endless or unseen_table(self._resolver, one.path) is not None
        )
        return tuple(sorted(left, key=lambda one: one.endless))

    def _follow(self, branch: Branch, place: int) -> State | None:
        resolver, last = self._resolver, branch.path[-1]
        if self._gaps and (found := across(resolver, branch, place)) is not None:
            return found
        key = (branch.state, resolver.families[last], resolver.states[last], place, branch.met)
        if key not in self._steps:
            if len(self._steps) > _REMEMBERED:
                self._steps.clear()
            self._steps[key] = (
                self._stepped(branch, place) if self._together(branch.state, last, place) else None
            )
        return self._steps[key]

    def _stepped(self, branch: Branch, place: int) -> State | None:
        grammar, there = self._resolver.judging(place, branch.met), self._resolver.places[place]
        found = grammar.advance(branch.state, there)
        if found is None and there.builtin and self._next_by_priority(branch, place, grammar):
            found = grammar.begin(there)
        return found

    def _next_by_priority(self, branch: Branch, place: int, grammar: Grammar) -> bool:
        """Whether a chain comes behind one that its own rules have at another hook, or do not have."""
        state, resolver = branch.state, self._resolver
        if state.status != "passed" or any(state.pass_ in one for one in grammar.routes):
            return False
        here, there = resolver.base(branch.path[-1]), resolver.base(place)
        if here is None or there is None:
            return False
        return here.hook == there.hook and here.priority <= there.priority

    def _again(self, branch: Branch, place: int) -> bool:
        """Whether a path comes back to a base chain of a bridge: each step may be one of another route."""
        there = self._resolver.places[place]
        return (
            there.bridged
            and branch.state.pass_ != there.pass_
            and any(self.pass_(one) == there.pass_ for one in branch.path)
        )

    def _together(self, state: State, last: int, place: int) -> bool:
        """Whether both can be of one packet: a table is passed in one of its states."""
        resolver = self._resolver
        here, there = resolver.places[last], resolver.places[place]
        if resolver.families[last] != resolver.families[place]:
            return False
        if here.pass_ == there.pass_ and resolver.states[last] == resolver.states[place]:
            return True
        if here.pass_ != there.pass_:
            return self._between(last, place)
        passed = state.status == "passed"
        ahead, behind = self._ahead(last) is not None, self._behind(place) is not None
        return passed and (
            (ahead and self._beside(last, place)) or (behind and self._beside(place, last))
        )

    def _between(self, last: int, place: int) -> bool:
        """Whether chains of two names can be passed in turn, though one of them was not in force.

        It may be parted from its namesake by chains whose priority lies between.
        """
        ahead, behind = self._ahead(last), self._behind(place)
        if ahead is None and behind is None:
            return True
        here, there = self._resolver.base(last), self._resolver.base(place)
        if here is None or there is None or here.hook != there.hook:
            return False
        return (ahead is None or there.priority <= ahead) and (
            behind is None or behind <= here.priority
        )

    def _too_early(self, branch: Branch, place: int) -> bool:
        """Whether a chain that was not in force is passed after its namesake, and that one was not passed."""
        return self._behind(place) is not None and not any(
            self.pass_(one) == self.pass_(place) and self._beside(place, one) for one in branch.path
        )

    def _ahead(self, place: int) -> int | None:
        """The priority of its namesake, for a chain that was not in force and is passed before that one."""
        attached = self._attached(place)
        return None if attached is None else attached.ahead.get(self.pass_(place).base or "")

    def _behind(self, place: int) -> int | None:
        """The same for one that is passed after its namesake."""
        attached = self._attached(place)
        return None if attached is None else attached.behind.get(self.pass_(place).base or "")

    def _attached(self, place: int) -> Attached | None:
        """What a place is in, if that was not in force."""
        resolver = self._resolver
        return resolver.attached[resolver.states[place]] if resolver.places[place].beside else None

    def _beside(self, attached: int, other: int) -> bool:
        """Whether a place is in a chain that was not in force beside the rules of the other place."""
        resolver = self._resolver
        return resolver.attached[resolver.states[attached]].beside == resolver.states[other]

    def _reading(self, path: tuple[int, ...]) -> tuple[object, ...]:
        """What a reader is told of a path; a rule that has moved is the same one, with its text."""
        return tuple(map(self._reading_of, path))

    def _reading_of(self, place: int) -> tuple[object, ...]:
        if place not in self._readings:
            one = self._resolver.places[place]
            text = one.number if one.rule is None else one.rule.spec
            self._readings[place] = (one.table, one.chain, text, one.ours, one.end, one.target)
        return self._readings[place]


def along(
    walker: Walker, path: tuple[int, ...], *, torn: bool = False, copied: bool = False
) -> Walk | None:
    """The whole of a path, in which events may be missing; see `Walker.across_holes`."""
    walk: Walk | None = walker.begin(path[0])
    if walk and copied:
        walk = replace(walk, headless=False, copied=True)
    for place in path[1:]:
        if walk is None:
            return None
        walk = (
            walker.step(walk, place)
            or walker.leap(walk, place)
            or (walker.tear(walk, place) if torn else None)
        )
    return walk


def _begun_at(book: Book, place: int, before: Branch | None = None) -> Branch:
    """A path with one more event, whatever it was that led there."""
    path, met = ((), ()) if before is None else (before.path, before.met)
    met = book.meeting(met, place)
    return Branch((*path, place), book.judging(place, met).begin(book.places[place]), met)
