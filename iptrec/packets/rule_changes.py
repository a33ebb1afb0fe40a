"""Packets whose fate a change of the rules altered while we recorded.

Two things can be seen: a rule that was not there in the beginning took part in the decision, or the
rule (or policy) that decided an earlier packet of the same flow was gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iptrec.packets.model import Change

if TYPE_CHECKING:
    from iptrec.names import I64
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.relations import Relations
    from iptrec.packets.window import Window
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.timeline import Timeline


class RuleChanges:
    """Tells the change behind a packet's end; for the windows of one stream."""

    def __init__(self, relations: Relations) -> None:
        self._relations = relations
        self._came: dict[tuple[int, int], Change | None] = {}
        self._went: dict[tuple[int, int], Change | None] = {}

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
        for number in reversed(outcome.path[: outcome.decider + 1]):
            place = book.places[number]
            if place.pass_ != decider.pass_:
                break
            key = (state, number)
            if key not in self._came:
                self._came[key] = _came(timeline, state, place)
            if change := self._came[key]:
                return change
        before = self._relations.decider_before(position, timeline.time_ns[1])
        if before is None or before == decided or book.places[before].table != decider.table:
            return None
        key = (state, before)
        if key not in self._went:
            self._went[key] = _went(timeline, state, book.places[before])
        return self._went[key]


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
    since = _turned(timeline, state, place, there=True)  # nf_tables lists no anonymous chain
    return None if since is None else _change(timeline, since, place, gone=False)


def _went(timeline: Timeline, state: int, place: Place) -> Change | None:
    """When the rule that decided before was deleted; None if it is still there."""
    gone = None if place.wordless else _turned(timeline, state, place, there=False)
    return None if gone is None else _change(timeline, gone, place, gone=True)


def _turned(timeline: Timeline, state: int, place: Place, *, there: bool) -> int | None:
    """From which state on the rule has been there, or not there, up to this one; None if it always was.

    None, too, where this state says otherwise or is not known.
    """
    if _there(timeline, state, place) is not there:
        return None
    since = state
    for one in reversed(range(state)):
        before = _there(timeline, one, place)
        if before is (not there):
            return since
        if before is there:
            since = one
    return None


def _there(timeline: Timeline, state: int, place: Place) -> bool | None:
    """Whether a state of the table has the rule, or the policy; None if nobody saw that state."""
    chains = timeline.states[state].chains
    if chains is None:
        return None
    if (chain := chains.get(place.chain)) is None:
        return False
    if place.rule is None:
        return place.target in (chain.policy, "RETURN")
    return any(rule.spec == place.rule.spec for rule in chain.rules)


def _change(timeline: Timeline, state: int, place: Place, *, gone: bool) -> Change:
    return Change(
        kind="policy" if place.rule is None else "deleted" if gone else "inserted",
        table=place.table,
        chain=place.chain,
        rule=place.number,
        spec=place.target if place.rule is None else place.rule.spec,
        time_ns=timeline.time_ns[state],
    )
