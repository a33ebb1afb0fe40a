"""How far the clocks of several hosts are apart, by the packets that crossed between them.

A packet is known on both by its key (`lake.keys`), never by addresses or ports; one whose key is not sure, or
that a host has seen twice, proves nothing. It left the one host before it came to the other one. So the
difference of these two times, each by its host's clock, is what the clocks are apart and the time that it took,
which is not negative: the least difference is the closest bound. Packets of both ways bound it from both sides
(as RFC 5905, section 8): the estimate is in the middle, and half of what is between is how wrong it can be,
whatever the ways took (`clock_bounds`).

Times are arrival stamps, or those at which the kernel sent the events: never when a recorder received them.
A packet that was sent twice, and that each host saw once, would be taken for one that crossed. So it counts
only while both hosts were recorded, by their own clocks; where none is left, as of a clock that is wrong by
hours, packets of both ways have to agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.clock_bounds import Bounds, Crossings, bounds, cut
from iptrec.answers.packets import Packets
from iptrec.lake.keys import keys
from iptrec.names import HOOKS
from iptrec.recording.hosts import Alone, hosts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.answers.packets import Batch
    from iptrec.names import I64, Mask
    from iptrec.recording.hosts import Host
    from iptrec.recording.rows import Recording

    _Spans = Sequence[tuple[int, int]]

_PREROUTING, _INPUT, _OUTPUT = (HOOKS.index(one) for one in ("PREROUTING", "INPUT", "OUTPUT"))
_TTL, _HOPS = 8, 7  # where IPv4 and IPv6 have it
_MOST: Final = 4_000_000  # packets of all hosts that are looked at, the first ones of each: 200 MB
# A stamp is told in whole microseconds that are over, and a tap's times are about as exact.
_EXACT_NS: Final = 1_000
_PIECES: Final = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Clock:
    """That of a ``host``, compared with that ``of`` another one.

    ``overlapping``: whether by their own clocks both were recorded at the same time. ``by_own``: whether both
    were, by their own clocks, when the packets crossed. ``pieces``: the same of one piece of the time after the
    other, where the clocks do not run alike.
    """

    host: str
    of: str
    bounds: Bounds
    overlapping: bool = True
    by_own: bool = True
    pieces: tuple[Bounds, ...] = ()


@dataclass(slots=True)
class _Seen:
    """The packets of one clock, in columns; times are 0 where they are not the kernel's."""

    columns: list[tuple[I64, ...]] = field(default_factory=list)
    count: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)  # of its recordings

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
        first = last = None
        for batch in _batches(one):
            here.add(batch, tapped=_is_tapped(one.recording, batch.window.stream.namespace))
            if len(times := batch.window.moment_ns):
                first = min(int(times.min()), first or int(times.min()))
                last = max(int(times.max()), last or 0)
            if here.count > _MOST // len(names):
                here.spans.append(_span(one, first, last, whole=False))
                break
        else:
            here.spans.append(_span(one, first, last, whole=True))
    spans = [seen[one].spans for one in names]
    return [
        _compared(names[second], names[first], crossings, spans[first], spans[second])
        for (first, second), crossings in sorted(
            _pairs([seen.pop(one) for one in names]), key=lambda one: one[0]
        )
    ]


def _span(host: Host, first: int | None, last: int | None, *, whole: bool) -> tuple[int, int]:
    """From when until when it was recorded; of a ring, and where not all was looked at, from event to event."""
    facts = host.recording.facts
    ring = any(one.is_ring for one in host.recording.streams)
    begin = first if ring and first is not None else facts.started_ns
    end = max(last or 0, facts.stopped_ns or 0) if whole else last or 0
    return begin, end


def _batches(host: Host) -> Iterator[Batch]:
    return Packets(Alone(host)).batches(objects=False)


def _is_tapped(recording: Recording, namespace: int) -> bool:
    """Whether the times of all events of a namespace were noted by a tap, but for those that are estimated."""
    some = [one for one in recording.streams if one.namespace == namespace]
    told = [one.detail for one in some if one.kind in ("nflog", "nftrace")]
    return bool(told) and all("tap" in one and "untapped" not in one for one in told)


def _pairs(seen: list[_Seen]) -> list[tuple[tuple[int, int], Crossings]]:
    """By the numbers of two hosts the packets that crossed between them."""
    every = [one.once() for one in seen]
    whose = np.repeat(np.arange(len(every)), [len(one[0]) for one in every])
    columns = [np.concatenate(one) for one in zip(*every, strict=True)]
    order = np.lexsort((whose, columns[0]))
    key, came, left, hops, sent, taken = (one[order] for one in columns)
    whose = whose[order]
    found: dict[tuple[int, int], list[Crossings]] = {}
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
                Crossings(there[here], (end - begin)[here], time[here])
            )
    return [
        (pair, Crossings(*map(np.concatenate, zip(*some, strict=True))))
        for pair, some in found.items()
    ]


def _compared(host: str, of: str, crossings: Crossings, first: _Spans, second: _Spans) -> Clock:
    """A clock by packets that crossed while both were recorded; else by packets of both ways that agree."""
    overlapping = any(
        begin <= until and since <= end for begin, end in first for since, until in second
    )
    own = crossings.only(_during(crossings, 0, first, second))
    if len(own.there) and not (told := bounds(own)).nothing:
        return _clock(Clock(host, of, told, overlapping), own)
    whole = bounds(crossings)
    untold = Clock(host, of, whole._replace(at_least_ns=None, at_most_ns=None), overlapping)
    if whole.contradictory:
        found = _clock(Clock(host, of, whole, overlapping, by_own=False), crossings)
        return found if all(one.offset_ns is not None for one in found.pieces) else untold
    if whole.offset_ns is None:
        return untold
    # At one at which by the estimate itself a host was not recorded, it could not have been seen.
    left = crossings.only(_during(crossings, whole.offset_ns, first, second))
    if not len(left.there) or (told := bounds(left)).offset_ns is None:
        return untold
    return Clock(host, of, told, overlapping, by_own=False)


def _during(crossings: Crossings, offset_ns: int, first: _Spans, second: _Spans) -> Mask:
    """At which of them both were recorded, if the second clock is so far ahead."""
    mine = crossings.time_ns
    other = mine + np.where(crossings.there, crossings.apart_ns, -crossings.apart_ns)
    return _inside(mine + offset_ns, second) & _inside(other - offset_ns, first)


def _inside(time_ns: I64, spans: _Spans) -> Mask:
    found = np.zeros(len(time_ns), bool)
    for begin, end in spans:
        found |= (begin <= time_ns) & (time_ns <= end)
    return found


def _clock(clock: Clock, crossings: Crossings) -> Clock:
    """As one that runs as the other one does if that can be; else piece by piece."""
    if not clock.bounds.contradictory:
        return clock
    pieces: tuple[Bounds, ...] = ()
    for number in _PIECES:
        pieces = tuple(cut(crossings, clock.bounds, number))
        if not any(one.contradictory for one in pieces):
            break
    return replace(clock, pieces=pieces)
