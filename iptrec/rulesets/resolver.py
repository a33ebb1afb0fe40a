"""The place of each event in the ruleset that was in force, or in those that may have been."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode.rulesets.types import Ruleset
from iptrec.names import FAMILIES
from iptrec.rulesets.places import NO_HOOK
from iptrec.rulesets.timeline import EVER

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    Range = tuple["I64", "I64"]
    Met = tuple[tuple[str, int], ...]  # tables, each with the number of a state of it

    from iptrec.decode.events import TraceEvents
    from iptrec.decode.rulesets.types import Base, Chain
    from iptrec.names import I32, I64, U8, U32, Family, Mask
    from iptrec.rulesets.backends import RulesetBackend
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.places import Locations, Pass, Place
    from iptrec.rulesets.timeline import Attached, TableState, Timeline, Timelines


_MOST_CANDIDATES: Final = 16  # rulesets tried for one event; of more only the latest
_MOST_CODES: Final = 1 << 20  # that are counted, not sorted
_PREPARING_NS: Final = 5_000_000_000  # a commit, at most


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where each event is: ``place`` numbers of a `Resolver`, -1 where it has no site that names one.

    ``first``, ``last``: the states of its table's `Timeline` that may have held, by index. All have
    shape (n,).
    """

    place: I32
    first: I32
    last: I32


class _Seen(NamedTuple):
    """All that is known of an event's place without its rules."""

    site: Hashable | None
    table: str | None
    passed: Pass
    family: Family
    not_ip: bool


class Book:
    """Places by their numbers, and all that is needed to judge paths through them.

    ``places[i]`` is judged by ``grammars[i]``; it belongs to ``families[i]``, and to the state of its
    table with the number ``states[i]``. Where several states may have held, the number stands for
    ``choices[i]``, the newest first, and ``places[i]`` is the first of them; else ``choices[i]`` is
    (i,). ``attached``: by the numbers of their states, chains that were not in force. ``backends[i]``: whose
    rules they are. ``our_comment``: of the recorder's rules. ``disbelieved``: how many ACKs
    SYNPROXY dropped, None where nobody counted; ``meanwhile``: what routing counted, in words.
    """

    def __init__(
        self,
        timelines: Timelines,
        our_comment: str | None,
        disbelieved: int | None = None,
        meanwhile: Mapping[Family, str] | None = None,
    ) -> None:
        self.meanwhile = meanwhile or {}
        self.disbelieved = disbelieved
        self.timelines = timelines
        self.our_comment = our_comment
        self.places: list[Place] = []
        self.grammars: list[Grammar] = []
        self.families: list[Family] = []
        self.states: list[int] = []
        self.choices: list[tuple[int, ...]] = []
        self.backends: list[RulesetBackend] = []
        self.attached: dict[int, Attached] = {}
        self._moved: dict[Family, frozenset[str]] = {}
        self._chains: dict[
            tuple[Family, str, int], dict[str, Chain]
        ] = {}  # of tables in their states
        self._judging: dict[tuple[int, Met], Grammar] = {}  # by the id of the place's own

    def grammar(self, family: Family, ruleset: Ruleset, *, not_ip: bool = False) -> Grammar:
        """What can follow what in some tables; ``not_ip``: of frames that are not."""
        raise NotImplementedError

    def renew(self) -> None:
        """Forget what was made of the timelines: there is more of them. Places keep their numbers."""
        self._moved.clear()
        self._judging.clear()

    def meeting(self, met: Met, number: int) -> Met:
        """What a packet has met once it comes to a place; see `judging`."""
        family, table, state = self.families[number], self.places[number].table, self.states[number]
        if family not in self._moved:
            self._moved[family] = _moved_tables(self.timelines, family)
        if table not in self._moved[family]:
            return met
        self._chains[family, table, state] = self.grammars[number].ruleset.tables.get(table, {})
        return tuple(sorted({**dict(met), table: state}.items()))

    def base(self, number: int) -> Base | None:
        """Where the base chain that a place is passed in is attached; None where nobody knows."""
        place = self.places[number]
        chain = self.grammars[number].chain(place.table, place.base or "")
        return None if chain is None else chain.base

    def judging(self, number: int, met: Met) -> Grammar:
        """The grammar of a place of a packet that ``met`` other tables in these states.

        In its own the others are as they first were. Those matter of which a base chain was moved.
        """
        own, family = self.grammars[number], self.families[number]
        others = tuple(one for one in met if one[0] != self.places[number].table)
        if not others:
            return own
        key = id(own), others
        if key not in self._judging:
            tables = {table: self._chains[family, table, state] for table, state in others}
            ruleset = Ruleset(own.ruleset.tables | tables)
            self._judging[key] = self.grammar(family, ruleset, not_ip=own.not_ip)
        return self._judging[key]

    def add(
        self,
        place: Place,
        grammar: Grammar,
        family: Family,
        state: int,
        backend: RulesetBackend,
        choice: tuple[int, ...] = (),
    ) -> int:
        """Give a place its number."""
        number = len(self.places)
        self.places.append(place)
        self.grammars.append(grammar)
        self.families.append(family)
        self.states.append(state)
        self.backends.append(backend)
        self.choices.append(choice or (number,))
        return number


