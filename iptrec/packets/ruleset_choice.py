"""Which ruleset a packet was judged by, where more than one may have been in force.

A table changes at one moment, and events come in the order in which they were logged. A packet that only the
old rules explain shows that they still held when it passed: this decides every packet before it, too. One that
only the new rules explain shows that these held already, which decides every packet after it. What a rule did
to the packet is evidence as well (`effects`). Where nothing tells, the newest ruleset is taken, and the packet
is said to be ambiguous.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from iptrec.packets.effects import contradicted
from iptrec.packets.unaccompanied import unaccompanied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Family
    from iptrec.packets.outcome import Outcome
    from iptrec.rulesets.places import Pass, Place
    from iptrec.rulesets.resolver import Resolved, Resolver
    from iptrec.rulesets.timeline import Attached

    Changing = tuple[Family, str | Pass]  # a table, or a base chain
    # With the datagram of the event, and the index of the state in its timeline or the phase (`Attached`).
    Seen = tuple[Changing, int, int]


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
            | np.array([_tells_beside(some, resolver) for some in options])[option]
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


def _tells_beside(outcomes: tuple[Outcome, ...], resolver: Resolver) -> bool:
    """Whether a packet may have passed a chain that was not in force: it tells when that was."""
    return any(
        resolver.places[one].beside for some in outcomes for path in some.paths for one in path
    )


class _Evidence:
    """Hears what is certain, then judges what is not."""

    def __init__(self, events: TraceEvents, resolved: Resolved, resolver: Resolver) -> None:
        self._events = events
        self._resolved = resolved
        self._book = resolver
        self._heard: dict[Changing, list[tuple[int, int, int]]] = {}
        self._ranges: dict[Changing, tuple[I64, I64, I64]] = {}

    def uncontradicted(self, rows: list[int], outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """Those outcomes that fit what the rules did to the packet, and when; all if none does."""
        fitting = tuple(
            one
            for one in outcomes
            if (one.cut or any(self._in_time(rows, path) for path in one.paths))
            and not contradicted(
                self._events,
                rows,
                [self._book.places[number] for number in one.path],
                mark_after=self._book.backend.mark_after,
            )
        )
        return fitting or outcomes

    def _in_time(self, rows: list[int], path: tuple[int, ...]) -> bool:
        """Whether no state was gone before the packet came into its base chain, or came without its chains."""
        return all(held is None or held for held in self._held(rows, path)) and not unaccompanied(
            self._book, path
        )

    def hear(self, rows: list[int], outcomes: Sequence[Outcome]) -> None:
        """Take as evidence what a packet shows whichever way it was; nothing where not all ways are known."""
        if any(one.cut for one in outcomes):
            return
        ways = [
            {(of, row): state for of, row, state in self._seen(rows, path)}
            for one in outcomes
            for path in one.paths
        ]
        for of, row in set(ways[0]).intersection(*ways[1:]):
            states = [one[of, row] for one in ways]
            self._heard.setdefault(of, []).append((row, min(states), max(states)))

    def close(self) -> None:
        """Put the evidence in order: the newest state seen up to a datagram, the oldest from it on."""
        for of, heard in self._heard.items():
            row, at_least, at_most = np.array(sorted(heard), np.int64).T
            newest = np.maximum.accumulate(at_least)
            oldest = np.minimum.accumulate(at_most[::-1])[::-1]
            self._ranges[of] = row, newest, oldest

    def possible(self, rows: list[int], outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """The outcomes that the evidence leaves; of these the complete ones, if there are any."""
        possible = [
            one
            for one in outcomes
            if one.cut or any(self._possible(rows, path) for path in one.paths)
        ] or outcomes
        if any(one.complete for one in possible):
            possible = [one for one in possible if not one.endless]
        return tuple(possible)

    def judge(self, possible: tuple[Outcome, ...]) -> Outcome:
        """The outcome; the first, with the doubt said, of several."""
        if len(possible) == 1:
            return possible[0]
        places = self._book.places
        unsure = frozenset(
            at
            for at, numbers in enumerate(zip(*(one.path for one in possible), strict=True))
            if len({reading(places[number]) for number in numbers}) > 1
        )
        return replace(possible[0], doubt=self._doubt(possible), unsure=unsure)

    def _possible(self, rows: list[int], path: tuple[int, ...]) -> bool:
        if not self._in_time(rows, path):
            return False
        for of, row, state in self._seen(rows, path):
            if of not in self._ranges:
                continue
            heard, newest, oldest = self._ranges[of]
            at = int(np.searchsorted(heard, row))
            seen_before = int(newest[at - 1]) if at else 0
            seen_after = int(oldest[at]) if at < len(heard) else sys.maxsize
            if seen_before <= seen_after and not seen_before <= state <= seen_after:
                return False
        return True

    def _seen(self, rows: list[int], path: tuple[int, ...]) -> Iterator[Seen]:
        """What the path says about the state of each table; nothing where that state held twice."""
        book, head = self._book, self._events.head
        phases: dict[Changing, tuple[int, int]] = {}
        for (row, number), held in zip(
            zip(rows, path, strict=True), self._held(rows, path), strict=True
        ):
            place, family = book.places[number], book.families[number]
            if held is not None and len(held) == 1:
                yield (family, place.table), int(head[row]), held[0]
                phases.setdefault((family, place.pass_), (int(head[row]), 4 * held[0]))
            elif place.beside:
                came, _ = phases.get((family, place.pass_), (int(head[row]), 0))
                phases[family, place.pass_] = came, book.attached[book.states[number]].phase
        for of, told in phases.items():
            yield of, *told

    def _held(self, rows: list[int], path: tuple[int, ...]) -> Iterator[list[int] | None]:
        """For each event the states that the path says, by their indices; None where only one may have held."""
        book, events = self._book, self._events
        oldest, head, entered, before = 0, -1, 0, rows[0]
        for row, number in zip(rows, path, strict=True):
            if events.head[row] != head:  # it comes into a base chain after it left the last one
                head, entered = int(events.head[row]), int(events.datagram[before])
                oldest = events.generations.told_before(entered)
            before = row
            place, family = book.places[number], book.families[number]
            if place.beside:
                yield [] if self._over(book.attached[book.states[number]], entered) else None
                continue
            start, end = int(self._resolved.first[row]), int(self._resolved.last[row])
            timeline = book.timelines.table(family, place.table)
            if start == end or timeline is None:
                yield None
                continue
            start = max(start, min(end, timeline.first_of(oldest)))
            yield [
                index
                for index in range(start, end + 1)
                if timeline.states[index].number == book.states[number]
            ]

    def _over(self, attached: Attached, entered: int) -> bool:
        """Whether chains that are not in force were no longer passed so at a datagram."""
        told = self._events.generations
        over = told.finished_before if attached.going else told.told_before
        return over(entered) >= attached.generation

    def _doubt(self, outcomes: tuple[Outcome, ...]) -> str:
        """Where the paths differ, in words."""
        for numbers in zip(*(one.path for one in outcomes), strict=True):
            places = [self._book.places[number] for number in numbers]
            texts = list(dict.fromkeys(_shown(place) for place in places))
            if len(texts) > 1:
                where = f"{places[0].table}/{places[0].chain}"
                return f"the rules changed just then: in {where} it was {' or '.join(texts[:3])}"
        return "the rules changed just then"


def reading(place: Place) -> tuple[str | None, str | None]:
    """What an event was by a ruleset: a rule's text, whatever its number, or an end."""
    return None if place.rule is None else place.rule.spec, place.target


def _shown(place: Place) -> str:
    if place.end:
        return f"the chain's end ({place.target})"
    return "what nobody saw" if place.rule is None else f"{place.what}: {place.rule.spec}"
