"""The events of equal packets, dealt out one by one to the packets in flight.

Each event goes to a packet that it can follow by the grammar. Where several would do, it goes to the one
that it resembles most (arrival stamp, addresses, interfaces), and not to one that nothing was told of for
longer than a packet is under way. Where they resemble it equally, it goes to the one that its processor had
last; where nobody noted that, to the one that has waited longest, and both are called ambiguous.

nf_tables' id of a packet is made of its buffer's address. One that begins with the id of another one has the
buffer that this one had: so that one is gone, whether rules told it or not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.names import HOOKS
from iptrec.packets.copies import Origins
from iptrec.packets.in_flight import UNDER_WAY_NS, Packet
from iptrec.packets.walk import along

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.branches import Walk
    from iptrec.packets.copies import Logged, Sent
    from iptrec.packets.walk import Walker


_UNDER_WAY: Final = (
    64  # equal packets in flight that are kept apart; more are cut off as incomplete
)
_PREROUTING: Final = HOOKS.index("PREROUTING")


def deal(
    events: TraceEvents,
    stamps: I64,
    changing: Mask,
    logged: Logged,
    rows: list[int],
    path: list[int],
    walker: Walker,
) -> list[Packet]:
    """Give each event (numbers in ``rows``, places in ``path``) to a packet, or let it begin one.

    ``stamps``: when each event's packet arrived, 0 if not known; ``changing``: whether its table was changed
    just then; shape (events,).
    """
    origins = Origins(logged, walker)
    dealer = _Dealer(dict(zip(rows, path, strict=True)), origins, logged, walker)
    for row, place in zip(rows, path, strict=True):
        event = _alone(events, stamps, row, place, walker)
        event.cpu = int(logged.cpu[row])
        dealer.take(event, place, changing=bool(changing[row]))
    return dealer.packets


class _Dealer:
    """Takes the events of one key one after the other; ``place_of``: of each. ``packets``: what they are."""

    def __init__(
        self, place_of: dict[int, int], origins: Origins, logged: Logged, walker: Walker
    ) -> None:
        self.packets: list[Packet] = []
        self._under_way: list[Packet] = []
        self._place_of = place_of
        self._origins = origins
        self._logged = logged
        self._walker = walker

    def take(self, event: Packet, place: int, *, changing: bool) -> None:
        """Give an event to the packet that it follows, or let it begin one."""
        where = self._under_way, event, place, self._walker
        followed = _followed(*where, self._logged)
        if followed is None and event.walk.headless and changing:
            followed = _resumed(*where)
        if followed is None:
            followed = _torn(*where, self._logged, changing=changing)
        event.copy_of = self._origins.copied(event, place, followed and followed[0])
        if event.copy_of is not None:
            self._begin(event)
        elif followed is not None:
            self._go_on(*followed, event)
        elif sent := self._origins.sent(event):
            self._part(sent, event, place)
        elif arriving := self._origins.duplicated(event, self._under_way):
            event.copy_of, event.kept = arriving, True
            self._begin(event)
        elif event.walk.headless and (resumed := _resumed(*where)):
            self._go_on(*resumed, event)
        else:
            self._begin(event)

    def _begin(self, packet: Packet) -> None:
        if packet.copy_of is not None:
            packet.walk = replace(packet.walk, headless=False, copied=True)
        elif not packet.walk.headless:
            self._leave([one for one in self._under_way if one.has_buffer_of(packet)])
        standing = _walks(self._under_way)
        packet.nested = any(self._walker.stands_at(walk, "TEE") for walk in standing)
        self._origins.begun(packet)
        self.packets.append(packet)
        self._under_way.append(packet)
        del self._under_way[:-_UNDER_WAY]

    def _go_on(self, packet: Packet, walk: Walk, event: Packet) -> None:
        self._origins.goes_on(packet, event)
        packet.go_on(event, walk)
        if walk.ended:
            self._leave([packet])

    def _leave(self, packets: list[Packet]) -> None:
        gone = {id(one) for one in packets}
        self._under_way[:] = [one for one in self._under_way if id(one) not in gone]

    def _part(self, sent: Sent, event: Packet, place: int) -> None:
        """Tell what was sent from its copy for the listeners here, where both came to POSTROUTING.

        The copy is the first one in IP version 4 (net/ipv4/ip_output.c, ip_mc_output), the second one in
        version 6 (net/ipv6/ip6_output.c, ip6_finish_output2).
        """
        packet, walk, count = sent
        went = self._walker.step(walk, place)
        rows = packet.rows[count:]
        tail = along(self._walker, tuple(self._place_of[row] for row in rows))
        if event.ipv6 or went is None or tail is None:
            event.copy_of, event.kept = packet, True
            self._begin(event)
            return
        del packet.rows[count:]
        self._begin(replace(packet, rows=rows, walk=tail, copy_of=packet, kept=True))
        if not any(one is packet for one in self._under_way):
            self._under_way.append(packet)
        self._go_on(packet, went, event)


def _alone(events: TraceEvents, stamps: I64, row: int, place: int, walker: Walker) -> Packet:
    """An event as a packet of one row."""
    packet = events.packet(row)[:_HEADERS]
    return Packet(
        rows=[row],
        walk=walker.begin(place),
        addresses=_addresses(packet),
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
        ipv6=_is_ipv6(packet),
        port=int(events.physoutdev[row]),
        received=int(events.hook[row]) == _PREROUTING,
    )


def _walks(under_way: list[Packet]) -> list[Walk]:
    """The walks in which packets stand, each once."""
    return list({id(packet.walk): packet.walk for packet in under_way}.values())


def _followed(
    under_way: list[Packet], event: Packet, place: int, walker: Walker, logged: Logged
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
    best = [fit for fit in best if not _is_over(fit[0], event, logged)] or best
    if len(best) > 1 and best[-1][0].nested:
        return best[-1]
    best = _on_its_processor(best, event)
    if len(best) > 1:
        for packet, _ in best:
            packet.ambiguous = True
    return best[0]


def _on_its_processor(fits: list[tuple[Packet, Walk]], event: Packet) -> list[tuple[Packet, Walk]]:
    """The one of several that the event's processor had last, if that tells which it is.

    A processor is through with a packet that came in before it takes the next one (net/core/dev.c,
    net_rx_action), but where userspace has it meanwhile. A process that sends one may be preempted, and go on
    with it on another processor.
    """
    told = all(one.received and one.cpu >= 0 and not one.waits for one, _ in fits)
    here = [fit for fit in fits if fit[0].cpu == event.cpu]
    return [max(here, key=lambda fit: fit[0].rows[-1])] if told and here else fits


def _is_over(packet: Packet, event: Packet, logged: Logged) -> bool:
    """Whether nothing was told of the packet for too long before the event, as windows are closed by.

    What IP hands over to a bridge may have waited for a neighbour.
    """
    passed_ns = logged.received_ns[event.rows[0]] - logged.received_ns[packet.rows[-1]]
    handed_over = event.bridged and not packet.bridged
    return bool(passed_ns > UNDER_WAY_NS) and not packet.waits and not handed_over


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
    under_way: list[Packet],
    event: Packet,
    place: int,
    walker: Walker,
    logged: Logged,
    *,
    changing: bool,
) -> tuple[Packet, Walk] | None:
    """The packet that the event is of by the kernel's word, though no ruleset explains it.

    While a table is made anew the base chains of both are attached, and chains change one after the other
    (net/netfilter/nf_tables_api.c, nf_tables_commit).
    """
    for packet in reversed(under_way):
        mine = packet.has_buffer_of(event) and not _is_over(packet, event, logged)
        mine &= (
            changing or walker.changes(place) or walker.changes(packet.walk.branches[0].path[-1])
        )
        if not event.walk.headless:  # it may be the next one that has the buffer
            mine &= walker.may_come_behind(packet.walk, place)
        if mine and (walk := walker.leap(packet.walk, place) or walker.tear(packet.walk, place)):
            return packet, walk
    return None


_HEADERS: Final = 64  # bytes that hold addresses and ports


def _addresses(packet: bytes) -> bytes:
    """Addresses and the first four bytes of the transport header (the ports)."""
    if _is_ipv6(packet):
        return packet[8:44]
    layer4 = (packet[0] & 0x0F) * 4 if packet else 20
    return packet[12:20] + packet[layer4 : layer4 + 4]


def _is_ipv6(packet: bytes) -> bool:
    return bool(packet) and packet[0] >> 4 == 6  # noqa: PLR2004 - IP version
