"""Where the inner header of a packet begins, as nf_tables has it (@ih): behind UDP or TCP, or in a tunnel.

net/netfilter/nft_payload.c, __nft_payload_inner_offset: where there is none a rule does not match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.matching.bits import Span
from iptrec.matching.field import AbsentError

if TYPE_CHECKING:
    from iptrec.matching.facts import Facts

# The keys of where it begins, and whether the packet ends before.
DEPENDS: Final = ("tcp doff", "@th,0,16", "ip protocol", "ip6 nexthdr", "ip length", "ip6 length")
_UDP: Final = 64  # bits of its header
_DATA_OFFSET: Final = Span("th", 96, 4)  # words of TCP's
_WORD: Final = 32
_GRE_FLAGS: Final = Span("th", 0, 16)
_GRE_VERSION, _GRE_ROUTING = 0x0007, 0x4000
_GRE_OPTIONS: Final = (0x8000, 0x2000, 0x1000)  # checksum, key, sequence: a word each


def number(facts: Facts, where: Span) -> int | None:
    """Some bits from there on; None where they were not captured. Raises AbsentError where there are none.

    The packet's header of the transport layer is known to be there, and whole.
    """
    start = _start(facts)
    if start is None:
        return None
    span = Span("th", start + where.start, where.size)
    found = facts.bits.number(span)
    if found is None and _beyond(facts, span):
        raise AbsentError("too short")
    return found


def _start(facts: Facts) -> int | None:
    """Counted in bits from the header of the transport layer."""
    bits = facts.bits
    match facts.header.get("proto"):
        case "udp":
            return _UDP
        case "tcp":
            words = bits.number(_DATA_OFFSET)
            return None if words is None else words * _WORD
        case "gre":
            return _behind_gre(bits.number(_GRE_FLAGS))
        case "ipip":
            return 0
        case None:
            return None
        case protocol:
            raise AbsentError(protocol)


def _behind_gre(flags: int | None) -> int | None:
    if flags is None:
        return None
    if flags & (_GRE_VERSION | _GRE_ROUTING):
        raise AbsentError("gre of another kind")
    return _WORD + sum(_WORD for one in _GRE_OPTIONS if flags & one)


def _beyond(facts: Facts, span: Span) -> bool:
    """Whether it is behind the packet's end. A frame may go on behind that of its packet."""
    length, network = facts.header.get("length"), facts.bits.network_size
    if not length or network is None or facts.frames or facts.hook is None:
        return False
    return 8 * (int(length) - network) < span.start + span.size
