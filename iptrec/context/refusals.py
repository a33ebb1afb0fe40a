"""Packets that the kernel dropped while we recorded and told of by counters alone.

__nf_conntrack_confirm (net/netfilter/nf_conntrack_core.c) finds another connection in the place of
the new one, as when two are translated to the same addresses and ports, and counts insert_failed.
synproxy_recv_client_ack (net/netfilter/nf_synproxy_core.c) counts cookie_invalid. No event tells which
packet it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.decode import snapshots

if TYPE_CHECKING:
    from iptrec.recording.rows import Recording

_CONNTRACK: Final = "stat/nf_conntrack"
_SYNPROXY: Final = "stat/synproxy"


def refused(recording: Recording, namespace: int) -> int:
    """How many new connections connection tracking refused, which all rules had let pass.

    By the counters at the start and at the end; 0 where they are not there.
    """
    counts = _counted(recording, namespace, _CONNTRACK, "insert_failed")
    return max(0, counts[-1] - counts[0]) if counts else 0


def disbelieved(recording: Recording, namespace: int) -> int | None:
    """How many ACKs SYNPROXY dropped for their cookies; None where that was not counted at both ends."""
    counts = _counted(recording, namespace, _SYNPROXY, "cookie_invalid")
    return max(0, counts[-1] - counts[0]) if len(counts) > 1 else None


def _counted(recording: Recording, namespace: int, statistics: str, name: str) -> list[int]:
    """Each time that it was counted."""
    lists = (
        snapshots.counters(one.content)
        for one in recording.snapshots("counters")
        if one.namespace == namespace
    )
    return [snapshots.column(one[statistics], name) for one in lists if statistics in one]