class Resolver(Book):
    """Resolves events to `Place` numbers; equal places get the same number, over all batches.

    ``numbered``: the numbers by all that was known of places, in the order in which they were met.
    """

    def __init__(
        self,
        backend: RulesetBackend,
        timelines: Timelines,
        our_comment: str | None,
        disbelieved: int | None = None,
        meanwhile: Mapping[Family, str] | None = None,
    ) -> None:
        super().__init__(timelines, our_comment, disbelieved, meanwhile)
        self.backend = backend
        self.numbered: dict[tuple[_Seen, int, int, int, int], int] = {}
        self._interned: dict[tuple[Family, bool, int, Place], int] = {}
        self._chosen: dict[tuple[int, ...], int] = {}
        self._grammars: dict[tuple[Family, bool, str, int], Grammar] = {}
        self._others: dict[Family, dict[str, dict[str, Chain]]] = {}

    def renew(self) -> None:
        """See `Book`."""
        super().renew()
        for known in (self.numbered, self._interned, self._chosen, self._grammars, self._others):
            known.clear()

    def locate(self, data: U8, lengths: U32, received_ns: I64) -> Locations:
        """Decode datagrams (see `RulesetBackend.decode`), and find the passes that their events tell of."""
        events = self.backend.decode(data, lengths, received_ns)
        return self.backend.locations(events, self.timelines)

    def resolve(self, located: Locations, earliest_ns: I64, latest_ns: I64) -> Resolved:
        """Find the events' places; each was logged between the two times given for it."""
        events = located.events
        v6 = events.ipv6
        since, first, last, soon = self._candidates(located, v6, earliest_ns, latest_ns)
        code = (events.site.astype(np.int64) + 1) * len(located.passes) + located.passed
        code = (code * 2 + v6) * 2 + events.ip
        if soon.any():
            states = int(soon.max()) + 1
            code = (((code * states + since) * states + first) * states + last) * states + soon
        example, inverse = _distinct(code)
        numbers = np.array(
            [
                self.number(
                    _seen(located, int(row)),
                    *(int(one[row]) for one in (since, first, last, soon)),
                )
                for row in example
            ],
            np.int32,
        )
        return Resolved(numbers[inverse] if len(numbers) else np.zeros(0, np.int32), first, last)

    def hooks(self, events: TraceEvents, resolved: Resolved) -> U8:
        """Of each event by its place, shape (n,); where the rules may have changed, the newest one's."""
        of_place = np.array([*(one.hook for one in self.places), NO_HOOK], np.uint8)[resolved.place]
        hooks: U8 = np.where(of_place == NO_HOOK, events.hook, of_place)
        return hooks

    def _candidates(
        self, located: Locations, v6: Mask, earliest_ns: I64, latest_ns: I64
    ) -> tuple[I32, I32, I32, I32]:
        """The first and last state of its table that may have held at each event, and what is attached beside.

        That is of the state before the first one, if it is given before them, and of the one behind the last.
        """
        events = located.events
        since = np.zeros(len(events), np.int32)
        first = np.zeros(len(events), np.int32)
        last = np.zeros(len(events), np.int32)
        soon = np.zeros(len(events), np.int32)
        changing = {
            (family, name): timeline
            for family in FAMILIES
            for name, timeline in self.timelines.loaded(family).items()
            if len(timeline.states) > 1
        }
        told = None
        if changing and len(events.generations):
            told = events.generations.bounds(events.head, events.sent_ns)
        for (family, name), timeline in changing.items():
            named = np.array([*(table == name for table in located.tables), False])  # -1: the last
            rows = np.flatnonzero(named[events.site] & (v6 == (family == "ipv6")))
            held = timeline.candidates(earliest_ns[rows], latest_ns[rows])
            since[rows], _ = held
            _, begun = timeline.candidates(earliest_ns[rows], latest_ns[rows] + _PREPARING_NS)
            if told is not None:
                oldest, newest = told[0][rows], told[1][rows]
                held = _both(held, timeline.of_generations(oldest, newest))
                # A commit is prepared in the generation before its own.
                begun = np.minimum(begun, timeline.of_generations(oldest, newest + 1)[1])
            first[rows], last[rows] = held
            soon[rows] = begun
        # One commit comes after the other.
        return np.clip(since, first - 1, first), first, last, np.clip(soon, last, last + 1)

    def number(self, seen: _Seen, since: int, first: int, last: int, soon: int) -> int:
        """The number of a place, -1 if there is none; see `_candidates`."""
        key = (seen, since, first, last, soon)
        if key not in self.numbered:
            self.numbered[key] = self._choice(*key)
        return self.numbered[key]

    def _choice(self, seen: _Seen, since: int, first: int, last: int, soon: int) -> int:
        if seen.table is None:
            return -1
        timeline = self.timelines.table(seen.family, seen.table)
        if timeline is None:
            found = [self._intern(seen, seen.table, None)]
        else:
            held = range(last, max(first, last + 1 - _MOST_CANDIDATES) - 1, -1)
            found = [
                self._intern(
                    seen,
                    seen.table,
                    timeline.states[one],
                    timeline.policies_before(one) if one > since else {},
                )
                for one in held
            ]
            soon = min(soon, first + _MOST_CANDIDATES)
            attached = self.timelines.attached(
                seen.family, seen.table, (first, last), since=since, soon=soon
            )
            self.attached |= {one.state.number: one for one in attached}
            found += [self._intern(seen, seen.table, one.state, beside=True) for one in attached]
        numbers = tuple(dict.fromkeys(one for one in found if one >= 0))
        if not numbers:
            return -1
        # A state that does not have the rule cannot have been the one; one that nobody saw can.
        fitting = (
            tuple(one for one in numbers if self.places[one].explained or self.places[one].unseen)
            or numbers[:1]
        )
        if len(fitting) == 1:
            return fitting[0]
        if fitting not in self._chosen:
            place, grammar = self.places[fitting[0]], self.grammars[fitting[0]]
            self._chosen[fitting] = self.add(place, grammar, seen.family, -1, self.backend, fitting)
        return self._chosen[fitting]

    def _intern(
        self,
        seen: _Seen,
        table: str,
        state: TableState | None,
        before: Mapping[str, str | None] = MappingProxyType({}),
        *,
        beside: bool = False,
    ) -> int:
        """The number of a place in a state; ``before``: the policies that its chains may still have had."""
        grammar = self._grammar(seen, table, state)
        place = self.backend.place(seen.site, table, seen.passed, grammar)
        if place is None or (beside and not place.explained):
            return -1
        if place.contradicted and place.end and place.builtin:
            policy = before.get(place.chain)
            place = replace(place, contradicted=policy is None or policy != place.target)
        if beside:
            place = replace(place, beside=True)
        number = -1 if state is None else state.number
        if state is not None and state.chains is None:
            place = replace(place, unseen=True)
        key = (seen.family, seen.not_ip, number, place)
        if key not in self._interned:
            self._interned[key] = self.add(place, grammar, seen.family, number, self.backend)
        return self._interned[key]

    def _grammar(self, seen: _Seen, table: str, state: TableState | None) -> Grammar:
        """What can follow what in a table's state, with the other tables as they first were."""
        family = seen.family
        key = (family, seen.not_ip, table, -1 if state is None else state.number)
        if key not in self._grammars:
            if family not in self._others:
                loaded = self.timelines.loaded(family)
                self._others[family] = {name: _first(one) for name, one in loaded.items()}
            others = self._others[family]
            tables = others | (
                {} if state is None else {table: self._chains_of(seen, table, state)}
            )
            self._grammars[key] = self.grammar(family, Ruleset(tables), not_ip=seen.not_ip)
        return self._grammars[key]

    def _chains_of(self, seen: _Seen, table: str, state: TableState) -> dict[str, Chain]:
        """Those of a state; of one that nobody saw the base chains that the table had at other times."""
        if state.chains is not None:
            return state.chains
        timeline = self.timelines.table(seen.family, table)
        return {
            chain.name: replace(chain, rules=(), policy=None)
            for one in (timeline.states if timeline else ())
            for chain in (one.chains or {}).values()
            if chain.base is not None
        }

    def grammar(self, family: Family, ruleset: Ruleset, *, not_ip: bool = False) -> Grammar:
        """What can follow what in some tables of the backend."""
        late = late_tables(self.timelines, family)
        found = self.backend.grammar(
            family,
            replace(ruleset, unlisted=self.timelines.unlisted),
            late,
            self.our_comment,
            single=self.timelines.single,
        )
        return found.without_ip() if not_ip else found


