"""Which traversals that two backends tell of are one packet.

They agree in what stays of a packet (`identity`), as far as both see it, in the side that it comes from,
and mostly in addresses and ports; they took place at the same time; and the rules of both allow the steps of
both on one path. Of equal packets the first of the one is that of the other. Where they were under way
together and each backend tells several paths, which belongs to which nobody can tell: that is said.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain, permutations
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.names import I64, U64, Mask

    # The outcomes of the one's traversals and of the other's (-1: it has none): whether that can be one packet,
    # and whether nothing is missing then.
    Judge = Callable[[int, int], tuple[bool, bool]]


# What was told of at times that are further apart is not one packet.
_TOGETHER_NS: Final = 100_000_000
_LONGEST_NS: Final = 10_000_000_000  # that a packet is under way
_TRIED: Final = 64  # equal packets that one is compared with


class Side(NamedTuple):
    """One backend's traversals, in order; columns of shape (n,).

    ``exact``, ``loose``: keys of packets, with and without addresses. ``outcome``: numbers. ``first``,
    ``last``: the first and last row of each; ``earliest_ns``, ``received_ns``, ``latest_ns``: the first event
    was logged not before, was received, and the last one was received (epoch).
    """

    exact: U64
    loose: U64
    outcome: I64
    first: I64
    last: I64
    earliest_ns: I64
    received_ns: I64
    latest_ns: I64


class Pairs(NamedTuple):
    """``one``, ``other``: positions of traversals that are one packet, -1 where one has none; shape (n,).

    ``doubtful``: it may be another one that belongs to it.
    """

    one: I64
    other: I64
    doubtful: Mask

    def without(self, some: Mask) -> Pairs:
        """The same, but what is in some of them each by itself, in doubt."""
        if not some.any():
            return self
        alone = np.full(int(some.sum()), -1)
        return Pairs(
            np.concatenate([self.one, alone]),
            np.concatenate([np.where(some, -1, self.other), self.other[some]]),
            np.concatenate([self.doubtful | some, alone < 0]),
        )


def pair(one: Side, other: Side, judge: Judge) -> Pairs:
    """All traversals of both, each once."""
    partner = np.full(len(one.outcome), -1)
    taken = np.zeros(len(other.outcome), np.bool_)
    doubt = np.zeros(len(one.outcome), np.bool_), np.zeros(len(other.outcome), np.bool_)
    for keys in ("exact", "loose"):
        here, there = np.flatnonzero(partner < 0), np.flatnonzero(~taken)
        groups = _groups(getattr(one, keys)[here], getattr(other, keys)[there])
        mine, its = here[groups.mine], there[groups.its]
        fit = _fit(one, other, mine, its, judge)
        partner[mine[fit]], taken[its[fit]] = its[fit], True
        for some, others in groups.several:
            equals = _Equals(_ones(one, 0, here[some]), _ones(other, 1, there[others]), judge)
            for packet in equals.packets:
                if len(packet) > 1:
                    partner[packet[0].position], taken[packet[1].position] = (
                        packet[1].position,
                        True,
                    )
            for odd in equals.doubtful():
                doubt[odd.side][odd.position] = True
    alone = np.flatnonzero(~taken)
    mine = np.concatenate([np.arange(len(partner)), np.full(len(alone), -1)])
    its = np.concatenate([partner, alone])
    doubtful = np.append(doubt[0], [False])[mine] | np.append(doubt[1], [False])[its]
    return Pairs(mine, its, doubtful)


class _Groups(NamedTuple):
    """Positions with equal keys: ``mine`` and ``its`` where each has one, ``several`` where one has more."""

    mine: I64
    its: I64
    several: list[tuple[I64, I64]]


def _groups(mine: U64, its: U64) -> _Groups:
    orders = np.argsort(mine, kind="stable"), np.argsort(its, kind="stable")
    known = [
        np.unique(keys[order], return_index=True, return_counts=True)
        for keys, order in zip((mine, its), orders, strict=True)
    ]
    _, *which = np.intersect1d(known[0][0], known[1][0], True, True)
    start, count = (
        [one[column][at] for one, at in zip(known, which, strict=True)] for column in (1, 2)
    )
    single = (count[0] == 1) & (count[1] == 1)
    several = [
        (orders[0][a : a + m], orders[1][b : b + n])
        for a, b, m, n in zip(*(one[~single].tolist() for one in (*start, *count)), strict=True)
    ]
    return _Groups(orders[0][start[0][single]], orders[1][start[1][single]], several)


def _fit(one: Side, other: Side, mine: I64, its: I64, judge: Judge) -> Mask:
    """Which of these can be one packet."""
    outcomes = np.stack([one.outcome[mine], other.outcome[its]], axis=1)
    distinct, of = np.unique(outcomes, axis=0, return_inverse=True)
    possible = np.array([judge(a, b)[0] for a, b in distinct.tolist()], np.bool_)
    apart = np.maximum(
        one.earliest_ns[mine] - other.latest_ns[its], other.earliest_ns[its] - one.latest_ns[mine]
    )
    fit: Mask = possible[of.reshape(-1)] & (apart <= _TOGETHER_NS)
    return fit


class _One(NamedTuple):
    """A traversal, as of `Side`; ``side``: 0 or 1."""

    received_ns: int
    first: int
    position: int
    side: int
    outcome: int
    last: int
    earliest_ns: int
    latest_ns: int


def _ones(side: Side, number: int, positions: I64) -> list[_One]:
    columns = (side.outcome, side.last, side.earliest_ns, side.latest_ns)
    return [
        _One(received, first, position, number, *rest)
        for received, first, position, *rest in zip(
            *(column[positions].tolist() for column in (side.received_ns, side.first)),
            positions.tolist(),
            *(column[positions].tolist() for column in columns),
            strict=True,
        )
    ]


class _Equals:
    """Traversals with equal keys, in order."""

    def __init__(self, mine: list[_One], its: list[_One], judge: Judge) -> None:
        self._judge = judge
        self.packets: list[tuple[_One, ...]] = []
        self._left = [its]
        order = mine
        # What can be a packet without a partner is to be left over.
        if len(mine) > len(its):
            order = [*chain(*self._by_need(mine))]
        elif len(its) > len(mine):
            self._left = self._by_need(its)
        for whole in (True, False):
            order = [one for one in order if not self._match(one, whole=whole)]
        self.packets += [(one,) for one in chain(order, *self._left)]
        self.packets.sort(key=min)

    def _by_need(self, some: list[_One]) -> list[list[_One]]:
        alone = [self._whole((one,)) for one in some]
        return [
            [one for one, by_itself in zip(some, alone, strict=True) if by_itself == wanted]
            for wanted in (False, True)
        ]

    def _whole(self, packet: tuple[_One, ...]) -> bool:
        return self._judge(*_outcomes(packet))[1]

    def _match(self, one: _One, *, whole: bool) -> bool:
        tried = 0
        for left in self._left:
            start = bisect_left(left, one.earliest_ns - _LONGEST_NS, key=itemgetter(0))
            for at in range(start, len(left)):
                other = left[at]
                if tried == _TRIED or other.earliest_ns - one.latest_ns > _TOGETHER_NS:
                    break
                if one.earliest_ns - other.latest_ns > _TOGETHER_NS:
                    continue
                possible, complete = self._judge(*_outcomes((one, other)))
                if possible and (complete or not whole):
                    self.packets.append((one, other))
                    del left[at]
                    return True
                tried += 1
        return False

    def doubtful(self) -> Iterator[_One]:
        """All that may have other partners: several paths of both sides were under way together."""
        lossy = any(len(packet) == 1 and not self._whole(packet) for packet in self.packets)
        for some in self._together(lossy=lossy):
            if self._interchangeable({_outcomes(one) for one in some}, lossy=lossy):
                yield from chain(*some)

    def _interchangeable(self, ways: set[tuple[int, int]], *, lossy: bool) -> bool:
        """Whether partners may be changed round, so that it reads otherwise and no event more is missing."""
        if len(ways) > _TRIED:
            return True
        takes = {
            (a, b)
            for a, b in permutations(ways, 2)
            if a[0] != b[0] and a[1] != b[1] and (a[0], b[1]) != (-1, -1)
            if self._judge(a[0], b[1])[self._judge(*a)[1] and not lossy]
        }
        while takes:
            givers, takers = ({one[at] for one in takes} for at in (1, 0))
            left = {one for one in takes if one[0] in givers and one[1] in takers}
            if left == takes:
                return True
            takes = left
        return False

    def _together(self, *, lossy: bool) -> Iterator[list[tuple[_One, ...]]]:
        some: list[tuple[_One, ...]] = []
        for packet in self.packets:
            before = [one for one in chain(*some[-_TRIED:]) if _overlap(one, packet, lossy=lossy)]
            if some and not before:
                yield some
                some = []
            some.append(packet)
        yield some


def _overlap(before: _One, packet: tuple[_One, ...], *, lossy: bool) -> bool:
    """Whether a packet began before an equal one had ended; ``lossy``: or might have."""
    return any(
        (one.side == before.side and one.first < before.last)
        or (lossy and one.received_ns - before.latest_ns < _TOGETHER_NS)
        for one in packet
    )


def _outcomes(packet: tuple[_One, ...]) -> tuple[int, int]:
    of = {one.side: one.outcome for one in packet}
    return of.get(0, -1), of.get(1, -1)
