"""Packets that the kernel dropped while we recorded and told of by counters alone.

__nf_conntrack_confirm (net/netfilter/nf_conntrack_core.c) finds another connection in the place of
the new one, as when two are translated to the same addresses and ports, and counts insert_failed.
synproxy_recv_client_ack (net/netfilter/nf_synproxy_core.c) counts cookie_invalid. No event tells which
packet it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.counters import Counter

if TYPE_CHECKING:
    from iptrec.context.counters import Counts

_REFUSED: Final = Counter("insert_failed", "conntrack")
_DISBELIEVED: Final = Counter("cookie_invalid", "synproxy")


class Refusal(NamedTuple):
    """How many new connections were refused that all rules had let pass, between two looks (epoch, ns)."""

    since_ns: int
    until_ns: int
    many: int


def refusals(counts: Counts) -> list[Refusal]:
    """Each time that connection tracking refused some, by the counters of two looks."""
    return [Refusal(*one) for one in counts.rises(_REFUSED)]


def disbelieved(counts: Counts) -> int | None:
    """How many ACKs SYNPROXY dropped for their cookies; None where that was not counted at both ends."""
    return counts.rise(_DISBELIEVED)
