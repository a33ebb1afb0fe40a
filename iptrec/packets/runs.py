"""Events one after the other with the same packet: most rules leave it as it is, so it is looked at once.

What is compared are the bytes that tell packets apart (`identity`), as far as they were captured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode.headers import spans
from iptrec.packets.identity import AUTH, EXTENSIONS, Packets, combined, pair_keys

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask

# Up to 32 bytes behind the longest header of TCP (60 bytes), of IPv4 without options and of IPv6 without more.
_WIDTH4, _WIDTH6 = 112, 136
_BLOCK: Final = 8192  # events whose bytes stay in the processor's cache
# _BYTES_BELOW[n] keeps the first n bytes of a row of words.
_BYTES_BELOW: Final = (
    np.where(np.arange(_WIDTH6) < np.arange(_WIDTH6 + 1)[:, None], 0xFF, 0)
    .astype(np.uint8)
    .view("<u8")
)


def by_keys(
    events: TraceEvents, rows: I64, fixed: Mask | None = None, given: U64 | None = None
) -> tuple[I64, U64]:
    """Some events (ascending), those with equal keys of `Packets.keys` together and in order, and the keys.

    ``fixed``: whose addresses make a difference, shape (events,), see `fixed.fixed`. ``given``: keys in place
    of those, shape (events,).
    """
    if given is not None:
        order = np.argsort(given[rows], kind="stable")
        return rows[order], given[rows[order]]
    begins = _begins(events)
    pairs = None if fixed is None else np.where(fixed, pair_keys(events), np.uint64(0))
    if pairs is not None:
        begins[1:] |= pairs[1:] != pairs[:-1]
    run = (np.cumsum(begins) - 1)[rows]
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    first = np.flatnonzero(begins)[run[starts]]
    keys = Packets.of(events, first).keys()
    if pairs is not None:
        keys = combined([keys, pairs[first]])
    order = np.argsort(keys, kind="stable")
    size = np.diff(starts, append=len(rows))[order]
    before = np.cumsum(size) - size
    places = np.arange(len(rows)) + np.repeat(starts[order] - before, size)
    return rows[places], np.repeat(keys[order], size)


def _begins(events: TraceEvents) -> Mask:
    """Which events do not have the packet of the event before, as far as their keys can differ."""
    start = np.maximum(events.payload, 0)
    length = np.where(events.payload >= 0, events.payload_length, 0)
    six = events.ipv6
    same = np.ones(len(start), np.bool_)
    for column in (length, six, events.ip):
        same[1:] &= column[1:] == column[:-1]
    longest = _WIDTH6 if six.any() else _WIDTH4
    width = min(longest, int(length.max(initial=1)) + 7 & ~7)
    bytes_ = spans(events.buffer, width)
    for at in range(0, len(start), _BLOCK):
        block = slice(max(at - 1, 0), at + _BLOCK)  # with the event before
        words = bytes_[start[block]].view("<u8").reshape(-1, width // 8)
        known = np.minimum(length[block], width)
        if (known < width).any():
            words &= _BYTES_BELOW[:, : width // 8].take(known, axis=0)
        equal = ~_reaches_further(words[:, 0], six[block])
        equal[1:] &= (words[1:] == words[:-1]).all(axis=1)
        same[at : at + _BLOCK] &= equal[min(at, 1) :]
    same[:1] = False
    return ~same


def _reaches_further(word: U64, six: Mask) -> Mask:
    """Whether keys may depend on more bytes than are compared; ``word``: the first eight of each packet."""
    options: Mask = word & np.uint64(0x0F) > 5  # noqa: PLR2004 - words of IPv4's header
    if not six.any():
        return options
    extended = np.isin(word >> np.uint64(48) & np.uint64(0xFF), (*EXTENSIONS, AUTH))
    return np.where(six, extended, options)
