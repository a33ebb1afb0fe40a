"""The rules of each table over time.

A change was somewhere between two looks: in between either state may have been in force, and what
the packets did tells which.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode.generations import BEFORE_ALL, LAST_OF_ALL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from iptrec.decode.rulesets.types import Base, Chain
    from iptrec.names import I64, Family


EVER: Final = int(np.iinfo(np.int64).min)  # when the first state came: before all
NEVER: Final = int(np.iinfo(np.int64).max)  # not after which something came that nobody saw
Came = tuple[int, int]  # after a generation of the rules, and not after another one
ANY_TIME: Final[Came] = (BEFORE_ALL, LAST_OF_ALL)
FROM_THE_FIRST: Final[Came] = (BEFORE_ALL, BEFORE_ALL)


@dataclass(frozen=True, slots=True)
class TableState:
    """A table's rules; ``chains`` is None where they are not known. Equal rules have equal numbers.

    ``handle``: of nf_tables; a table that was made anew has another one.
    """

    number: int
    chains: dict[str, Chain] | None
    handle: int | None = None

    def same(self, other: TableState) -> bool:
        """Whether it is the same table with the same rules."""
        return (self.number, self.handle) == (other.number, other.handle)


@dataclass(frozen=True, slots=True)
class Attached:
    """Base chains of nf_tables that are passed beside a table's rules: in a commit, and not in force.

    The kernel attaches a new one while it prepares a commit: it has no rules yet, and the policy accept
    (nf_tables_addchain). It detaches an old one after the commit: until then packets pass the rules that it
    had, though the new ones are in force (nf_tables_commit_chain_prepare leaves out a chain that goes).

    ``state``: they alone, and the chains that they jump to. ``beside``: the number of the state that is in
    force. ``ahead``, ``behind``: those that are passed before and after their namesakes of that state, at the
    same hook, each with its namesake's priority: other chains may be passed between the two. ``phase``: of the
    table; that of its i-th state is 4 i. ``generation``: of the commit, or a later one; ``going``: whether the
    commit deleted them; ``fresh``: what base chains it made, as long as they are attached together.
    """

    state: TableState
    beside: int
    ahead: dict[str, int]
    behind: dict[str, int]
    phase: int
    generation: int
    going: bool
    fresh: dict[str, Base]

    @classmethod
    def of(
        cls,
        number: int,
        names: Collection[str],
        old: TableState,
        new: TableState,
        after: int,
        generation: int,
        *,
        going: bool,
    ) -> Attached:
        """Those of some names, at a change; ``after``: the index of the state that it made."""
        # What nobody saw may have had the same chains.
        before = _bases(old if old.chains is not None else new)
        now = _bases(new if new.chains is not None else old)
        in_force = now if going else before
        namesakes = {
            name: in_force[name].priority
            for name in before.keys() & now.keys()
            if before[name].hook == now[name].hook
        }
        # Of equal priorities the one that came last is the first.
        ahead = {
            name: priority
            for name, priority in namesakes.items()
            if (now[name].priority <= before[name].priority) != going
        }
        return cls(
            TableState(number, _going(old, new, names) if going else _prepared(new, names)),
            new.number if going else old.number,
            ahead,
            {name: one for name, one in namesakes.items() if name not in ahead},
            4 * after - 1 if going else 4 * after - 3,
            generation,
            going,
            {name: now[name] for name in _made_anew(new, old)} if going else {},
        )


def _prepared(state: TableState, names: Collection[str]) -> dict[str, Chain]:
    """Base chains of a state before its commit."""
    chains = state.chains or {}
    return {name: replace(chains[name], rules=(), policy="ACCEPT") for name in names}


def _going(old: TableState, new: TableState, names: Collection[str]) -> dict[str, Chain]:
    """Base chains of the old state after the commit of the new one, with what they jump to: as it is now."""
    chains, now = old.chains or {}, {}
    if old.handle == new.handle:
        now = {_identity(one): one for one in (new.chains or {}).values()}
    jumped = {
        name: now.get(_identity(one), one) for name, one in chains.items() if one.base is None
    }
    return jumped | {name: chains[name] for name in names}


def _made_anew(state: TableState, other: TableState) -> list[str]:
    """The base chains of a state that another one does not have, or of another table of that name.

    One that was renamed is the same; one that was deleted and made again is another.
    """
    chains, others = state.chains or {}, other.chains or {}
    kept = {_identity(others[name]) for name in _bases(other) if state.handle == other.handle}
    return [name for name in _bases(state) if _identity(chains[name]) not in kept]


def _identity(chain: Chain) -> int | str:
    """What tells it from all others that its table ever had, as far as that is known."""
    return chain.name if chain.handle is None else chain.handle


def _bases(state: TableState) -> dict[str, Base]:
    chains = state.chains or {}
    return {name: one.base for name, one in chains.items() if one.base is not None}


@dataclass(slots=True)
class Timeline:
    """The states of one table: state i came after ``after_ns[i]``, and not after ``time_ns[i]``.

    ``generations[i]``: the generation of the rules that it came after, and one that it did not come after.
    """

    states: list[TableState] = field(default_factory=list)
    after_ns: list[int] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)
    generations: list[Came] = field(default_factory=list)
    _ordered: tuple[list[int], list[int]] = ([], [])

    def add(
        self, state: TableState, after_ns: int, time_ns: int, generations: Came = ANY_TIME
    ) -> None:
        """Add the next state, unless it is the last one again."""
        if self.states and self.states[-1].same(state):
            return
        self.states.append(state)
        self.after_ns.append(max([after_ns, *self.after_ns[-1:]]))
        self.time_ns.append(max([time_ns, *self.time_ns[-1:]]))
        self.generations.append(generations)

    def candidates(self, earliest_ns: I64, latest_ns: I64) -> tuple[I64, I64]:
        """First and last index of the states that may have held somewhere between two times."""
        return _within(np.array(self.after_ns), np.array(self.time_ns), earliest_ns, latest_ns)

    def policies_before(self, index: int) -> dict[str, str | None]:
        """The policies that base chains of nf_tables still have when the rules of a state come into force.

        A commit sets them after that, one by one (net/netfilter/nf_tables_api.c, nf_tables_commit); of a chain
        that it makes it is ACCEPT until then (nft_chain_commit_drop_policy).
        """
        old, new = self.states[index - 1 : index + 1]
        if old.chains is None or new.chains is None:
            return {}
        fresh = _made_anew(new, old)
        kept = {_identity(old.chains[name]): old.chains[name].policy for name in _bases(old)}
        return {
            name: "ACCEPT" if name in fresh else kept[_identity(new.chains[name])]
            for name in _bases(new)
        }

    def first_of(self, generation: int) -> int:
        """The index of the first state that may have held in a generation, or later."""
        _, until = self._came()
        return max(bisect.bisect_right(until, generation) - 1, 0)

    def of_generations(self, oldest: I64, newest: I64) -> tuple[I64, I64]:
        """The same of two generations of the rules."""
        after, until = self._came()
        return _within(np.array(after), np.array(until), oldest, newest)

    def _came(self) -> tuple[list[int], list[int]]:
        """After which generation each state came, and after which not: in order, as the states are."""
        if len(self._ordered[0]) != len(self.generations):
            after, until = zip(*self.generations, strict=True)
            before_others = [*accumulate(reversed(until), min)][::-1]
            self._ordered = [*accumulate(after, max)], before_others
        return self._ordered


def _within(after: I64, until: I64, oldest: I64, newest: I64) -> tuple[I64, I64]:
    last = np.maximum(np.searchsorted(after, newest, side="left") - 1, 0)
    return np.clip(np.searchsorted(until, oldest, side="right") - 1, 0, last), last


class Timelines:
    """All tables of one namespace. A family of which nothing was recorded has no table.

    ``single``: no other backend's rules were recorded. ``hooks``: where each base chain of nf_tables was
    first attached, by family, table and chain.
    """

    def __init__(self, *, single: bool = True) -> None:
        self.single = single
        self.unlisted: Mapping[tuple[str, str, int], str] = {}  # see `Ruleset`
        self.hooks: dict[tuple[Family, str, str], int] = {}
        self._jumped: set[tuple[Family, str, str]] = set()  # chains that were no base chains
        self._tables: dict[tuple[Family, str], Timeline] = {}
        self._numbers: dict[Any, int] = {}
        self._chains: dict[int, tuple[Chain, int]] = {}  # by id; kept, so that no other gets it

    def add(
        self,
        family: Family,
        name: str,
        chains: dict[str, Chain] | None,
        after_ns: int,
        time_ns: int,
        generations: Came = ANY_TIME,
        handle: int | None = None,
    ) -> None:
        """Add what a table was from some moment on: after the one time, not after the other.

        ``chains``: None where its rules are not known. ``generations``: see `Timeline`. ``handle``: see
        `TableState`.
        """
        timeline = self._tables.setdefault((family, name), Timeline())
        state = TableState(self._number(family, name, chains), chains, handle)
        timeline.add(state, after_ns, time_ns, generations)
        for chain in (chains or {}).values():
            if chain.base is not None:
                self.hooks.setdefault((family, name, chain.name), chain.base.hook)
            else:
                self._jumped.add((family, name, chain.name))

    def jumped_at_times(self) -> set[tuple[Family, str, str]]:
        """The base chains that were none at times, named as in ``hooks``."""
        return self._jumped & self.hooks.keys()

    def renew(self, others: Iterable[Timelines]) -> None:
        """Become what some others are; equal rules keep their numbers."""
        self._tables.clear()
        for one in others:
            self.adopt(one)

    def adopt(self, other: Timelines) -> None:
        """Take another backend's tables as well: their names differ."""
        for (family, name), timeline in other._tables.items():
            for state, after, time, generations in zip(
                timeline.states,
                timeline.after_ns,
                timeline.time_ns,
                timeline.generations,
                strict=True,
            ):
                self.add(family, name, state.chains, after, time, generations, state.handle)

    def table(self, family: Family, name: str) -> Timeline | None:
        """One table's states; None if it was never loaded."""
        return self._tables.get((family, name))

    def attached(
        self, family: Family, name: str, held: tuple[int, int], *, since: int, soon: int
    ) -> list[Attached]:
        """What packets may have passed beside a table's states, of which the first and the last are given.

        ``since``: the last change that was over before; ``soon``: the last that was begun.
        """
        first, last = held
        timeline = self._tables[family, name]
        found = []
        for after in range(since + 1, soon + 1):
            old, new = timeline.states[after - 1 : after + 1]
            for going, may_be in ((False, after > first), (True, after <= last)):
                names = _made_anew(old, new) if going else _made_anew(new, old)
                if may_be and names:
                    number = self._number_of(("attached", family, name, after, going))
                    _, by = timeline.generations[after]
                    found.append(Attached.of(number, names, old, new, after, by, going=going))
        return found

    def loaded(self, family: Family) -> dict[str, Timeline]:
        """All tables of a family that were ever loaded."""
        return {name: one for (of, name), one in self._tables.items() if of == family}

    def _number(self, family: Family, name: str, chains: dict[str, Chain] | None) -> int:
        """Equal rules get the same number, wherever they come again."""
        content = None
        if chains is not None:
            content = tuple(map(self._number_of_chain, chains.values()))
        return self._number_of((family, name, content))

    def _number_of_chain(self, chain: Chain) -> int:
        """Of a chain; most are the same object from one state to the next."""
        known = self._chains.get(id(chain))
        if known is None:
            rules = tuple((one.spec, one.handle) for one in chain.rules)
            number = self._number_of((chain.name, chain.policy, chain.base, rules))
            known = self._chains[id(chain)] = chain, number
        return known[1]

    def _number_of(self, content: Any) -> int:  # noqa: ANN401 - what can be compared
        return self._numbers.setdefault(content, len(self._numbers))
