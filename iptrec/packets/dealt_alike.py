"""Keys whose events tell the same story are dealt out once for all of them.

How the events of one key are dealt to packets (`interleaved`) depends on where each was, and on which of them
agree in addresses, stamps and numbers, not on what these are. It depends on times only where events are
further apart than a packet is under way, which are dealt one by one, and on losses only where copies may begin.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode.headers import spans
from iptrec.packets.copies import FLOOD_NS
from iptrec.packets.identity import MIX, ODD
from iptrec.packets.in_flight import UNDER_WAY_NS
from iptrec.packets.interleaved import deal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I32, I64, U64, Mask
    from iptrec.packets.copies import Logged
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.walk import Walker

    Column = npt.NDArray[Any]

_TOGETHER_NS: Final = min(UNDER_WAY_NS, FLOOD_NS)
_MOST_VALUES: Final = 16  # that a column has in one key; what has more is dealt by itself
_V4_SIZE, _V6_SIZE = 20, 44  # bytes up to where the addresses end, with ports behind those of IPv6
_SIX: Final = 6
_PORTS: Final = np.uint64(0xFFFFFFFF)


class Keys(NamedTuple):
    """Events of some keys, key after key and each in order: rows and places; ``size``: of each key."""

    rows: I64
    path: I32
    size: I64

    @property
    def first(self) -> I64:
        """Where each key begins."""
        return np.cumsum(self.size) - self.size


class Dealt(NamedTuple):
    """Packets, one after the other: their events, how many each has, and the numbers of their outcomes.

    ``copies``, ``origins``: the first events of copies, and of what each was copied from.
    """

    rows: I64
    counts: I64
    option: I64
    copies: I64
    origins: I64

    def moved(self, events: I64, starts: I64, rows: I64) -> Dealt:
        """The same of keys that begin at ``starts`` of ``rows``; ``events``: of the key that this is of."""
        found = (
            rows[starts[:, None] + np.searchsorted(events, one)].reshape(-1)
            for one in (self.rows, self.copies, self.origins)
        )
        new, copies, origins = found
        times = len(starts)
        return Dealt(new, np.tile(self.counts, times), np.tile(self.option, times), copies, origins)


class Dealer:
    """Deals out the events of keys, see `deal`; ``number``: of what may have become of a packet."""

    def __init__(
        self,
        events: TraceEvents,
        stamps: I64,
        changing: Mask,
        logged: Logged,
        walker: Walker,
        number: Callable[[tuple[Outcome, ...]], int],
    ) -> None:
        self._events = events
        self._stamps = stamps
        self._changing = changing
        self._logged = logged
        self._walker = walker
        self._number = number

    def deal(self, keys: Keys) -> Dealt:
        """All packets of these keys."""
        found = [_joined([])]
        first = keys.first
        alike = self._alike(keys)
        waiting = [*alike]
        heapify(waiting)
        while waiting:  # in order, so that outcomes are numbered as they appear
            key = heappop(waiting)
            span = slice(first[key], first[key] + keys.size[key])
            dealt, looked = self._dealt(keys.rows[span], keys.path[span])
            found.append(dealt)
            others = alike.pop(key)
            if looked and len(others):
                there = self._logged.whole[
                    keys.rows[first[others][:, None] + np.arange(keys.size[key])]
                ]
                same = (there == self._logged.whole[keys.rows[span]]).all(axis=1)
                if len(rest := others[~same]):
                    alike[int(rest[0])] = rest[1:]
                    heappush(waiting, int(rest[0]))
                others = others[same]
            if len(others):
                found.append(dealt.moved(keys.rows[span], first[others], keys.rows))
        return _joined(found)

    def _dealt(self, rows: I64, path: I32) -> tuple[Dealt, bool]:
        """The packets of one key, and whether they depend on what was lost."""
        looked = []

        def look() -> Mask:
            looked.append(True)
            return self._logged.whole

        packets = deal(
            self._events,
            self._stamps,
            self._changing,
            replace(self._logged, look=look),
            rows.tolist(),
            path.tolist(),
            self._walker,
        )
        copies = [one for one in packets if one.copy_of is not None]
        found = Dealt(
            np.array([row for one in packets for row in one.rows], np.int64),
            np.array([len(one.rows) for one in packets], np.int64),
            np.array([self._number(one.outcomes(self._walker)) for one in packets], np.int64),
            np.array([one.rows[0] for one in copies], np.int64),
            np.array([one.copy_of.rows[0] for one in copies if one.copy_of], np.int64),
        )
        return found, bool(looked)

    def _alike(self, keys: Keys) -> dict[int, I64]:
        """The first one of keys that are dealt alike, and the others."""
        if len(keys.size) < 2:  # noqa: PLR2004
            return dict.fromkeys(range(len(keys.size)), np.zeros(0, np.int64))
        first = keys.first
        columns, odd = self._columns(keys, first)
        position = np.arange(len(keys.rows)) - np.repeat(first, keys.size)
        mixed = position.astype(np.uint64) * MIX
        for one in columns:
            mixed = (mixed ^ one.astype(np.uint64)) * ODD
            mixed ^= mixed >> np.uint64(29)
        signature = np.add.reduceat(mixed * MIX, first) + odd
        _, example, of = np.unique(signature, return_index=True, return_inverse=True)
        # The hash proposes which keys are alike, the columns decide.
        model = example[of]
        known = np.minimum(np.repeat(first[model], keys.size) + position, len(position) - 1)
        equal = np.logical_and.reduce([one[known] == one for one in columns])
        same = (keys.size[model] == keys.size) & np.logical_and.reduceat(equal, first)
        model = np.where(same & ~odd & ~odd[model], model, np.arange(len(model)))
        order = np.argsort(model, kind="stable")
        starts = np.flatnonzero(np.diff(model[order], prepend=-1))
        return {int(one[0]): one[1:] for one in np.split(order, starts[1:])}

    def _columns(self, keys: Keys, first: I64) -> tuple[list[Column], Mask]:
        """All of events that tells how a key is dealt, and which keys depend on more than that."""
        rows, size = keys.rows, keys.size
        events, logged = self._events.take(rows), self._logged
        addresses, odd_events = _addresses(events)
        received_ns = logged.received_ns[rows]
        latest_ns = np.maximum(received_ns, logged.earliest_ns[rows])
        odd = np.logical_or.reduceat(odd_events, first)
        odd |= np.maximum.reduceat(latest_ns, first) - np.minimum.reduceat(received_ns, first) > (
            _TOGETHER_NS
        )
        stamps = self._stamps[rows]
        found: list[Column] = [keys.path, self._changing[rows], logged.cpu[rows]]
        found += [getattr(events, name) for name in ("hook", "indev", "outdev", "physoutdev")]
        found += [events.ct_direction, events.link_length > 0, *addresses[:1]]
        for columns, nothing in (
            (addresses, None),
            ([stamps], stamps == 0),
            ([events.trace], events.trace < 0),
            ([events.conntrack], events.conntrack < 0),
        ):
            number, many = _numbers(columns, size)
            odd |= many
            found.append(number if nothing is None else np.where(nothing, -1, number))
        # Of two connections the one with the greater number is told.
        known = found[-1]
        lowest = np.minimum.reduceat(np.where(known < 0, _MOST_VALUES, known), first)
        odd |= np.maximum.reduceat(known, first) > lowest
        return found, odd


def _joined(some: Iterable[Dealt]) -> Dealt:
    nothing = np.zeros(0, np.int64)
    every = [Dealt(nothing, nothing, nothing, nothing, nothing), *some]
    return Dealt(*map(np.concatenate, zip(*every, strict=True)))


def _addresses(events: TraceEvents) -> tuple[list[U64], Mask]:
    """Whether packets are IPv6 and what is behind, as `interleaved` compares it; which are cut off in that."""
    at = np.maximum(events.payload, 0)
    length = np.where(events.payload >= 0, events.payload_length, 0)
    words = spans(events.buffer, 8)
    first = events.buffer[at]
    six = (first >> 4 == _SIX) & (length > 0)
    transport = (first & 0x0F).astype(np.int64) * 4
    size = np.where(six, _V6_SIZE, np.maximum(transport + 4, _V4_SIZE))
    odd = (length > 0) & (length < size)
    there = np.where(length > 0, np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0))
    begin = at + np.where(six, 8, 12)
    ports = np.where(six, at + 40, at + transport)
    columns = [six.astype(np.uint64), (length > 0).astype(np.uint64)]
    columns += [words[begin].view("<u8") & there, words[ports].view("<u8") & there & _PORTS]
    if six.any():
        columns += [np.where(six, words[at + 8 * i].view("<u8"), np.uint64(0)) for i in range(2, 5)]
    return columns, odd


def _numbers(columns: Sequence[Column], size: I64) -> tuple[I64, Mask]:
    """Of each event which value it has of those of its key, from 0, and which keys have too many.

    Values are numbered in order of appearance.
    """
    owner = np.repeat(np.arange(len(size)), size)
    number = np.zeros(len(owner), np.int64)
    left = np.arange(len(owner))
    for at in range(_MOST_VALUES):
        begins = np.diff(owner[left], prepend=-1) > 0
        model = left[begins][np.cumsum(begins) - 1]
        equal = np.logical_and.reduce([one[left] == one[model] for one in columns])
        number[left[equal]] = at
        left = left[~equal]
        if not len(left):
            break
    many = np.zeros(len(size), np.bool_)
    many[owner[left]] = True
    return number, many
