"""Packets of a text of nf_tables' traces, told apart by the ids in its lines.

The kernel makes an id of the buffer's address, the hash of the flow that the buffer keeps, and the interface by
which the packet came in (net/netfilter/nf_tables_trace.c, nft_trace_init). It stays the same on the whole way
through one namespace, through NAT as well (measured on 6.18), but where the interface changes: a bridge hands
what is for its host over as its own. A copy has another one. A text tells little of packets, and nothing where
its lines are cut or masked: equal headers do not make one packet of two ids. Another packet may have the same
buffer later: its headers tell.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.packets.identity import Packets, addressed

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64

_MOST_EQUAL: Final = 64  # packets that one may go on from


class _Part(NamedTuple):
    """Events of one id: its number, its first and last rows, and the interfaces by which these came in."""

    number: int
    first: int
    last: int
    came: int
    went_on: int


def keys(events: TraceEvents) -> U64:
    """One key an event, shape (n,): equal for events of one id whose headers may be of one packet."""
    known = addressed(events) | (~events.ip & (events.link_length > 0))
    identity = np.where(known, Packets.of(events).keys() | np.uint64(1), np.uint64(0))
    order = np.argsort(events.trace, kind="stable")
    trace, identity = events.trace[order], identity[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = trace[1:] != trace[:-1]
    # Events without headers are of the packet that was told before them, or else of the next one.
    told = np.flatnonzero(identity)
    another = (trace[told[1:]] == trace[told[:-1]]) & (identity[told[1:]] != identity[told[:-1]])
    begins[told[1:][another]] = True
    part = np.empty(len(order), np.int64)
    part[order] = np.cumsum(begins) - 1
    whole = np.empty(len(order), np.uint64)
    whole[order] = identity
    return _handed_over(events, part, whole)[part].astype(np.uint64)


def _handed_over(events: TraceEvents, part: I64, identity: U64) -> I64:
    """For each part the first one of its packet: another one if the packet came by another interface there."""
    found = np.arange(part.max(initial=-1) + 1)
    rows = np.flatnonzero((identity != 0) & (events.indev != 0))
    numbers, first = np.unique(part[rows], return_index=True)
    last = len(rows) - 1 - np.unique(part[rows][::-1], return_index=True)[1]
    equal: dict[int, list[_Part]] = defaultdict(list)
    columns = numbers, rows[first], rows[last], events.indev[rows[first]], events.indev[rows[last]]
    parts = sorted(map(_Part._make, np.stack(columns, axis=1).tolist()), key=lambda one: one.first)
    for one in parts:
        before = equal[int(identity[one.first])]
        able = [each for each in before if each.last < one.first and each.went_on != one.came]
        if len(able) == 1:
            found[one.number] = found[able[0].number]
            before.remove(able[0])
        before.append(one)
        del before[:-_MOST_EQUAL]
    return found
