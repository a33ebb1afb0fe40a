"""Moves datagrams from sockets into the streams of a file, and counts what is missing."""

from __future__ import annotations

import errno
import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from iptrec.errors import HostError, strerror
from iptrec.kernel import batches
from iptrec.recording.kinds import no_room
from iptrec.recording.packing import Notes
from iptrec.recording.rows import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from iptrec.kernel.questions import Question
    from iptrec.recorder.asking import Asking
    from iptrec.recorder.drops import Dropped
    from iptrec.recorder.options import Options, Report
    from iptrec.recorder.senders import Senders
    from iptrec.recording.writer import Writer

_SIDE_DATAGRAMS: Final = 1000  # at a time; the events come first
_LAST_ROUNDS: Final = 16  # at most: of that, all answers of the kernel's may wait
_OVERFLOWS_NS: Final = 1_000_000_000  # the least time between two rows that tell of them
_QUIET_MS: Final = 50  # the last packets' events are in the socket within microseconds
_SETTLE_NS: Final = 500_000_000  # at most, where other packets never let it be quiet


class EventSocket(Protocol):
    """A socket that events of traced packets come out of, many at a time."""

    @property
    def receive_buffer(self) -> int:
        """What the kernel granted, bytes."""

    @property
    def untapped(self) -> str:
        """Why no tap notes when each event was sent; "" where one does."""

    @property
    def pressing(self) -> bool:
        """Whether so many events wait in a tap that they are to be received now."""

    def fileno(self) -> int:
        """For poll."""

    def receive(self) -> batches.Batch | None:
        """Return what is there now; None if nothing is. Raises `batches.Overrun`."""

    def stop(self) -> None:
        """Let nothing follow; what is in the socket can still be received."""

    def unseen(self) -> int:
        """How many events were dropped that no `receive` has reported."""


class SideSocket(Protocol):
    """A socket with few datagrams, beside the events."""

    def fileno(self) -> int:
        """For poll."""

    def receive(self) -> bytes | None:
        """Return the next datagram; None if there is none. Raises OSError (ENOBUFS) where some were lost."""


@dataclass(frozen=True, slots=True)
class Events:
    """A stream of events to be: its socket, kind (`kinds.STREAMS`) and what it says of itself.

    ``gone``: the packets that came in and seem to have gone no further, as questions about their way.
    """

    socket: EventSocket
    kind: str
    detail: Mapping[str, Any]
    gone: Callable[[batches.Batch], Iterator[Question]] = lambda _: iter(())


@dataclass(frozen=True, slots=True)
class Side:
    """A stream beside the events.

    ``there``: gives the datagrams for what is there already. ``received`` is called with the time (epoch ns) of
    each datagram, ``missed`` where the kernel dropped some. ``sent_ns``: gives when the one was sent that was
    received last (epoch; 0: not known), where such times are noted.
    """

    socket: SideSocket
    kind: str
    detail: Mapping[str, Any]
    there: Callable[[], Iterable[bytes]] = tuple
    received: Callable[[int], None] = lambda _: None
    missed: Callable[[], None] = lambda: None
    sent_ns: Callable[[], int] | None = None


@dataclass(slots=True)
class _Source:
    """A stream of events in the file, and when its socket was last read.

    ``emptied``: whether the last look left nothing in it. ``overflowed``: how many events came beside the ring
    of a tap that no row tells of yet; since ``since_ns``.
    """

    socket: EventSocket
    stream: int
    last_ns: int
    gone: Callable[[batches.Batch], Iterator[Question]]
    emptied: bool = False
    overflowed: int = 0
    since_ns: int = 0


