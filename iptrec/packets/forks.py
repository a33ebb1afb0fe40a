"""Packets that the kernel copied, where both backends tell of them.

Each backend by itself takes the first copy that it sees for what goes on with the packet (`copies`); that need
not be the other's first, whose rules may have dropped some before. So the ways up to where the copies begin are
joined by themselves, the copies by themselves, and then the first of these goes on with the packet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.names import AF_BRIDGE, HOOKS
from iptrec.packets.assemble import in_order
from iptrec.packets.identity import Packets
from iptrec.packets.pairs import Pairs
from iptrec.packets.userspace import with_tails
from iptrec.packets.walk import along

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.names import I64, U64, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.assembler import Read
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.walk import Walker

_PREROUTING: Final = HOOKS.index("PREROUTING")
_OUTPUT: Final = HOOKS.index("OUTPUT")
_ELSE, _BEGINNING, _COPY = range(3)


class Forks(NamedTuple):
    """``parts``: with copied packets in two; ``kinds``: of each traversal; ``cut``: which go on in another."""

    parts: tuple[Read, ...]
    kinds: tuple[I64, ...]
    cut: tuple[Mask, ...]

    @property
    def any_cut(self) -> bool:
        """Whether any packet was parted."""
        return any(one.any() for one in self.cut)


def part(parts: Sequence[Read], walkers: Sequence[Walker]) -> Forks:
    """Part copied packets where the copies begin."""
    if not any((one.assembly.copy_of >= 0).any() for one in parts):
        nothing = tuple(np.zeros(len(one.assembly), np.int64) for one in parts)
        return Forks(tuple(parts), nothing, tuple(one > 0 for one in nothing))
    keys = [_keys(one) for one in parts]
    copied = np.concatenate([_copied(*some) for some in zip(parts, keys, strict=True)])
    found = [
        _parted(one, np.isin(key, copied), walker)
        for one, key, walker in zip(parts, keys, walkers, strict=True)
    ]
    return Forks(*zip(*found, strict=True))


def join(
    forks: Forks, pairs: Pairs, walkers: Sequence[Walker], place_of: I64
) -> tuple[tuple[Read, ...], Pairs]:
    """Let the first copy go on with each packet that was parted.

    ``place_of``: where each event is among those of both.
    """
    head, doubtful = _origins(forks, pairs)
    heads, tails = _first_copies(forks, pairs, head, place_of)
    doubtful[heads] |= doubtful[tails]
    kept = np.ones(len(head), np.bool_)
    kept[tails] = False
    parts, sides = [], []
    for one, which, walker in zip(forks.parts, pairs[:2], walkers, strict=True):
        owner, joined = np.arange(len(one.assembly)), which.copy()
        both = (which[heads] >= 0) & (which[tails] >= 0)
        owner[which[tails[both]]] = which[heads[both]]
        joined[heads] = np.where(which[heads] >= 0, which[heads], which[tails])
        parts.append(replace(one, assembly=_with_ends(one, owner, walker)))
        position = np.append(np.cumsum(owner == np.arange(len(owner))) - 1, [-1])
        sides.append(position[joined[kept]])
    return tuple(parts), Pairs(sides[0], sides[1], doubtful[kept])


def _keys(read: Read) -> U64:
    assembly = read.assembly
    return Packets.of(read.events, assembly.rows[assembly.first]).dumped().keys()


def _copied(read: Read, keys: U64) -> U64:
    """The keys of copies; not of those that a bridge hands to IP, for that sees no other."""
    assembly = read.assembly
    if not len(assembly):
        return keys
    arrives = read.events.hook[assembly.rows] == _PREROUTING
    anew = np.logical_or.reduceat(arrives, assembly.first)
    copies = assembly.copy_of >= 0
    return np.setdiff1d(keys[copies], keys[copies & anew])


def _parted(read: Read, chosen: Mask, walker: Walker) -> tuple[Read, I64, Mask]:
    """The chosen ones, but for copies, in two; kinds, and which were parted."""
    old = read.assembly
    outcomes = _Outcomes(read, walker)
    halves = _halves(read, np.flatnonzero(chosen & (old.copy_of < 0)), outcomes)
    at = np.array([one.at for one in halves], np.int64)
    begun = old.first[at] + np.array([one.size for one in halves], np.int64)
    first = np.sort(np.concatenate([old.first, begun]))
    option = np.empty(len(first), np.int64)
    where = np.searchsorted(first, old.first)
    option[where] = old.outcome
    for one in halves:
        option[where[one.at]], option[where[one.at] + 1] = one.outcomes
    copy_of, of_chosen, cut = (np.full(len(read.events), value) for value in (-1, 0, 0))
    copy_of[old.rows[old.first]] = old.copy_of
    copy_of[old.rows[begun]] = old.rows[old.first[at]]
    of_chosen[old.rows[old.first[chosen]]] = of_chosen[old.rows[begun]] = 1
    cut[old.rows[old.first[at]]] = 1
    count = np.diff(first, append=len(old.rows))
    rows, first, count, option = in_order(rows=old.rows, count=count, option=option)
    begins = rows[first]
    new = replace(
        old, rows=rows, first=first, count=count, outcome=option, outcomes=outcomes.all,
        possible=outcomes.possible, copy_of=copy_of[begins],
    )  # fmt: skip
    kinds = np.where(of_chosen[begins] > 0, np.where(new.copy_of < 0, _BEGINNING, _COPY), _ELSE)
    return replace(read, assembly=new), kinds, cut[begins] > 0


class _Half(NamedTuple):
    """A traversal is parted behind ``size`` events; ``outcomes``: the numbers of both halves."""

    at: int
    size: int
    outcomes: tuple[int, int]


def _halves(read: Read, chosen: I64, outcomes: _Outcomes) -> list[_Half]:
    found = []
    for at in chosen.tolist():
        rows = read.assembly.events(at)
        size = _fork(read, rows)
        if not size:
            continue
        before, after = outcomes.of(rows[:size], at), outcomes.of(rows[size:], at, copied=True)
        if before is not None and after is not None:
            found.append(_Half(at, size, (before, after)))
    return found


def _fork(read: Read, rows: I64) -> int:
    """How many of a packet's events were before it was copied; 0: it was not."""
    hook, bridged = read.events.hook[rows], read.events.family[rows] == AF_BRIDGE
    forks = (hook[:-1] == _PREROUTING) & (hook[1:] != _PREROUTING)
    forks |= bridged[1:] & (hook[1:] == _OUTPUT) & ~bridged[:-1]
    return int(np.argmax(forks)) + 1 if forks.any() else 0


