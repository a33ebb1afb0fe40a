"""A packet in flight: the events that were given to it so far, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iptrec.packets.branches import Walk
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.walk import Walker
    from iptrec.rulesets.places import Pass


EQUAL: Final = "equal packets were under way together"
# The kernel takes a packet from rule to rule in microseconds; a sender that is preempted on its way
# through OUTPUT takes milliseconds; userspace behind NFQUEUE takes its time.
UNDER_WAY_NS: Final = 100_000_000


@dataclass(slots=True)
class Packet:
    """A packet in flight; an event is a packet of one row.

    ``addresses``: with ports. ``conntrack``, ``direction``: the connection's id, and the packet's direction in
    it (an answer may equal its question); -1 if the kernel did not tell. ``trace``: nf_tables' id of it in
    this base chain (``pass_``), -1 in legacy iptables; ``bridged``: that is one of a bridge. ``framed``: it has
    a link header. ``port``: of a bridge that it goes out of, 0 if the kernel did not tell. ``cpu``: the
    processor that it was on, -1 if nobody noted it; ``received``: it came in, and no process sent it.
    ``stamp``: 0 if it has none; ``arrival``: it is that of its arrival, for events of two hooks have it.
    ``nested``: TEE of an equal packet sent it, and that one waits until it is through. ``copy_of``: the kernel
    made it of that one in the midst of its way; ``kept``: beside what goes on, as for the listeners here.
    ``over``: the next copy was made, which the kernel does when it is through with the one before.
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
    bridged: bool = False
    framed: bool = True
    ipv6: bool = False
    port: int = 0
    cpu: int = -1
    received: bool = False
    arrival: bool = False
    nested: bool = False
    ambiguous: bool = False
    copy_of: Packet | None = None
    kept: bool = False
    over: bool = False

    def may_be(self, event: Packet) -> bool:
        """Whether stamps, connection and the kernel's id allow that the event is this packet's."""
        another = self.pass_ == event.pass_ and self.trace != event.trace
        another |= 0 not in (self.port, event.port) and self.port != event.port
        another |= self.kept and event.bridged
        return not another and self.agrees(event)

    def agrees(self, event: Packet) -> bool:
        """Whether stamps and connection allow that both are of one packet, or of copies of it."""
        if self.arrival and event.stamp and self.stamp != event.stamp:
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
        ) * 2 + (not self.over)

    def has_buffer_of(self, event: Packet) -> bool:
        """Whether the kernel's id says that both have one buffer (nf_tables_trace.c, trace_fill_id)."""
        return self.trace == event.trace >= 0 and self.addresses == event.addresses

    @property
    def waits(self) -> bool:
        """Whether it may go on at any time: userspace has it."""
        return any(one.state.status == "queued" for one in self.walk.branches)

    def go_on(self, event: Packet, walk: Walk) -> None:
        """Take an event."""
        self.rows += event.rows
        self.walk = walk
        self.arrival |= self.hook != event.hook and 0 != self.stamp == event.stamp
        self.addresses, self.indev, self.outdev = event.addresses, event.indev, event.outdev
        self.conntrack = max(self.conntrack, event.conntrack)
        self.direction = max(self.direction, event.direction)
        self.hook, self.stamp = event.hook, event.stamp or self.stamp
        self.trace, self.pass_, self.bridged = event.trace, event.pass_, event.bridged
        self.port = event.port or self.port
        self.cpu = event.cpu

    def outcomes(self, walker: Walker) -> tuple[Outcome, ...]:
        """What may have become of it."""
        found = walker.judge(self.walk)
        return tuple(replace(one, doubt=EQUAL) for one in found) if self.ambiguous else found
