"""The events of equal packets, dealt out one by one to the packets in flight.

Each event goes to a packet that it can follow by the grammar. Where several would do, it goes to the one
that it resembles most (arrival stamp, addresses, interfaces). Where they resemble it equally, it goes to the
one that has waited longest, and both are called ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from iptrec.names import HOOKS

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.walk import Outcome, Walk, Walker
    from iptrec.rulesets.places import Pass


_UNDER_WAY: Final = (
    64  # equal packets in flight that are kept apart; more are cut off as incomplete
)
EQUAL: Final = "equal packets were under way together"
_POSTROUTING: Final = HOOKS.index("POSTROUTING")


@dataclass(slots=True)
class Packet:
    """A packet in flight; an event is a packet of one row.

    ``addresses``: with ports. ``conntrack``, ``direction``: the connection's id, and the packet's direction in
    it (an answer may equal its question); -1 if the kernel did not tell.
    ``trace``: nf_tables' id of it in this base chain (``pass_``), -1 in legacy iptables.
    ``stamp``: 0 if it has none; ``arrival``: it is that of the packet's
    arrival, for events of two hooks have it. ``nested``: TEE of an equal packet sent it, and that one
    waits until it is through.
    """

    rows: list[int]
    walk: Walk
    addresses: bytes
    indev: int
    outdev: int
    conntrack: int
    hook: int
    stamp: int
    trace: int
    pass_: Pass
    direction: int = -1
    arrival: bool = False
    nested: bool = False
    ambiguous: bool = False

    def may_be(self, event: Packet) -> bool:
        """Whether stamps and connection allow that the event is this packet's."""
        if self.arrival and event.stamp and self.stamp != event.stamp:
            return False
        if self.pass_ == event.pass_ and self.trace != event.trace:
            return False
        if -1 not in (self.direction, event.direction) and self.direction != event.direction:
            return False
        return -1 in (self.conntrack, event.conntrack) or self.conntrack == event.conntrack

    def likeness(self, event: Packet) -> int:
        """How much the event resembles the packet's last one."""
        return (
            16 * (event.trace >= 0 and self.trace == event.trace)
            + 8 * (event.stamp != 0 and self.stamp == event.stamp)
            + 4 * (self.addresses == event.addresses)
            + 2 * (self.indev == event.indev)
            + (self.outdev == event.outdev)
        )

    def go_on(self, event: Packet, walk: Walk) -> None:
        """Take an event."""
        self.rows += event.rows
        self.walk = walk
        self.arrival |= self.hook != event.hook and 0 != self.stamp == event.stamp
        self.addresses, self.indev, self.outdev = event.addresses, event.indev, event.outdev
        self.conntrack = max(self.conntrack, event.conntrack)
        self.direction = max(self.direction, event.direction)
        self.hook, self.stamp = event.hook, event.stamp or self.stamp
        self.trace, self.pass_ = event.trace, event.pass_

    def outcomes(self, walker: Walker) -> tuple[Outcome, ...]:
        """What may have become of it."""
        found = walker.judge(self.walk)
        return tuple(replace(one, doubt=EQUAL) for one in found) if self.ambiguous else found


def deal(
    events: TraceEvents,
    stamps: I64,
    changing: Mask,
    rows: list[int],
    path: list[int],
    walker: Walker,
) -> list[Packet]:
    """Give each event (numbers in ``rows``, places in ``path``) to a packet, or let it begin one.

    ``stamps``: when each event's packet arrived, 0 if not known; ``changing``: whether its table was changed
    just then; shape (events,).
    """
    packets: list[Packet] = []
    under_way: list[Packet] = []
    # The kernel clones multicasts and broadcasts for the local host, and both pass POSTROUTING by the
    # same interface (net/ipv4/ip_output.c, ip_mc_output; net/ipv6/ip6_output.c, ip6_finish_output2).
    sent: set[tuple[int, bytes]] = set()
    for row, place in zip(rows, path, strict=True):
        event = Packet(
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
        )
        way_out = None
        if walker.hook(event.walk) == _POSTROUTING:
            way_out = event.outdev, event.addresses
        followed = _followed(under_way, event, place, walker)
        if followed is None and event.walk.headless:
            followed = _resumed(under_way, event, place, walker)
            if followed is None and changing[row]:
                followed = _torn(under_way, event, place, walker)
        if followed is None:
            if event.walk.headless and way_out in sent:
                event.walk = replace(event.walk, headless=False)
            event.nested = any(walker.stands_at(walk, "TEE") for walk in _walks(under_way))
            packets.append(event)
            under_way.append(event)
            del under_way[:-_UNDER_WAY]
        else:
            packet, walk = followed
            packet.go_on(event, walk)
            if walk.ended:
                under_way[:] = [one for one in under_way if one is not packet]
        if way_out is not None:
            sent.add(way_out)
    return packets


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