def _distinct(code: I64) -> tuple[I64, I64]:
    """The first of each of some numbers, in their order, and for every number that of its equal."""
    if not len(code) or code.max() >= _MOST_CODES:
        _, example, inverse = np.unique(code, return_index=True, return_inverse=True)
        return example, inverse
    first = np.full(int(code.max()) + 1, -1)
    first[code[::-1]] = np.arange(len(code))[::-1]  # the last one that is written stays
    used = np.flatnonzero(first >= 0)
    number = np.zeros(len(first), np.int64)
    number[used] = np.arange(len(used))
    return first[used], number[code]


def _both(one: Range, other: Range) -> Range:
    """What two kinds of evidence leave: all, where they have nothing in common."""
    lower, upper = np.minimum(one, other), np.maximum(one, other)
    first, last = upper[0], lower[1]
    agree = first <= last
    return np.where(agree, first, lower[0]), np.where(agree, last, upper[1])


def _seen(located: Locations, row: int) -> _Seen:
    events = located.events.take(slice(row, row + 1))
    site = int(events.site[0])
    return _Seen(
        site=events.sites[site] if site >= 0 else None,
        table=located.tables[site] if site >= 0 else None,
        passed=located.passes[int(located.passed[row])],
        family="ipv6" if events.ipv6[0] else "ipv4",
        not_ip=not events.ip[0],
    )


