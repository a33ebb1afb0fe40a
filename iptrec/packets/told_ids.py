"""Packets of a text of nf_tables' traces, told apart by the ids in its lines.

The kernel makes an id of the buffer's address, the hash of the flow that the buffer keeps, and the interface by
which the packet came in (net/netfilter/nf_tables_trace.c, nft_trace_init). It stays the same on the whole way
through one namespace, through NAT as well (measured on 6.18); a copy has another one. A text tells little of
packets, and nothing where its lines are cut or masked: equal headers do not make one packet of two ids. Another
packet may have the same buffer later: its headers tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iptrec.packets.identity import Packets, addressed

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import U64


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
    found = np.empty(len(order), np.uint64)
    found[order] = np.cumsum(begins).astype(np.uint64)
    return found
