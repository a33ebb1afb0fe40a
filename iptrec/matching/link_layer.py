"""Whom the link layer sent a packet to: skb->pkt_type, as eth_type_trans (net/ethernet/eth.c) tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.matching.field import DEVICES
from iptrec.matching.rewrites import is_written

if TYPE_CHECKING:
    from iptrec.matching.facts import Facts

HOST, BROADCAST, MULTICAST, OTHER_HOST = range(4)  # include/uapi/linux/if_packet.h
_HEADER: Final = 14  # bytes
_ALL: Final = b"\xff" * 6


def packet_type(facts: Facts) -> int | None:
    """Of what came in by Ethernet; None where nobody knows. A frame for another host comes to no rule of IP."""
    link = facts.bits.link
    ethernet = facts.in_ and facts.in_type in (None, DEVICES["ether"]) and len(link) >= _HEADER
    if not ethernet or is_again(facts) or is_written("meta pkttype", facts.written):
        return None
    if link.startswith(_ALL):
        return BROADCAST
    return MULTICAST if link[0] & 1 else HOST


def is_again(facts: Facts) -> bool | None:
    """Whether the host gets a packet that it sent to a group itself (PACKET_LOOPBACK); None where nobody knows.

    Then the IP header is in the place of that of the link layer.
    """
    link = facts.bits.link
    if not facts.in_ or len(link) < _HEADER:
        return None
    return facts.bits.captured.startswith(link[:_HEADER])
