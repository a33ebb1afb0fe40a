"""Packets of which the kernel told nothing, though our TRACE rules counted them.

nf_tables sends no message about IPv6 whose extension headers reach past the packet's end (seen on Linux 6.18;
net/netfilter/nf_tables_trace.c, nft_trace_notify: what it cannot put into a message it leaves out). The rules
that switch tracing on are traced themselves: each packet that they count has an event of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.context import trace_rules
from iptrec.recording.hosts import parts
from iptrec.recording.rows import lost_events
from iptrec.rulesets.backends import BACKENDS

if TYPE_CHECKING:
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording

_RAW: Final = ("nft ipv4 ", "nft ipv6 ")  # in tables of our own a packet may be counted again


class Untold:
    """Counts them, window by window, where all that was counted should be there."""

    def __init__(self, recording: Recording) -> None:
        self._left = {
            namespace.id: _counted(one)
            for one in parts(recording)
            for namespace in one.namespaces[:1]
        }

    @property
    def count(self) -> int:
        """How many at least; 0 where that cannot be told."""
        return sum(max(0, one) for one in self._left.values())

    def add(self, window: Window) -> None:
        """Leave out those of which there are events of our rules."""
        namespace = window.stream.namespace
        if not self._left.get(namespace):
            return
        ours = [
            one.ours and one.rule is not None and not one.apart for one in window.resolver.places
        ]
        place = window.resolved.place[window.rows()]
        self._left[namespace] -= int(
            np.count_nonzero(np.array([*ours, False])[place])
        )  # -1: of no place


def _counted(recording: Recording) -> int:
    """How many our rules counted; 0 where events may be missing for another reason, or be of others."""
    streams = [one for one in recording.streams if one.kind in BACKENDS]
    alone = [one.kind for one in streams] == ["nftrace"] and not streams[0].is_ring
    if not (alone and recording.facts.closed) or lost_events(recording):
        return 0
    counted = trace_rules.counted(recording) or {}
    return sum(counted.values()) if all(one.startswith(_RAW) for one in counted) else 0
