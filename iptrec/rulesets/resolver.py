"""The place of each event in the ruleset that was in force, or in those that may have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode import prefix as prefixes
from iptrec.decode.rulesets.types import Ruleset
from iptrec.rulesets.grammar import Grammar
from iptrec.rulesets.timeline import Timelines

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from iptrec.decode.nflog import NflogEvents
    from iptrec.decode.rulesets.types import Chain
    from iptrec.names import I32, I64, Family
    from iptrec.recording.rows import Snapshot
    from iptrec.rulesets.grammar import Place
    from iptrec.rulesets.timeline import TableState, Timeline


_HOOKS: Final = 8  # hooks are coded densely; nflog's is 0..4
_MOST_CANDIDATES: Final = 16  # rulesets tried for one event; of more only the latest


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where each event is: ``place`` numbers of a `Rulebook`, -1 where it carries no prefix of a trace.

    ``first``, ``last``: the states of its table's `Timeline` that may have held, by index. All have
    shape (n,).
    """

    place: I32
    first: I32
    last: I32


class Rulebook:
    """Resolves events to `Place` numbers; equal places get the same number, over all batches.

    ``places[i]`` is judged by ``grammars[i]``; it belongs to ``families[i]``, and to the state of its
    table with the number ``states[i]``. Where several states may have held, the number stands for
    ``choices[i]``, the newest first, and ``places[i]`` is the first of them; else ``choices[i]`` is
    (i,). ``unseen`` are the numbers of states whose rules nobody saw. ``alone``: no other backend's rules
    were recorded.
    """

    def __init__(
        self, snapshots: Iterable[Snapshot], own_comment: str | None, *, alone: bool = True
    ) -> None:
        self.alone = alone
        self.places: list[Place] = []
        self.grammars: list[Grammar] = []
        self.families: list[Family] = []
        self.states: list[int] = []
        self.choices: list[tuple[int, ...]] = []
        self.unseen: set[int] = set()
        self.timelines = self._read(snapshots)
        self.own_comment = own_comment
        self._known: dict[tuple[bytes, Family, int, int, int], int] = {}
        self._interned: dict[tuple[Family, int, Place], int] = {}
        self._chosen: dict[tuple[int, ...], int] = {}
        self._judges: dict[tuple[Family, str, int], Grammar] = {}
        self._others: dict[Family, tuple[dict[str, dict[str, Chain]], frozenset[str]]] = {}

    def hooked(self, events: NflogEvents) -> NflogEvents:
        """The events with the hooks that they were logged at, where the kernel left that to the ruleset."""
        return events

    def resolve(self, events: NflogEvents, earliest_ns: I64, latest_ns: I64) -> Resolved:
        """Find the events' places; each was logged between the two times given for it."""
        v6 = events.ipv6
        first, last = self._candidates(events, v6, earliest_ns, latest_ns)
        where, size = self._where(events)
        code = ((events.prefix.astype(np.int64) + 1) * size + where) * 2 + v6
        if last.any():
            states = int(last.max()) + 1
            code = (code * states + first) * states + last
        _, example, inverse = np.unique(code, return_index=True, return_inverse=True)
        numbers = np.array(
            [
                self._number(
                    events.prefixes[int(events.prefix[row])] if events.prefix[row] >= 0 else b"",
                    "ipv6" if v6[row] else "ipv4",
                    int(where[row]),
                    int(first[row]),
                    int(last[row]),
                )
                for row in example
            ],
            np.int32,
        )
        return Resolved(numbers[inverse] if len(numbers) else np.zeros(0, np.int32), first, last)

    def _candidates(
        self, events: NflogEvents, v6: npt.NDArray[np.bool_], earliest_ns: I64, latest_ns: I64
    ) -> tuple[I32, I32]:
        """The range of table states that may have held at each event."""
        first = np.zeros(len(events), np.int32)
        last = np.zeros(len(events), np.int32)
        tables = [self._table(raw) for raw in events.prefixes]
        changing = {
            (family, name): timeline
            for family in ("ipv4", "ipv6")
            for name, timeline in self.timelines.loaded(family).items()
            if len(timeline.states) > 1
        }
        for (family, name), timeline in changing.items():
            named = np.array([*(table == name for table in tables), False])  # prefix -1: the last
            rows = np.flatnonzero(named[events.prefix] & (v6 == (family == "ipv6")))
            first[rows], last[rows] = timeline.candidates(earliest_ns[rows], latest_ns[rows])
        return first, last

    def _number(self, raw: bytes, family: Family, where: int, first: int, last: int) -> int:
        key = (raw, family, where, first, last)
        if key not in self._known:
            self._known[key] = self._choice(raw, family, where, first, last)
        return self._known[key]

    def _choice(self, raw: bytes, family: Family, where: int, first: int, last: int) -> int:
        table = self._table(raw)
        timeline = None if table is None else self.timelines.table(family, table)
        states: list[TableState | None] = [None]
        if timeline is not None:
            states = [*reversed(timeline.states[first : last + 1][-_MOST_CANDIDATES:])]
        found = [self._intern(raw, family, where, state) for state in states]
        numbers = tuple(dict.fromkeys(one for one in found if one >= 0))
        if not numbers:
            return -1
        # A state that does not have the rule cannot have been the one; one that nobody saw can.
        fitting = (
            tuple(
                one
                for one in numbers
                if self.places[one].explained or self.states[one] in self.unseen
            )
            or numbers[:1]
        )
        if len(fitting) == 1:
            return fitting[0]
        if fitting not in self._chosen:
            self._chosen[fitting] = self._add(
                self.places[fitting[0]], self.grammars[fitting[0]], family, -1, fitting
            )
        return self._chosen[fitting]

    def _intern(self, raw: bytes, family: Family, where: int, state: TableState | None) -> int:
        found = self._place(raw, family, where, state)
        if found is None:
            return -1
        place, grammar = found
        number = -1 if state is None else state.number
        if state is not None and state.chains is None:
            self.unseen.add(number)
        key = (family, number, place)
        if key not in self._interned:
            self._interned[key] = self._add(place, grammar, family, number, ())
        return self._interned[key]

    def _read(self, snapshots: Iterable[Snapshot]) -> Timelines:
        return Timelines(snapshots)

    def _where(self, events: NflogEvents) -> tuple[I64, int]:
        """What tells places of one prefix apart, and how many values it has: here the hook."""
        return np.minimum(events.hook, _HOOKS - 1).astype(np.int64), _HOOKS

    def _table(self, raw: bytes) -> str | None:
        """The table that a prefix names, None if it names none."""
        return prefixes.table(raw)

    def _place(
        self, raw: bytes, family: Family, where: int, state: TableState | None
    ) -> tuple[Place, Grammar] | None:
        """The place that a prefix names in a state of its table, and who judges it."""
        parsed = prefixes.parse(raw)
        if parsed is None:
            return None
        grammar = self._judge(family, parsed.table, state)
        return grammar.place(parsed, where), grammar

    def _add(
        self, place: Place, grammar: Grammar, family: Family, state: int, choice: tuple[int, ...]
    ) -> int:
        number = len(self.places)
        self.places.append(place)
        self.grammars.append(grammar)
        self.families.append(family)
        self.states.append(state)
        self.choices.append(choice or (number,))
        return number

    def _judge(self, family: Family, table: str, state: TableState | None) -> Grammar:
        """The grammar of a table's state, with the other tables as they first were."""
        key = (family, table, -1 if state is None else state.number)
        if key not in self._judges:
            if family not in self._others:
                loaded = self.timelines.loaded(family)
                late = frozenset(name for name, one in loaded.items() if _late(one))
                self._others[family] = {name: _first(one) for name, one in loaded.items()}, late
            others, late = self._others[family]
            tables = others | ({} if state is None else {table: state.chains or {}})
            self._judges[key] = self._grammar(family, Ruleset(tables), late)
        return self._judges[key]

    def _grammar(self, _: Family, ruleset: Ruleset, late: frozenset[str]) -> Grammar:
        return Grammar(ruleset, self.own_comment, late)


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
    return timeline.time_ns[0] != np.iinfo(np.int64).min or len(attached) > 1