def late_tables(timelines: Timelines, family: Family) -> frozenset[str]:
    """Those that need not have logged all the time."""
    return frozenset(name for name, one in timelines.loaded(family).items() if _late(one))


def _moved_tables(timelines: Timelines, family: Family) -> frozenset[str]:
    """Those of which a base chain was attached now here, now there."""
    return frozenset(name for name, one in timelines.loaded(family).items() if _moved(one))


def _moved(timeline: Timeline) -> bool:
    places: dict[str, Base] = {}
    return any(
        places.setdefault(chain.name, chain.base) != chain.base
        for state in timeline.states
        for chain in (state.chains or {}).values()
        if chain.base is not None
    )


def _first(timeline: Timeline) -> dict[str, Chain]:
    """A table as it first was, and where its base chains were when they were attached for the first time."""
    first = timeline.states[0].chains or {}
    attached: dict[str, Chain] = {}
    for state in timeline.states:
        for name, chain in (state.chains or {}).items():
            if chain.base is not None:
                attached.setdefault(name, chain)
    return first | attached


def _late(timeline: Timeline) -> bool:
    """Whether the table, or a base chain of it, need not have logged anything all the time.

    It was loaded while we recorded, or attached, or went away.
    """
    attached = {
        frozenset(
            (chain.name, chain.base) for chain in state.chains.values() if chain.base is not None
        )
        for state in timeline.states
        if state.chains is not None
    }
    return timeline.time_ns[0] != EVER or len(attached) > 1
