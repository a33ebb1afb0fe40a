"""The rules of each table over time.

A change was somewhere between two looks: in between either state may have been in force, and what
the packets did tells which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from iptrec.decode.rulesets.types import Chain
    from iptrec.names import I64, Family


EVER: Final = int(np.iinfo(np.int64).min)  # when the first state came: before all


@dataclass(frozen=True, slots=True)
class TableState:
    """A table's rules; ``chains`` is None where they are not known. Equal rules have equal numbers."""

    number: int
    chains: dict[str, Chain] | None


@dataclass(slots=True)
class Timeline:
    """The states of one table: state i came after ``after_ns[i]``, and not after ``time_ns[i]``."""

    states: list[TableState] = field(default_factory=list)
    after_ns: list[int] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)

    def add(self, state: TableState, after_ns: int, time_ns: int) -> None:
        """Add the next state, unless it is the last one again."""
        if self.states and self.states[-1].number == state.number:
            return
        self.states.append(state)
        self.after_ns.append(max([after_ns, *self.after_ns[-1:]]))
        self.time_ns.append(max([time_ns, *self.time_ns[-1:]]))

    def candidates(self, earliest_ns: I64, latest_ns: I64) -> tuple[I64, I64]:
        """First and last index of the states that may have held somewhere between two times."""
        last = np.searchsorted(np.array(self.after_ns), latest_ns, side="left") - 1
        first = np.searchsorted(np.array(self.time_ns), earliest_ns, side="right") - 1
        last = np.maximum(last, 0)
        return np.clip(first, 0, last), last


class Timelines:
    """All tables of one namespace. A family of which nothing was recorded has no table.

    ``single``: no other backend's rules were recorded. ``hooks``: where each base chain of nf_tables was
    first attached, by family, table and chain.
    """

    def __init__(self, *, single: bool = True) -> None:
        self.single = single
        self.hooks: dict[tuple[Family, str, str], int] = {}
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
    ) -> None:
        """Add what a table was from some moment on: after the one time, not after the other.

        ``chains``: None where its rules are not known.
        """
        timeline = self._tables.setdefault((family, name), Timeline())
        timeline.add(TableState(self._number(family, name, chains), chains), after_ns, time_ns)
        for chain in (chains or {}).values():
            if chain.base is not None:
                self.hooks.setdefault((family, name, chain.name), chain.base.hook)

    def adopt(self, other: Timelines) -> None:
        """Take another backend's tables as well: their names differ."""
        for (family, name), timeline in other._tables.items():
            for state, after, time in zip(
                timeline.states, timeline.after_ns, timeline.time_ns, strict=True
            ):
                self.add(family, name, state.chains, after, time)

    def table(self, family: Family, name: str) -> Timeline | None:
        """One table's states; None if it was never loaded."""
        return self._tables.get((family, name))

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