class _Outcomes:
    """The outcomes of a part, and of pieces of its traversals."""

    def __init__(self, read: Read, walker: Walker) -> None:
        self._read = read
        self._walker = walker
        self._known: dict[tuple[tuple[int, ...], str | None, bool], int] = {}
        self.all = list(read.assembly.outcomes)
        self.possible = dict(read.assembly.possible)

    def of(self, rows: I64, at: int, *, copied: bool = False) -> int | None:
        """The number of what becomes of some events of the traversal ``at``; None if nothing can."""
        if (self._read.events.hook[rows] >= len(HOOKS)).any():  # in a chain that nobody knows
            return None
        doubt = self.all[self._read.assembly.outcome[at]].doubt
        key = tuple(self._read.resolved.place[rows].tolist()), doubt, copied
        if key not in self._known:
            walk = along(self._walker, key[0], torn=True, copied=copied)
            if walk is not None:
                self._known[key] = self._new(self._walker.judge(walk), doubt)
        return self._known.get(key)

    def _new(self, found: tuple[Outcome, ...], doubt: str | None) -> int:
        some = tuple(replace(one, doubt=one.doubt or doubt) for one in found)
        if len(some) > 1:
            self.possible[some[0]] = some
        self.all.append(some[0])
        return len(self.all) - 1


def _origins(forks: Forks, pairs: Pairs) -> tuple[I64, Mask]:
    """Of each pair the position of the one that it was copied from, -1: none; and what is in doubt.

    So is what is a copy of one packet by one backend's word and of another one by the other's.
    """
    found = []
    for one, which in zip(forks.parts, pairs[:2], strict=True):
        pair_of = np.full(len(one.assembly) + 1, -1)
        pair_of[which] = np.where(which >= 0, np.arange(len(which)), -1)
        origin = np.append(one.assembly.origins(), [-1])[which]
        found.append(pair_of[origin])
    mine, its = found
    differ = (mine >= 0) & (its >= 0) & (mine != its)
    return np.where(mine >= 0, mine, its), pairs.doubtful | differ


def _first_copies(forks: Forks, pairs: Pairs, head: I64, place_of: I64) -> tuple[I64, I64]:
    """The positions of pairs that go on in another, and of those, which are their first copies."""
    begun, goes_on = np.full(len(head), len(place_of)), np.zeros(len(head) + 1, np.bool_)
    before = 0
    for one, cut, which in zip(forks.parts, forks.cut, pairs[:2], strict=True):
        there = which >= 0
        rows = one.assembly.rows[one.assembly.first[which[there]]]
        begun[there] = np.minimum(begun[there], place_of[rows + before])
        goes_on[:-1] |= np.append(cut, [False])[which]
        before += len(one.events)
    tails = np.flatnonzero(goes_on[head])
    tails = tails[np.lexsort((begun[tails], head[tails]))]
    heads, firsts = np.unique(head[tails], return_index=True)
    return heads, tails[firsts]


def _with_ends(read: Read, owner: I64, walker: Walker) -> Assembly:
    old = read.assembly
    outcomes = _Outcomes(read, walker)
    option = old.outcome.copy()
    own = owner == np.arange(len(owner))
    for tail in np.flatnonzero(~own).tolist():
        head = int(owner[tail])
        whole = outcomes.of(np.concatenate([old.events(head), old.events(tail)]), tail)
        option[head] = option[head] if whole is None else whole
    rows, first, count, option = with_tails((old.rows, old.first, old.count, option), owner, option)
    return replace(
        old, rows=rows, first=first, count=count, outcome=option, outcomes=outcomes.all,
        possible=outcomes.possible, copy_of=old.copy_of[own],
    )  # fmt: skip
