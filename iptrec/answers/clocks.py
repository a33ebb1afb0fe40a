"""How far the clocks of several hosts are apart, by the packets that crossed between them.

A packet is known on both by its key (`lake.keys`), never by addresses or ports; one whose key is not sure, or
that a host has seen twice, proves nothing. It left the one host before it came to the other one. So the
difference of these two times, each by its host's clock, is what the clocks are apart and the time that it took,
which is not negative: the least difference is the closest bound. Packets of both ways bound it from both sides
(as RFC 5905, section 8): the estimate is in the middle, and half of what is between is how wrong it can be,
whatever the ways took.

Times are arrival stamps, or those at which the kernel sent the events: never when a recorder received them.
What is assumed: that the clocks run alike. Where the bounds contradict that, the time is cut into pieces, and
it is assumed within each of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.answers.packets import Packets
from iptrec.lake.keys import keys
from iptrec.names import HOOKS
from iptrec.recording.hosts import Alone, hosts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.answers.packets import Batch
    from iptrec.names import I64, Mask
    from iptrec.recording.hosts import Host
    from iptrec.recording.rows import Recording

_PREROUTING, _INPUT, _OUTPUT = (HOOKS.index(one) for one in ("PREROUTING", "INPUT", "OUTPUT"))
_TTL, _HOPS = 8, 7  # where IPv4 and IPv6 have it
_MOST: Final = 4_000_000  # packets of all hosts that are looked at, the first ones of each: 200 MB
# A stamp is told in whole microseconds that are over, and a tap's times are about as exact.
_EXACT_NS: Final = 1_000
_PIECES: Final = (1, 2, 4, 8, 16, 32, 64)


class Bounds(NamedTuple):
    """Of how far one clock is ahead of another one (ns), as far as packets tell; None: not on that side.

    ``from_ns``, ``to_ns``: between these times (epoch, of the other clock). ``there``, ``back``: how many
    packets went from the other host to this one, and how many the other way.
    """

    from_ns: int
    to_ns: int
    at_least_ns: int | None
    at_most_ns: int | None
    there: int
    back: int

    @property
    def offset_ns(self) -> int | None:
        """The estimate; None where packets went one way alone, or the bounds contradict each other."""
        if self.at_least_ns is None or self.at_most_ns is None or self.contradictory:
            return None
        return (self.at_least_ns + self.at_most_ns) // 2

    @property
    def within_ns(self) -> int | None:
        """How wrong it can be."""
        if self.at_least_ns is None or self.at_most_ns is None or self.contradictory:
            return None
        return (self.at_most_ns - self.at_least_ns + 1) // 2

    @property
    def contradictory(self) -> bool:
        """Whether no offset can be all the time."""
        if self.at_least_ns is None or self.at_most_ns is None:
            return False
        return self.at_least_ns > self.at_most_ns


@dataclass(frozen=True, slots=True)
class Clock:
    """That of a ``host``, compared with that ``of`` another one.

    ``pieces``: the same of one piece of the time after the other, where the clocks do not run alike.
    """

    host: str
    of: str
    bounds: Bounds
    pieces: tuple[Bounds, ...] = ()


class _Crossings(NamedTuple):
    """Packets that were seen on both hosts of a pair, shape (n,) each.

    ``there``: whether it went from the first to the second one. ``apart_ns``: how much later it came than it
    left, each by its host's clock. ``time_ns``: on the first one (epoch).
    """

    there: Mask
    apart_ns: I64
    time_ns: I64


@dataclass(slots=True)
class _Seen:
    """The packets of one clock, in columns; times are 0 where they are not the kernel's."""

    columns: list[tuple[I64, ...]] = field(default_factory=list)
    count: int = 0

    def add(self, batch: Batch, *, tapped: bool) -> None:
        """Those of a batch whose keys are sure. ``tapped``: the kernel's times of events were noted."""
        window = batch.window
        events, assembly, decided = window.events, window.assembly, window.decided
        if not decided:
            return
        begin = assembly.first[:decided]
        first, last = (
            assembly.rows[begin],
            assembly.rows[begin + assembly.count[:decided] - 1],
        )
        key, sure = keys(events, first)
        sure &= assembly.origins()[:decided] < 0
        stamped = (events.stamp_ns[first] > 0) & (events.hook[first] == _PREROUTING)
        stamp = np.where(stamped, events.stamp_ns[first], 0)
        own = tapped & ~events.estimated
        came = np.where(stamped, stamp, np.where(own[first], events.sent_ns[first], 0))
        came = np.where(came > 0, came + _EXACT_NS, 0)
        left = np.where(own[last], window.moment_ns[last], stamp)
        at = np.maximum(events.payload[first], 0) + np.where(events.ipv6[first], _HOPS, _TTL)
        hops = events.buffer[np.minimum(at, len(events.buffer) - 1)].astype(np.int64)
        sent, taken = events.hook[first] == _OUTPUT, events.hook[last] == _INPUT
        made = (key, came, left, hops, sent.astype(np.int64), taken.astype(np.int64))
        self.columns.append(tuple(one[sure] for one in made))
        self.count += int(np.count_nonzero(sure))

    def once(self) -> tuple[I64, ...]:
        """Of all columns the packets that were seen once, in order of their keys."""
        if not self.columns:
            return tuple(np.zeros(0, np.int64) for _ in range(6))
        every = [np.concatenate(one) for one in zip(*self.columns, strict=True)]
        _, first, times = np.unique(every[0], return_index=True, return_counts=True)
        return tuple(one[first[times == 1]] for one in every)


