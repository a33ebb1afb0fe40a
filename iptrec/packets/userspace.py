"""Packets that a program behind NFQUEUE changed: what it gave back goes on as what it was given.

Nothing of the payload need be the same. Its flow is, and the id of its IPv4 header; a packet that comes from
nowhere where one of them was handed over before is that one, if it is the only one that it can be.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from iptrec.packets.identity import Packets, combined

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I32, I64, U64, Mask
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.walk import Walker

    Spans = tuple[I64, I64, I64, I64]  # rows, first, count, option: see `settle`


def rejoin(
    events: TraceEvents,
    place: I32,
    spans: Spans,
    options: dict[tuple[Outcome, ...], int],
    walker: Walker,
    starts: Mask,
) -> Spans:
    """Join traversals that end in a queue with those that begin in the middle behind it.

    ``place``: of each event; ``starts``: of each place, whether a trace can begin there. ``options`` takes what
    may have become of the joined. A copy begins in the middle, too, and goes on from no queue.
    """
    queued = np.array([all(one.queued for one in some) for some in options], np.bool_)[spans[3]]
    tails = headless(place, spans, options, starts)
    if not tails.any() or not queued.any():
        return spans
    return joined(_pairs(events, spans, queued, tails), place, spans, options, walker)


def headless(
    place: I32, spans: Spans, options: dict[tuple[Outcome, ...], int], starts: Mask
) -> Mask:
    """Which traversals begin where no trace can begin, and are no copies; see `rejoin`."""
    rows, first, _, option = spans
    found: Mask = ~starts[place[rows[first]]] if len(rows) else np.zeros(0, np.bool_)
    return found & ~np.array([some[0].copied for some in options], np.bool_)[option]


def joined(
    pairs: list[tuple[int, int]],
    place: I32,
    spans: Spans,
    options: dict[tuple[Outcome, ...], int],
    walker: Walker,
) -> Spans:
    """The traversals with each of the second ones behind the first one of its pair, where that can be."""
    rows, first, count, option = spans
    owner, option = np.arange(len(first)), option.copy()

    def path(one: int) -> tuple[int, ...]:
        return tuple(place[rows[first[one] : first[one] + count[one]]].tolist())

    paths: dict[int, tuple[int, ...]] = {}
    for head, tail in pairs:
        whole = int(owner[head])
        longer = paths.get(whole, path(whole)) + path(tail)
        if found := walker.outcomes(longer):
            paths[whole], owner[tail] = longer, whole
            option[whole] = options.setdefault(found, len(options))
    return with_tails(spans, owner, option)


def _pairs(
    events: TraceEvents, spans: Spans, queued: Mask, headless: Mask
) -> list[tuple[int, int]]:
    """Which traversal each headless one can only go on from, in order of the latter."""
    rows, first, count, _ = spans
    heads, tails = np.flatnonzero(queued), np.flatnonzero(headless)
    ended, begun = rows[first[heads] + count[heads] - 1], rows[first[tails]]
    handed, given = _keys(events, ended), _keys(events, begun)
    waiting: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for at in np.flatnonzero(np.isin(handed, given)).tolist():
        waiting[int(handed[at])].append((int(heads[at]), int(ended[at])))
    found = []
    for tail, row, key in zip(tails.tolist(), begun.tolist(), given.tolist(), strict=True):
        some = [one for one in waiting[key] if one[1] < row and one[0] != tail]
        same = [one for one in some if events.trace[row] == events.trace[one[1]] >= 0]
        if len(same or some) == 1:
            one = (same or some)[0]
            waiting[key].remove(one)
            found.append((one[0], tail))
    return found


def _keys(events: TraceEvents, rows: I64) -> U64:
    packets = Packets.of(events, rows)
    return combined([packets.flow_keys(), packets.datagram_keys()[0]])


def with_tails(spans: Spans, owner: I64, option: I64) -> Spans:
    """The traversals with the events of those that they own; a tail comes behind its head."""
    rows, first, count, _ = spans
    order = np.argsort(owner, kind="stable")
    sizes = count[order]
    source = np.repeat(first[order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(rows))
    own = np.flatnonzero(owner == np.arange(len(owner)))
    total = np.bincount(owner, count, len(owner)).astype(np.int64)[own]
    return rows[source], np.cumsum(total) - total, total, option[own]