class Streams:
    """All streams of a recording; ``ids``: their numbers in the file, by their kinds.

    ``tapped``: whether all events come through taps. ``traversals``: how many packets events of the last of
    ``events`` tell of, for --packets. ``dropped``, ``senders``: what is written beside the events of the
    packets that the kernel drops, and of who sends them. ``asking``: is given all events. ``since_ns``:
    what comes next was logged after it (epoch).
    """

    def __init__(
        self,
        writer: Writer,
        namespace: int,
        sides: Sequence[Side],
        events: Sequence[Events],
        *,
        options: Options,
        report: Report,
        traversals: Callable[[bytes], int],
        dropped: Dropped | None = None,
        senders: Senders | None = None,
        asking: Asking | None = None,
    ) -> None:
        self._writer = writer
        self._options = options
        self._report = report
        self._progress = report.progress
        self._traversals = None if options.packets is None else traversals
        self._asking = asking
        self._sides = sides
        self._events = events
        self._senders = senders
        self._beside = [one for one in (dropped, senders) if one is not None]
        self._sources: list[_Source] = []
        self.ids: dict[str, int] = {}
        self.since_ns = time.time_ns()
        self.write_to(writer, namespace)
        for one in events:
            self._sources.append(_Source(one.socket, self.ids[one.kind], time.time_ns(), one.gone))
            report.detail(f"receive buffer: {one.socket.receive_buffer:,} bytes")
            why = one.socket.untapped
            report.detail(f"{one.kind}: {f'no tap: {why}' if why else 'through the tap'}")
        self.event_sockets = frozenset(one.socket.fileno() for one in events)
        for two in self._beside:
            self.event_sockets |= two.descriptors
        self.tapped = not any(one.socket.untapped for one in events)
        self.side_sockets = frozenset(one.socket.fileno() for one in sides)

    def write_to(self, writer: Writer, namespace: int) -> None:
        """Write into this file from now on: its streams are added, and what is there already."""
        for source in self._sources:
            self._tell_overflow(source, source.last_ns)
        self._writer = writer
        for side in self._sides:
            stream = self.ids[side.kind] = writer.add_stream(namespace, side.kind, {**side.detail})
            for datagram in side.there():
                self._append(stream, datagram, None if side.sent_ns is None else 0)
        for one in self._events:
            detail = {"receive_buffer": one.socket.receive_buffer, **_way(one.socket)}
            detail |= {**one.detail, **self._options.ring}
            self.ids[one.kind] = writer.add_stream(namespace, one.kind, detail)
        for one, source in zip(self._events, self._sources, strict=False):  # none yet at first
            source.stream = self.ids[one.kind]
        for two in self._beside:
            two.write_to(writer, namespace)

    def fetch(self) -> int:
        """Move the events that are there into the file; the most datagrams that one socket had."""
        fetched = self._fetch_events()
        # After the events: of a packet that has just gone. And behind those of one that went meanwhile.
        there = [one.fetch() for one in self._beside]
        if any(there):
            fetched = max(fetched, self._fetch_events())
        for one in self._beside:
            one.take()
        return fetched

    def _fetch_events(self) -> int:
        now = time.time_ns()
        fetched = max([self._fetch(source) for source in self._sources])
        if all(source.emptied for source in self._sources):
            self.since_ns = now
        return fetched

    @property
    def pressing(self) -> bool:
        """Whether a tap has so many events that they are to be fetched now."""
        return any(source.socket.pressing for source in self._sources)

    def tell_again(self) -> None:
        """Let it be told again who sends: what was told before is in another file, or gone."""
        if self._senders is not None:
            self._senders.tell_again()

    def _fetch(self, source: _Source) -> int:
        source.emptied = False
        try:
            batch = source.socket.receive()
        except batches.Overrun as overrun:
            now = time.time_ns()
            self._progress.lost += overrun.events or 0
            self._writer.add_loss(
                Loss(source.stream, source.last_ns, now, overrun.events, "enobufs")
            )
            return batches.SLOTS
        source.emptied = batch is None or batch.emptied or len(batch.lengths) < batches.SLOTS
        if batch is None:
            return 0
        notes = None if batch.notes is None else Notes(batch.notes["time"], batch.notes["cpu"])
        for time_ns, lengths, data in batch.parts():
            self._writer.append(source.stream, time_ns, lengths, data, notes)
        self._progress.events += len(batch.lengths) - batch.beside
        if self._asking is not None:
            self._asking.take(source.gone, batch)
        if self._traversals is not None and source is self._sources[-1]:
            self._progress.packets += self._traversals(batch.data)
        between = source.stream, source.last_ns, batch.received_ns
        if batch.lost:
            self._progress.lost += batch.lost
            self._writer.add_loss(Loss(*between, batch.lost, "sequence"))
        if batch.truncated:  # not missing, so not counted
            self._writer.add_loss(Loss(*between, None, "truncated"))
        self._note_overflow(source, batch)
        source.last_ns = batch.received_ns
        return len(batch.lengths)

    def _note_overflow(self, source: _Source, batch: batches.Batch) -> None:
        """Note once in a while how many events came beside the ring: of these the times are not known."""
        if batch.overflowing and not source.overflowed:
            source.since_ns = source.last_ns
        source.overflowed += batch.overflowing
        if source.overflowed and batch.received_ns - source.since_ns > _OVERFLOWS_NS:
            self._tell_overflow(source, batch.received_ns)

    def _tell_overflow(self, source: _Source, until_ns: int) -> None:
        if source.overflowed:
            told = Loss(source.stream, source.since_ns, until_ns, source.overflowed, "overflow")
            self._writer.add_loss(told)
            source.overflowed = 0

    def take_sides(self) -> bool:
        """Move what is there beside the events into the file; whether there may be more."""
        more = False
        for side in self._sides:
            try:
                for _ in range(_SIDE_DATAGRAMS):
                    if (datagram := side.socket.receive()) is None:
                        break
                    sent_ns = None if side.sent_ns is None else side.sent_ns()
                    self._append(self.ids[side.kind], datagram, sent_ns)
                    side.received(time.time_ns())
                else:
                    more = True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise HostError(f"cannot read netlink: {strerror(error)}") from None
                now = time.time_ns()
                self._writer.add_loss(Loss(self.ids[side.kind], now, now, None, "enobufs"))
                self._report.note(no_room(side.kind))
                side.missed()
        return more

    def settle(self, at_most_ns: int = _SETTLE_NS) -> None:
        """Let the last packets come to their ends, before our rules go or another file begins."""
        poll = select.poll()
        for descriptor in self.event_sockets:
            poll.register(descriptor, select.POLLIN)
        end = time.monotonic_ns() + at_most_ns
        while time.monotonic_ns() < end and poll.poll(_QUIET_MS):
            self.fetch()
        # What is told beside them is of all packets that have come, and of no other, if none comes meanwhile.
        for _ in range(_LAST_ROUNDS):
            if not self.fetch():
                break

    def end_events(self) -> None:
        """Let no more events come; take those that are there, and what did not find room at the very end."""
        for source in self._sources:
            self._end(source)

    def take_all_sides(self) -> None:
        """Move all that is there beside the events into the file."""
        for _ in range(_LAST_ROUNDS):
            if not self.take_sides():
                break

    def finish(self) -> None:
        """Take what is still there beside the events, whose end has come."""
        self.take_all_sides()
        for one in self._beside:
            one.finish()

    def _end(self, source: _Source) -> None:
        source.socket.stop()
        while self._fetch(source):
            pass
        self._tell_overflow(source, source.last_ns)
        if unseen := source.socket.unseen():
            self._progress.lost += unseen
            now = time.time_ns()
            self._writer.add_loss(Loss(source.stream, source.last_ns, now, unseen, "enobufs"))
        granted = source.socket.receive_buffer
        if self._progress.lost and granted < self._options.receive_buffer:
            self._report.note(
                f"events were lost with a receive buffer of {granted:,} bytes, the most"
                " that this user may request: raise the host's net.core.rmem_max, or record as its root"
            )

    def _append(self, stream: int, datagram: bytes, sent_ns: int | None) -> None:
        lengths = np.array([len(datagram)], np.uint32)
        notes = None if sent_ns is None else Notes.of_one(sent_ns)
        self._writer.append(stream, time.time_ns(), lengths, datagram, notes)


def _way(events: EventSocket) -> dict[str, Any]:
    """How the events of a socket come, for who reads their times."""
    why = events.untapped
    return {"slots": batches.SLOTS, "untapped": why} if why else {"tap": True}
