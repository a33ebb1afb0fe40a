"""Places that one process numbered, as another one numbers them.

A place has its number from the order in which events came to it. What it is follows from its key: who has the
same recording gives it a number of its own.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from iptrec.names import I32
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.window import Decided
    from iptrec.rulesets.resolver import Resolver


class Place(NamedTuple):
    """A place: its ``key`` in `Resolver.numbered`, its number, and those that it stands for."""

    key: Any
    number: int
    choice: tuple[int, ...]


class Told(NamedTuple):
    """What was decided of some events, and the places in it that were not told before."""

    decided: Decided
    places: list[Place]


class Teller:
    """Tells the places of the windows of one process."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._keys: dict[int, Any] = {}
        self._read = 0
        self._told: set[int] = set()

    def tell(self, decided: Decided) -> Told:
        """With the places of these events."""
        resolver = self._resolver
        for key, number in islice(resolver.numbered.items(), self._read, None):
            self._keys.setdefault(number, key)
        self._read = len(resolver.numbered)
        new = [one for one in np.unique(decided.resolved.place).tolist() if one >= 0]
        new = [one for one in new if one not in self._told]
        self._told.update(new)
        return Told(decided, [Place(self._keys[one], one, resolver.choices[one]) for one in new])


class Numbers:
    """The numbers of another process, for the windows that it tells of."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._mine: dict[int, int] = {-1: -1}

    def translated(self, told: Told) -> Decided:
        """The same with this process's numbers."""
        for key, number, choice in told.places:
            mine = self._resolver.number(*key)
            self._mine[number] = mine
            self._mine.update(zip(choice, self._resolver.choices[mine], strict=True))
        decided, assembly = told.decided, told.decided.assembly
        outcomes = [self._outcome(one) for one in assembly.outcomes]
        possible = {
            self._outcome(one): tuple(map(self._outcome, some))
            for one, some in assembly.possible.items()
        }
        return decided._replace(
            resolved=replace(decided.resolved, place=self._places(decided.resolved.place)),
            assembly=replace(assembly, outcomes=outcomes, possible=possible),
        )

    def _places(self, place: I32) -> I32:
        known, of = np.unique(place, return_inverse=True)
        return np.array([self._mine[one] for one in known.tolist()], np.int32)[of]

    def _outcome(self, one: Outcome) -> Outcome:
        mine = self._mine
        return replace(
            one,
            path=tuple(mine[at] for at in one.path),
            alike=tuple(tuple(mine[at] for at in path) for path in one.alike),
        )
