"""New connections that connection tracking refused while we recorded, dropping packets that all rules let pass.

__nf_conntrack_confirm (net/netfilter/nf_conntrack_core.c) finds another connection in the place of
the new one, as when two are translated to the same addresses and ports, and counts insert_failed. No event
tells which packet it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.decode import snapshots

if TYPE_CHECKING:
    from iptrec.recording.rows import Recording

_STATISTICS: Final = "stat/nf_conntrack"


def refused(recording: Recording, namespace: int) -> int:
    """How many, by the counters at the start and at the end; 0 where they are not there."""
    counts = [
        snapshots.column(snapshots.counters(one.content).get(_STATISTICS, ""), "insert_failed")
        for one in recording.snapshots("counters")
        if one.namespace == namespace
    ]
    return max(0, counts[-1] - counts[0]) if counts else 0
