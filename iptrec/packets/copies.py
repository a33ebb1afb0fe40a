"""Copies that the kernel makes of a packet in the midst of its way, each of which goes on by itself.

A bridge sends a frame for many, or for nobody that it knows, out of each port, and hands it to its host
(net/bridge/br_forward.c, br_flood); IP forwards a multicast to several interfaces (net/ipv4/ipmr.c,
ip_mr_forward), and keeps one of what the host sends for the listeners here (net/ipv4/ip_output.c,
ip_mc_output; net/ipv6/ip6_output.c, ip6_finish_output2). The one that is seen first goes on with the trace;
the others begin where the way forks.

Tracing is switched on in PREROUTING and OUTPUT: what comes from nowhere elsewhere was traced before, as a
packet with the same key. Where that is the only one that is under way, and no event was lost, it is the one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.names import HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.names import I64, Mask
    from iptrec.packets.branches import Walk
    from iptrec.packets.in_flight import Packet
    from iptrec.packets.walk import Walker

# The kernel makes all copies in one go, without waiting for anything.
FLOOD_NS: Final = 100_000_000
_LATE_NS: Final = 1_000_000_000  # that a recorder may have no time to receive what waits
_EQUAL: Final = 64  # packets that are kept apart
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))


@dataclass(slots=True)
class _Origin:
    """A packet, and what was made of it.

    ``latest``: the last of them that began. ``forks``: its walks up to where copies begin; ``devices``: those
    that it came in by; ``trace``: nf_tables' id of it before the first fork. ``last_ns``: when the last event
    of any of them was received. ``through``: no more copies are made.
    """

    packet: Packet
    latest: Packet
    last_ns: int
    forks: list[Walk] = field(default_factory=list)
    devices: set[int] = field(default_factory=set)
    trace: int = -1
    copied: bool = False
    through: bool = False

    def take(self, packet: Packet, event: Packet, received_ns: int) -> None:
        """Take notice of an event that follows one of the packet, or of its copies."""
        self.last_ns = received_ns
        self.devices.add(event.indev)
        if _forks(packet, event):
            if not self.forks:
                self.trace = packet.trace
            self.forks.append(packet.walk)
        # What was copied goes last itself: out of the last port, or to the host, by another device there.
        last = event.hook == _FORWARD and event.trace == self.trace >= 0
        last |= event.hook == _INPUT and not event.bridged
        self.through |= last and not packet.ambiguous

    def same_arrival(self, event: Packet) -> bool:
        """Whether the event has the stamp of the packet's arrival."""
        return 0 != self.packet.stamp == event.stamp


@dataclass(frozen=True)
class Logged:
    """Between which times each event was logged, and on which processor (-1: not known); shape (events,).

    ``look``: finds out, in the file, whether none was lost shortly before: only where copies may begin.
    """

    earliest_ns: I64
    received_ns: I64
    cpu: I64
    look: Callable[[], Mask]

    @cached_property
    def whole(self) -> Mask:
        """Before which events none was lost for a while."""
        return self.look()


class Sent(NamedTuple):
    """A packet that its host sent, which came to POSTROUTING; ``walk``, ``rows``: up to there."""

    packet: Packet
    walk: Walk
    rows: int


