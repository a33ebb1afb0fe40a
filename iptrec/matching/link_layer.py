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
    """Of what came in by Ethernet; None where nobody knows. A frame for another host comes to no rule of IP.

    What the host sent to a group comes in again with the IP header in the place of that of the link layer.
    """
    link = facts.bits.link
    ethernet = facts.in_ and facts.in_type in (None, DEVICES["ether"]) and len(link) >= _HEADER
    again = facts.bits.captured.startswith(link[:_HEADER])
    if not ethernet or again or is_written("meta pkttype", facts.written):
        return None
    if link.startswith(_ALL):
        return BROADCAST
    return MULTICAST if link[0] & 1 else HOST
