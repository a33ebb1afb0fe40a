"""Packets whose fate a change of the rules altered while we recorded.

Two things can be seen: a rule that was not there in the beginning took part in the decision, or the
rule (or policy) that decided an earlier packet of the same flow was gone. Where neither was, a chain that was
renamed is told, for its packets are told by another name than before: a chain of nf_tables, which keeps its
handle, as rules do that jump to it.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from iptrec.packets.model import Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.decode.rulesets.types import Chain
    from iptrec.names import I64
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.relations import Relations
    from iptrec.packets.window import Window
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.timeline import Timeline

    _Tell = Callable[[Timeline, int, Place], "Change | None"]  # up to a state


class RuleChanges:
    """Tells the change behind a packet's end; for the windows of one stream."""

    def __init__(self, relations: Relations) -> None:
        self._relations = relations
        self._known: dict[tuple[_Tell, int, int], Change | None] = {}

    def numbers(self, window: Window, positions: I64) -> I64:
        """Equal numbers for traversals that the same change altered, 0 for those that none did."""
        outcome = window.assembly.outcome[positions]
        may = np.array([_changing(window, one) is not None for one in window.assembly.outcomes])
        found = np.zeros(len(positions), np.int64)
        known: dict[Change | None, int] = {None: 0}
        for at in np.flatnonzero(may[outcome]).tolist():
            change = self.altered_by(window, int(positions[at]))
            found[at] = known.setdefault(change, len(known))
        return found

    def altered_by(self, window: Window, position: int) -> Change | None:
        """The change without which the traversal at this position would have ended otherwise."""
        assembly, book = window.assembly, window.resolver
        outcome = assembly.outcomes[assembly.outcome[position]]
        timeline = _changing(window, outcome)
        if timeline is None or outcome.decider is None:
            return None
        decided = outcome.path[outcome.decider]
        decider = book.places[decided]
        state = _state(window, position, outcome, timeline)
        here = takewhile(
            lambda number: book.places[number].pass_ == decider.pass_,
            reversed(outcome.path[: outcome.decider + 1]),
        )
        passed = [(number, book.places[number]) for number in here]
        before = self._relations.decider_before(position, timeline.time_ns[1])
        other = before is not None and before != decided
        gone = [(before, book.places[before])] if other and before is not None else []
        gone = [one for one in gone if one[1].table == decider.table]
        return (
            self._first(_came, timeline, state, passed)
            or self._first(_went, timeline, state, gone)
            or self._first(_renamed, timeline, state, passed)
        )

    def _first(
        self, tell: _Tell, timeline: Timeline, state: int, places: list[tuple[int, Place]]
    ) -> Change | None:
        """The first change that these places tell, up to a state of their table."""
        for number, place in places:
            key = tell, state, number
            if key not in self._known:
                self._known[key] = tell(timeline, state, place)
            if change := self._known[key]:
                return change
        return None


def _changing(window: Window, outcome: Outcome) -> Timeline | None:
    """The states of the table that decided, if there was more than one."""
    if outcome.decider is None:
        return None
    book, decided = window.resolver, outcome.path[outcome.decider]
    timeline = book.timelines.table(book.families[decided], book.places[decided].table)
    return timeline if timeline is not None and len(timeline.states) > 1 else None


def _state(window: Window, position: int, outcome: Outcome, timeline: Timeline) -> int:
    """The index of the table's state that judged the packet."""
    assert outcome.decider is not None  # noqa: S101 - the caller looked
    row = window.assembly.events(position)[outcome.decider]
    number = window.resolver.states[outcome.path[outcome.decider]]
    held = range(int(window.resolved.first[row]), int(window.resolved.last[row]) + 1)
    return max((one for one in held if timeline.states[one].number == number), default=0)


def _came(timeline: Timeline, state: int, place: Place) -> Change | None:
    """When a rule that took part was inserted, or the policy set; None if it was there all the time."""
    if place.ours or place.wordless or (place.rule is not None and place.effect == "continue"):
        return None
    if place.rule is None and place.target == "RETURN":  # a user's chain ends so, always
        return None
    since = _turned(timeline, state, place, there=True)  # nf_tables lists no anonymous chain
    return None if since is None else _change(timeline, since, place, gone=False)


def _went(timeline: Timeline, state: int, place: Place) -> Change | None:
    """When the rule that decided before was deleted; None if it is still there."""
    gone = None if place.wordless else _turned(timeline, state, place, there=False)
    return None if gone is None else _change(timeline, gone, place, gone=True)


def _renamed(timeline: Timeline, state: int, place: Place) -> Change | None:
    """When a chain that was passed got the name that it has now; None if it never had another one."""
    for one in reversed(range(state)):
        before = _chain(timeline, one, place.chain, state)
        if before is not None and before.name != place.chain:
            time_ns = timeline.time_ns[one + 1]
            return Change("renamed", place.table, before.name, None, place.chain, time_ns)
    return None


def _turned(timeline: Timeline, state: int, place: Place, *, there: bool) -> int | None:
    """From which state on the rule has been there, or not there, up to this one; None if it always was.

    None, too, where this state says otherwise or is not known.
    """
    known = state if there else _last_with(timeline, state, place.chain)
    if _there(timeline, state, place, known) is not there:
        return None
    since = state
    for one in reversed(range(state)):
        before = _there(timeline, one, place, known)
        if before is (not there):
            return since
        if before is there:
            since = one
    return None


def _last_with(timeline: Timeline, state: int, name: str) -> int:
    """The index of the last state, up to one, that had a chain of that name."""
    held = (one for one in reversed(range(state)) if name in (timeline.states[one].chains or {}))
    return next(held, state)


def _there(timeline: Timeline, state: int, place: Place, known: int) -> bool | None:
    """Whether a state of the table has the rule, or the policy; None if nobody saw that state.

    ``known``: the index of a state in which the chain of the place has its name.
    """
    if timeline.states[state].chains is None:
        return None
    if (chain := _chain(timeline, state, place.chain, known)) is None:
        return False
    if place.rule is None:
        return place.target in (chain.policy, "RETURN")
    same = timeline.states[state].handle == timeline.states[known].handle
    handle = place.rule.handle if same else None  # it may jump to a chain that was renamed
    return any(
        rule.spec == place.rule.spec or (handle is not None and rule.handle == handle)
        for rule in chain.rules
    )


def _chain(timeline: Timeline, state: int, name: str, known: int) -> Chain | None:
    """The chain of a state that has a name in another one, or else of that name."""
    then, now = timeline.states[known], timeline.states[state]
    chains, there = now.chains or {}, (then.chains or {}).get(name)
    if there is None or there.handle is None or then.handle != now.handle:
        return chains.get(name)
    found = chains.get(name)
    if found is not None and found.handle == there.handle:
        return found
    return next((one for one in chains.values() if one.handle == there.handle), found)


def _change(timeline: Timeline, state: int, place: Place, *, gone: bool) -> Change:
    return Change(
        kind="policy" if place.rule is None else "deleted" if gone else "inserted",
        table=place.table,
        chain=place.chain,
        rule=place.number,
        spec=place.target if place.rule is None else place.rule.spec,
        time_ns=timeline.time_ns[state],
    )