class Origins:
    """The packets of one key that copies may come of.

    ``logged``: of each event.
    """

    def __init__(self, logged: Logged, walker: Walker) -> None:
        self._logged = logged
        self._walker = walker
        self._recent: list[_Origin] = []
        self._of: dict[int, _Origin] = {}  # by the id() of packets, which `deal` keeps
        self._sent: dict[tuple[int, bytes], Sent] = {}
        self._copied = False

    def begun(self, packet: Packet) -> None:
        """Take notice of a packet, or of a copy, with its first event."""
        received_ns = self._received(packet)
        if packet.copy_of is None:
            origin = self._of[id(packet)] = _Origin(packet, packet, received_ns)
            origin.devices.add(packet.indev)
            self._recent = [one for one in self._recent if self._soon(packet, one)]
            self._recent = [*self._recent[-_EQUAL:], origin]
            return
        origin = self._of[id(packet)] = self._of[id(packet.copy_of)]
        origin.copied = self._copied = True
        if not packet.kept:
            origin.latest.over, origin.latest = True, packet
        origin.take(packet, packet, received_ns)

    def goes_on(self, packet: Packet, event: Packet) -> None:
        """Take notice of an event that a packet is about to take."""
        self._of[id(packet)].take(packet, event, self._received(event))
        self._leaves(packet, event)

    def copied(self, event: Packet, place: int, follows: Packet | None) -> Packet | None:
        """The packet that the event begins a copy of, if any. ``follows``: one that it may be of itself.

        Where it may be of several, the copy, or the packet that it follows, is ambiguous; not by one of other
        addresses or ports, if that packet has the event's.
        """
        if follows is None:
            return self._from_nowhere(event, place)
        if event.stamp == follows.stamp != 0:
            return None
        if not (self._copied or event.stamp or _out_of_bridge(event)):
            return None
        own = self._of[id(follows)]
        others = [one for one in self._able(event, place) if one is not own]
        looped = _out_of_bridge(event) and follows.hook == _PREROUTING and not follows.framed
        if nearer := [one for one in others if looped or one.same_arrival(event)]:
            return nearer[-1].packet
        if follows.addresses == event.addresses:
            others = _of_addresses(event, others)
        follows.ambiguous |= any(one.copied for one in others)
        return None

    def sent(self, event: Packet) -> Sent | None:
        """The packet that was sent as this one was: one of them is kept for the listeners here."""
        if event.hook != _POSTROUTING or not event.walk.headless:
            return None
        found = self._sent.pop((event.outdev, event.addresses), None)
        # A copy has another buffer.
        return None if found and found.packet.trace == event.trace >= 0 else found

    def duplicated(self, event: Packet, under_way: Sequence[Packet]) -> Packet | None:
        """The packet of which `dup` at ingress sent a copy out by a device; that rule is told afterwards."""
        leaves = event.pass_.hook == _POSTROUTING and event.pass_.table.startswith("netdev ")
        if not (leaves and event.walk.headless and self._logged.whole[event.rows[0]]):
            return None
        arriving = (one for one in reversed(under_way) if one.hook == _PREROUTING)
        return next((one for one in arriving if -1 != one.trace != event.trace), None)

    def _leaves(self, packet: Packet, event: Packet) -> None:
        if event.hook == _POSTROUTING and packet.hook == _OUTPUT and not event.bridged:
            sent = Sent(packet, packet.walk, len(packet.rows))
            self._sent[event.outdev, event.addresses] = sent

    def _from_nowhere(self, event: Packet, place: int) -> Packet | None:
        sure = not event.walk.headless  # it may have begun in a bridge's OUTPUT
        if sure and not _out_of_bridge(event):
            return None
        able = self._able(event, place)
        able = (
            [one for one in able if one.same_arrival(event)] or _of_addresses(event, able) or able
        )
        if not able or (sure and len(able) > 1):
            return None
        event.ambiguous = len(able) > 1
        return able[-1].packet

    def _able(self, event: Packet, place: int) -> list[_Origin]:
        """Those of which the event may begin a copy."""
        return [
            one
            for one in self._recent
            if not one.through
            and self._soon(event, one)
            and (not event.indev or event.indev in one.devices)
            and one.packet.agrees(event)
            and (one.same_arrival(event) or self._logged.whole[event.rows[0]])
            and any(self._walker.step(fork, place) for fork in one.forks)
        ]

    def _soon(self, event: Packet, origin: _Origin) -> bool:
        """Whether it may have been logged while copies were made."""
        earliest_ns = int(self._logged.earliest_ns[event.rows[0]])
        logged_ns = max(earliest_ns, self._received(event) - _LATE_NS)
        return logged_ns - origin.last_ns <= FLOOD_NS

    def _received(self, event: Packet) -> int:
        return int(self._logged.received_ns[event.rows[0]])


def _of_addresses(event: Packet, origins: list[_Origin]) -> list[_Origin]:
    """Those with the event's addresses and ports, which NAT may have changed."""
    return [one for one in origins if one.packet.addresses == event.addresses]


def _out_of_bridge(event: Packet) -> bool:
    """Whether a bridge sends what its host, or IP, gave it."""
    return event.bridged and event.hook == _OUTPUT


def _forks(packet: Packet, event: Packet) -> bool:
    """Whether copies may begin where a packet goes on with the event: behind PREROUTING, or out of a bridge."""
    sent = event.hook == _OUTPUT or packet.hook in (_OUTPUT, _POSTROUTING)
    sent &= event.bridged and not packet.bridged
    return sent or (packet.hook == _PREROUTING != event.hook)
