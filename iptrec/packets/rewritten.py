"""Packets of which a rule of nf_tables changed what tells them from others, such as the id of IPv4.

They seem to end where it did, and to begin there as another one. nf_tables' id of a packet is made of its
buffer's address and its flow: what comes from nowhere with the id of one that was under way is that one,
where a rule of either wrote into the packet.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode.rulesets.nft_matches import Writes
from iptrec.packets.identity import Packets, combined
from iptrec.packets.in_flight import UNDER_WAY_NS
from iptrec.packets.userspace import headless, joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I32, I64, U64, Mask
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.userspace import Spans
    from iptrec.packets.walk import Walker
    from iptrec.rulesets.places import Place

# Fields of headers that tell no packet from another (`identity`).
_CHANGING: Final = frozenset({
    "saddr", "daddr", "sport", "dport", "ttl", "hoplimit", "dscp", "ecn", "flowlabel", "checksum",
})  # fmt: skip
_HEADERS: Final = frozenset({
    "ip", "ip6", "tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "th",
})  # fmt: skip


def rejoin(
    events: TraceEvents,
    place: I32,
    spans: Spans,
    options: dict[tuple[Outcome, ...], int],
    walker: Walker,
    starts: Mask,
    places: Sequence[Place],
) -> Spans:
    """Join the parts of these packets; see `userspace.rejoin`. ``places``: by their numbers."""
    rows, first, count, option = spans
    begun, ended = rows[first], rows[first + count - 1]
    tails = headless(place, spans, options, starts) & (events.trace[begun] >= 0)
    if not tails.any():
        return spans
    here, which = np.unique(place[rows], return_inverse=True)
    wrote = np.array([_rewrites(places[one]) for one in here.tolist()])[which]
    if not wrote.any():
        return spans
    over = np.array([any(one.finished for one in some) for some in options], np.bool_)[option]
    heads = ~over & (events.trace[ended] >= 0)
    wrote = np.logical_or.reduceat(wrote, first)
    pairs = _pairs(events, (begun, ended), np.flatnonzero(heads), np.flatnonzero(tails), wrote)
    return joined(pairs, place, spans, options, walker)


def _pairs(
    events: TraceEvents, spans: tuple[I64, I64], heads: I64, tails: I64, wrote: Mask
) -> list[tuple[int, int]]:
    """The traversal that each headless one goes on from, in order of the latter.

    ``spans``: the first and the last event of each traversal; ``wrote``: in which one a rule wrote.
    """
    begun, ended = spans
    waiting: dict[int, list[int]] = defaultdict(list)
    for key, head in zip(_keys(events, ended[heads]).tolist(), heads.tolist(), strict=True):
        waiting[key].append(head)
    found = []
    for key, tail in zip(_keys(events, begun[tails]).tolist(), tails.tolist(), strict=True):
        before = [one for one in waiting[key] if ended[one] < begun[tail]]
        if not before:
            continue
        head = max(before, key=lambda one: int(ended[one]))
        passed_ns = events.received_ns[begun[tail]] - events.received_ns[ended[head]]
        if (wrote[head] or wrote[tail]) and passed_ns <= UNDER_WAY_NS:
            waiting[key].remove(head)
            found.append((head, tail))
    return found


def _rewrites(place: Place) -> bool:
    """Whether a rule writes into a packet what stays of it otherwise."""
    return place.rule is not None and any(
        isinstance(one, Writes) and _tells_apart(one.key) for one in place.rule.matches
    )


def _tells_apart(key: str) -> bool:
    header, _, field = key.partition(" ")
    return key.startswith("@") or (header in _HEADERS and field not in _CHANGING)


def _keys(events: TraceEvents, rows: I64) -> U64:
    """Equal for packets with one id and one flow."""
    flows = Packets.of(events, rows).flow_keys()
    return combined([flows, events.trace[rows].astype(np.uint64)])
