"""Which ruleset a packet was judged by, where more than one may have been in force.

A table changes at one moment, and events come in the order in which they were logged. So a packet that
only the old rules explain says that they still held when it passed, and one that only the new rules
explain that these held already: every packet that passed before the first or after the second is settled
too. What a rule did to the packet is evidence as well (`effects`). Where nothing tells, the newest ruleset is
taken, and the doubt is said.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from iptrec.packets.effects import contradicted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Family
    from iptrec.packets.walk import Outcome
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Resolved, Resolver

    Table = tuple[Family, str]
    Seen = tuple[Table, int, int]  # table, event, index of the state in its timeline


def settle(
    events: TraceEvents,
    resolved: Resolved,
    resolver: Resolver,
    rows: I64,
    first: I64,
    count: I64,
    option: I64,
    options: list[tuple[Outcome, ...]],
) -> tuple[I64, list[Outcome], dict[Outcome, tuple[Outcome, ...]]]:
    """One outcome for each traversal: its number, shape (n,), the outcomes; and what each in doubt may be.

    The traversals are those of `Assembly`; ``option`` indexes ``options``, what each may have been.
    """
    outcomes: dict[Outcome, int] = {}
    alone = np.array(
        [outcomes.setdefault(some[0], len(outcomes)) if len(some) == 1 else -1 for some in options],
        np.int64,
    )
    outcome = alone[option]
    doubtful: dict[Outcome, tuple[Outcome, ...]] = {}
    undecided = np.flatnonzero(outcome < 0)
    if len(undecided):
        court = _Evidence(events, resolved, resolver)
        changed = np.flatnonzero(
            np.logical_or.reduceat(resolved.last[rows] > resolved.first[rows], first)
        )
        spans = {
            one: rows[first[one] : first[one] + count[one]].tolist() for one in changed.tolist()
        }
        left = {
            one: court.uncontradicted(spans[one], options[option[one]])
            for one in undecided.tolist()
        }
        for one, span in spans.items():
            court.hear(span, left.get(one) or options[option[one]])
        court.close()
        for one, some in left.items():
            possible = court.possible(spans[one], some)
            verdict = court.judge(possible)
            doubtful[verdict] = possible
            outcome[one] = outcomes.setdefault(verdict, len(outcomes))
    return outcome, list(outcomes), doubtful


class _Evidence:
    """Hears what is certain, then judges what is not."""

    def __init__(self, events: TraceEvents, resolved: Resolved, resolver: Resolver) -> None:
        self._events = events
        self._resolved = resolved
        self._book = resolver
        self._heard: dict[Table, list[tuple[int, int]]] = {}
        self._ranges: dict[Table, tuple[I64, I64, I64]] = {}

    def uncontradicted(self, rows: list[int], outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """Those outcomes that fit what the rules did to the packet; all if none does."""
        fitting = tuple(
            one
            for one in outcomes
            if not contradicted(self._events, rows, [self._book.places[n] for n in one.way])
        )
        return fitting or outcomes

    def hear(self, rows: list[int], outcomes: Sequence[Outcome]) -> None:
        """Take as evidence what a packet shows whichever way it was."""
        certain = set(self._seen(rows, outcomes[0]))
        for one in outcomes[1:]:
            certain &= set(self._seen(rows, one))
        for table, row, state in certain:
            self._heard.setdefault(table, []).append((row, state))

    def close(self) -> None:
        """Put the evidence in order: the newest state seen up to an event, the oldest from it on."""
        for table, heard in self._heard.items():
            row, state = np.array(sorted(heard), np.int64).T
            newest = np.maximum.accumulate(state)
            oldest = np.minimum.accumulate(state[::-1])[::-1]
            self._ranges[table] = row, newest, oldest

    def possible(self, rows: list[int], outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """The outcomes that the evidence leaves."""
        return tuple(one for one in outcomes if self._possible(rows, one)) or outcomes

    def judge(self, possible: tuple[Outcome, ...]) -> Outcome:
        """The outcome; the first, with the doubt said, of several."""
        if len(possible) == 1:
            return possible[0]
        return replace(possible[0], doubt=self._doubt(possible))

    def _possible(self, rows: list[int], outcome: Outcome) -> bool:
        for table, row, state in self._seen(rows, outcome):
            if table not in self._ranges:
                continue
            heard, newest, oldest = self._ranges[table]
            at = int(np.searchsorted(heard, row))
            seen_before = int(newest[at - 1]) if at else 0
            seen_after = int(oldest[at]) if at < len(heard) else sys.maxsize
            if seen_before <= seen_after and not seen_before <= state <= seen_after:
                return False
        return True

    def _seen(self, rows: list[int], outcome: Outcome) -> Iterator[Seen]:
        """What the path says about the state of each table; nothing where that state held twice."""
        book = self._book
        for row, number in zip(rows, outcome.way, strict=True):
            start, end = int(self._resolved.first[row]), int(self._resolved.last[row])
            if start == end:
                continue
            place, family = book.places[number], book.families[number]
            timeline = book.timelines.table(family, place.table)
            held = [
                index
                for index in range(start, end + 1)
                if timeline is not None and timeline.states[index].number == book.states[number]
            ]
            if len(held) == 1:
                yield (family, place.table), row, held[0]

    def _doubt(self, outcomes: tuple[Outcome, ...]) -> str:
        """Where the paths differ, in words."""
        for numbers in zip(*(one.way for one in outcomes), strict=True):
            places = [self._book.places[number] for number in numbers]
            texts = list(dict.fromkeys(_shown(place) for place in places))
            if len(texts) > 1:
                where = f"{places[0].table}/{places[0].chain}"
                return f"the rules changed just then: in {where} it was {' or '.join(texts[:3])}"
        return "the rules changed just then"


def _shown(place: Place) -> str:
    if place.end:
        return f"the chain's end ({place.target})"
    spec = f": {place.rule.spec}" if place.rule else ""
    return f"rule {place.number}{spec}"
