"""Packets of which the kernel told nothing, though our TRACE rules counted them.

nf_tables sends no message about IPv6 whose extension headers reach past the packet's end (seen on Linux 6.18;
net/netfilter/nf_tables_trace.c, nft_trace_notify: what it cannot put into a message it leaves out). The rules
that switch tracing on are traced themselves: each packet that they count has an event of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.context import trace_rules
from iptrec.rulesets.backends import BACKENDS

if TYPE_CHECKING:
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording

_RAW: Final = ("nft ipv4 ", "nft ipv6 ")  # in tables of our own a packet may be counted again


class Untold:
    """Counts them, window by window."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._seen = 0

    def add(self, window: Window) -> None:
        """Count the events of our rules."""
        number, count = np.unique(window.resolved.place[window.rows()], return_counts=True)
        places = window.resolver.places
        self._seen += sum(
            some
            for one, some in zip(number.tolist(), count.tolist(), strict=True)
            if one >= 0
            and places[one].ours
            and places[one].rule is not None
            and not places[one].apart
        )

    def count(self) -> int:
        """How many at least; 0 where that cannot be told."""
        recording = self._recording
        streams = [one for one in recording.streams if one.kind in BACKENDS]
        ring = any(one.detail.get("ring_s") or one.detail.get("ring_bytes") for one in streams)
        lost = any(one.of_events for one in recording.losses)
        if (
            [one.kind for one in streams] != ["nftrace"]
            or ring
            or lost
            or not recording.facts.closed
        ):
            return 0
        counted = trace_rules.counted(recording) or {}
        if not all(place.startswith(_RAW) for place in counted):
            return 0
        return max(0, sum(counted.values()) - self._seen)
