"""The events of equal packets, dealt out one by one to the packets in flight.

Each event goes to a packet that it can follow by the grammar. Where several would do, it goes to the one
that it resembles most (arrival stamp, addresses, interfaces). Where they resemble it equally, it goes to the
one that has waited longest, and both are called ambiguous.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.packets.copies import Origins
from iptrec.packets.in_flight import Packet

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.walk import Walk, Walker


_UNDER_WAY: Final = (
    64  # equal packets in flight that are kept apart; more are cut off as incomplete
)


def deal(
    events: TraceEvents,
    stamps: I64,
    changing: Mask,
    whole: Mask,
    rows: list[int],
    path: list[int],
    walker: Walker,
) -> list[Packet]:
    """Give each event (numbers in ``rows``, places in ``path``) to a packet, or let it begin one.

    ``stamps``: when each event's packet arrived, 0 if not known; ``changing``: whether its table was changed
    just then; ``whole``: whether no event was lost shortly before; shape (events,).
    """
    packets: list[Packet] = []
    under_way: list[Packet] = []
    origins = Origins(events.received_ns, whole, walker)
    for row, place in zip(rows, path, strict=True):
        event = _alone(events, stamps, row, place, walker)
        followed = _followed(under_way, event, place, walker)
        if followed is None and event.walk.headless and changing[row]:
            followed = _resumed(under_way, event, place, walker)
            followed = followed or _torn(under_way, event, place, walker)
        event.copy_of = origins.copied(event, place, followed and followed[0])
        if event.copy_of is not None:
            followed = None
        elif followed is None and event.walk.headless:
            followed = _resumed(under_way, event, place, walker)
        if followed is None:
            event.copy_of = event.copy_of or origins.sent(event)
            if event.copy_of is not None:
                event.walk = replace(event.walk, headless=False, copied=True)
            event.nested = any(walker.stands_at(walk, "TEE") for walk in _walks(under_way))
            origins.begun(event)
            packets.append(event)
            under_way.append(event)
            del under_way[:-_UNDER_WAY]
        else:
            packet, walk = followed
            origins.goes_on(packet, event)
            packet.go_on(event, walk)
            if walk.ended:
                under_way[:] = [one for one in under_way if one is not packet]
    return packets


def _alone(events: TraceEvents, stamps: I64, row: int, place: int, walker: Walker) -> Packet:
    """An event as a packet of one row."""
    return Packet(
        rows=[row],
        walk=walker.begin(place),
        addresses=_addresses(events.packet(row)[:_HEADERS]),
        indev=int(events.indev[row]),
        outdev=int(events.outdev[row]),
        conntrack=int(events.conntrack[row]),
        hook=int(events.hook[row]),
        stamp=int(stamps[row]),
        trace=int(events.trace[row]),
        pass_=walker.pass_(place),
        direction=int(events.ct_direction[row]),
        bridged=walker.of_bridge(place),
        framed=bool(events.link_length[row]),
    )


def _walks(under_way: list[Packet]) -> list[Walk]:
    """The walks in which packets stand, each once."""
    return list({id(packet.walk): packet.walk for packet in under_way}.values())


def _followed(
    under_way: list[Packet], event: Packet, place: int, walker: Walker
) -> tuple[Packet, Walk] | None:
    """The packet that the event follows, and its walk with the event."""
    fits: list[tuple[Packet, Walk]] = []
    stepped: dict[int, Walk | None] = {}  # equal packets in a row stand in the same walk
    for packet in under_way:
        if packet.may_be(event):
            if id(packet.walk) not in stepped:
                stepped[id(packet.walk)] = walker.step(packet.walk, place)
            if (walk := stepped[id(packet.walk)]) is not None:
                fits.append((packet, walk))
    if not fits:
        return None
    most = max(packet.likeness(event) for packet, _ in fits)
    best = [fit for fit in fits if fit[0].likeness(event) == most]
    if len(best) > 1 and best[-1][0].nested:
        return best[-1]
    if len(best) > 1:
        for packet, _ in best:
            packet.ambiguous = True
    return best[0]


def _resumed(
    under_way: list[Packet], event: Packet, place: int, walker: Walker
) -> tuple[Packet, Walk] | None:
    """The packet that the event continues after a hole, if stamp or addresses say that it is the one."""
    for packet in under_way:
        arrived_together = event.stamp != 0 and packet.stamp == event.stamp
        alike = arrived_together or packet.addresses == event.addresses
        if alike and packet.may_be(event) and (walk := walker.leap(packet.walk, place)):
            return packet, walk
    return None


def _torn(
    under_way: list[Packet], event: Packet, place: int, walker: Walker
) -> tuple[Packet, Walk] | None:
    """The packet that the event is of by the kernel's word, though no ruleset explains it.

    While a table is made anew the base chains of both are attached, and chains change one after the other
    (net/netfilter/nf_tables_api.c, nf_tables_commit).
    """
    for packet in reversed(under_way):
        same = packet.trace == event.trace >= 0 and packet.addresses == event.addresses
        if same and (walk := walker.tear(packet.walk, place)):
            return packet, walk
    return None


_HEADERS: Final = 64  # bytes that hold addresses and ports


def _addresses(packet: bytes) -> bytes:
    """Addresses and the first four bytes of the transport header (the ports)."""
    if packet[:1] and packet[0] >> 4 == 6:  # noqa: PLR2004 - IP version
        return packet[8:44]
    layer4 = (packet[0] & 0x0F) * 4 if packet else 20
    return packet[12:20] + packet[layer4 : layer4 + 4]
