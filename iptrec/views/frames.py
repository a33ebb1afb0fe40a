"""Packets as a capture has them: bare, or behind the link header that was recorded, or one of zeros.

A frame that is not IP is always written with one: nothing else tells what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode import ethernet
from iptrec.decode.headers import spans
from iptrec.packets.identity import lengths
from iptrec.views.cells import copy

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U8, Mask

_DUMPED: Final = 40  # bytes that nf_tables dumps of what it does not know
_IPV4, _IPV6, _RESERVED = 0x0800, 0x86DD, 0xFFFF


def header_sizes(events: TraceEvents, link: str) -> I64:
    """How many bytes of link header each packet is written with, shape (n,).

    ``link``: "auto", with what was recorded; "raw", without; "ethernet", all.
    """
    recorded = np.where(_recorded(events), events.link_length, 0).astype(np.int64)
    made = ~events.ip if link != "ethernet" else np.ones(len(events), np.bool_)
    wanted = recorded if link != "raw" else np.where(events.ip, 0, recorded)
    return np.where(made & (wanted == 0), ethernet.HEADER, wanted)


def wire_lengths(events: TraceEvents, sizes: I64) -> I64:
    """How long each frame was, bytes; of one that is not IP, and cut, one byte more than there is."""
    captured = events.payload_length + sizes
    cut = ~events.ip & (events.payload_length >= _DUMPED)
    return np.where(cut, captured + 1, np.maximum(lengths(events) + sizes, captured))


def write(events: TraceEvents, sizes: I64, buffer: U8, at: I64) -> None:
    """Put the packets into zeros, each where it begins; ``sizes``: as `header_sizes` gives them."""
    recorded = _recorded(events)
    here = np.flatnonzero(recorded & (sizes > 0))
    copy(buffer, at[here], events.buffer, events.link[here], sizes[here])
    here = np.flatnonzero(~recorded & (sizes > 0))
    if len(here):
        types = np.where(events.ip, np.where(events.ipv6, _IPV6, _IPV4), events.protocol)[here]
        types[types == 0] = _RESERVED
        kinds = types.astype(">u2").view("V2")
        spans(buffer, kinds.itemsize)[at[here] + ethernet.TYPE] = kinds
    copy(buffer, at + sizes, events.buffer, events.payload, events.payload_length)


def _recorded(events: TraceEvents) -> Mask:
    """Which events bring an Ethernet header whose type is that of the packet."""
    there = (events.link >= 0) & (events.link_length >= ethernet.HEADER)
    at = np.where(there, events.link + ethernet.TYPE, 0)
    kind = ethernet.short(events.buffer, at)
    tagged = there & np.isin(kind, ethernet.TAGGED)
    at = np.where(tagged, at + ethernet.TAG, 0)
    kind = np.where(tagged, ethernet.short(events.buffer, at), kind)
    there &= events.link_length == np.where(tagged, ethernet.HEADER + ethernet.TAG, ethernet.HEADER)
    recorded: Mask = there & (
        (kind == events.protocol) | ((kind < ethernet.LEAST_TYPE) & ~events.ip)
    )
    return recorded