def clocks(recording: Recording) -> list[Clock]:
    """Of each pair of hosts between which packets went, in the order of their names."""
    every = hosts(recording)
    names = sorted({one.name for one in every})
    if len(names) < 2:  # noqa: PLR2004
        return []
    seen = {name: _Seen() for name in names}
    for one in every:
        here = seen[one.name]
        for batch in _batches(one):
            here.add(batch, tapped=_is_tapped(one.recording, batch.window.stream.namespace))
            if here.count > _MOST // len(names):
                break
    return [
        _compared(names[second], names[first], crossings)
        for (first, second), crossings in sorted(_pairs([seen.pop(one) for one in names]))
    ]


def _batches(host: Host) -> Iterator[Batch]:
    return Packets(Alone(host)).batches(objects=False)


def _is_tapped(recording: Recording, namespace: int) -> bool:
    """Whether the times of all events of a namespace were noted by a tap, but for those that are estimated."""
    some = [one for one in recording.streams if one.namespace == namespace]
    told = [one.detail for one in some if one.kind in ("nflog", "nftrace")]
    return bool(told) and all("tap" in one and "untapped" not in one for one in told)


def _pairs(seen: list[_Seen]) -> list[tuple[tuple[int, int], _Crossings]]:
    """By the numbers of two hosts the packets that crossed between them."""
    every = [one.once() for one in seen]
    whose = np.repeat(np.arange(len(every)), [len(one[0]) for one in every])
    columns = [np.concatenate(one) for one in zip(*every, strict=True)]
    order = np.lexsort((whose, columns[0]))
    key, came, left, hops, sent, taken = (one[order] for one in columns)
    whose = whose[order]
    found: dict[tuple[int, int], list[_Crossings]] = {}
    for apart in count(1):
        one = np.flatnonzero(key[:-apart] == key[apart:]) if apart < len(key) else key[:0]
        if not len(one):
            break
        other = one + apart
        # Who sent it was before, who took it behind, and each router takes one hop.
        signs = [
            sent[one] - sent[other],
            taken[other] - taken[one],
            np.sign(hops[one] - hops[other]),
        ]
        way = np.where(np.any([each > 0 for each in signs], axis=0), 1, 0)
        way -= np.where(np.any([each < 0 for each in signs], axis=0), 1, 0)
        there = way > 0
        begin = np.where(there, left[one], left[other])
        end = np.where(there, came[other], came[one])
        # Two hosts send, or take, two packets, however alike these are.
        alike = (sent[one] & sent[other]) | (taken[one] & taken[other])
        known = (way != 0) & (alike == 0) & (begin > 0) & (end > 0)
        time = np.where(there, begin, end)
        pair = whose[one] * len(seen) + whose[other]
        for number in np.unique(pair[known]).tolist():
            here = known & (pair == number)
            found.setdefault(divmod(number, len(seen)), []).append(
                _Crossings(there[here], (end - begin)[here], time[here])
            )
    return [
        (pair, _Crossings(*map(np.concatenate, zip(*some, strict=True))))
        for pair, some in found.items()
    ]


def _compared(host: str, of: str, crossings: _Crossings) -> Clock:
    """A clock, as one that runs as the other one does if that can be; else piece by piece."""
    whole = _bounds(crossings)
    if not whole.contradictory:
        return Clock(host, of, whole)
    pieces: tuple[Bounds, ...] = ()
    for number in _PIECES[1:]:
        pieces = tuple(_cut(crossings, whole, number))
        if not any(one.contradictory for one in pieces):
            break
    return Clock(host, of, whole, pieces)


def _cut(crossings: _Crossings, whole: Bounds, number: int) -> Iterable[Bounds]:
    """The bounds of so many pieces of equal length, but for those without packets."""
    length = (whole.to_ns - whole.from_ns) // number + 1
    piece = (crossings.time_ns - whole.from_ns) // length
    for one in range(number):
        here = piece == one
        if here.any():
            yield _bounds(_Crossings(*(column[here] for column in crossings)))


def _bounds(crossings: _Crossings) -> Bounds:
    there, back = crossings.apart_ns[crossings.there], crossings.apart_ns[~crossings.there]
    return Bounds(
        int(crossings.time_ns.min()),
        int(crossings.time_ns.max()),
        -int(back.min()) if len(back) else None,
        int(there.min()) if len(there) else None,
        len(there),
        len(back),
    )
