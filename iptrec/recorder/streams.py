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

    ``there``: gives the datagrams for what is there already. ``received`` is called with the time (epoch ns)
    and each datagram, ``missed`` where the kernel dropped some. ``sent_ns``: gives when the one was sent that
    was received last (epoch; 0: not known), where such times are noted.
    """

    socket: SideSocket
    kind: str
    detail: Mapping[str, Any]
    there: Callable[[], Iterable[bytes]] = tuple
    received: Callable[[int, bytes], None] = lambda *_: None
    missed: Callable[[], None] = lambda: None
    sent_ns: Callable[[], int] | None = None


@dataclass(slots=True)
class _Source:
    """A stream of events in the file, and when its socket was last read.

    ``emptied``: whether the last look left nothing in it. ``sent_ns``: the latest time that a tap noted of an
    event (epoch). ``empty_ns``: when it was found empty for the last time but one, and for the last time.
    ``overrun``: between which times events were dropped that are not counted yet. ``overflowed``: how many came
    beside the ring of a tap, without their times, that no row tells of yet: sent since ``since_ns``, received
    since ``begun_ns``.
    """

    socket: EventSocket
    stream: int
    last_ns: int
    gone: Callable[[batches.Batch], Iterator[Question]]
    emptied: bool = False
    sent_ns: int = 0
    empty_ns: tuple[int, int] = (0, 0)
    overrun: tuple[int, int] | None = None
    overflowed: int = 0
    since_ns: int = 0
    begun_ns: int = 0

    @property
    def after_ns(self) -> int:
        """What is lost was sent after it (epoch).

        Perhaps before the socket was found empty for the last time: what it had no room for is told after that.
        """
        return max(self.sent_ns, self.empty_ns[0])

    def looked(self, begun_ns: int, batch: batches.Batch | None) -> None:
        """Note what a look that began at a time says of what comes next."""
        self.emptied = batch is None or batch.emptied
        if self.emptied:
            self.empty_ns = self.empty_ns[1], begun_ns
        if batch is not None:
            self.last_ns = batch.received_ns
            self.sent_ns = max(self.sent_ns, _noted(batch, 0, len(batch.lengths))[1])

    def lost_in(self, batch: batches.Batch) -> tuple[int, int]:
        """Between which times (epoch) the events were sent that a batch lacks, as far as that is sure."""
        gap = batch.gap or batches.Gap(0, 0)
        after, until = self.overrun or (self.after_ns, batch.received_ns)
        _, before = _noted(batch, 0, gap.first)
        behind, _ = _noted(batch, gap.last, len(batch.lengths))
        after = max(after, gap.after_ns, before)
        return after, max(after, min(until, behind or until))


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
            now = time.time_ns()
            source = _Source(one.socket, self.ids[one.kind], now, one.gone, empty_ns=(now, now))
            self._sources.append(source)
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
            self._tell_overrun(source)
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
        begun = time.time_ns()
        try:
            batch = source.socket.receive()
        except batches.Overrun as overrun:
            self._note_overrun(source, overrun.events)
            return batches.SLOTS
        if batch is None:
            source.looked(begun, batch)
            return 0
        notes = None if batch.notes is None else Notes(batch.notes["time"], batch.notes["cpu"])
        for time_ns, lengths, data in batch.parts():
            self._writer.append(source.stream, time_ns, lengths, data, notes)
        self._progress.events += len(batch.lengths) - batch.beside
        if self._asking is not None:
            self._asking.take(source.gone, batch)
        if self._traversals is not None and source is self._sources[-1]:
            self._progress.packets += self._traversals(batch.data)
        if batch.lost:
            self._progress.lost += batch.lost
            lost = source.lost_in(batch)
            self._writer.add_loss(Loss(source.stream, *lost, batch.lost, "sequence"))
            source.overrun = None
        self._tell_overrun(source)
        if batch.truncated:  # not missing, so not counted
            between = source.last_ns, batch.received_ns
            self._writer.add_loss(Loss(source.stream, *between, None, "truncated"))
        self._note_overflow(source, batch)
        source.looked(begun, batch)
        return len(batch.lengths)

    def _note_overrun(self, source: _Source, events: int | None) -> None:
        """Note that events were dropped, until now at the latest; not counted: what comes next counts them."""
        after, now = source.overrun or (source.after_ns, 0), time.time_ns()
        between = after[0], now
        if events is None:
            source.overrun = between
            return
        source.overrun = None
        self._progress.lost += events
        self._writer.add_loss(Loss(source.stream, *between, events, "enobufs"))

    def _tell_overrun(self, source: _Source) -> None:
        """Tell of dropped events that nobody counts."""
        if source.overrun is not None:
            self._writer.add_loss(Loss(source.stream, *source.overrun, None, "enobufs"))
            source.overrun = None

    def _note_overflow(self, source: _Source, batch: batches.Batch) -> None:
        """Note once in a while how many events came beside the ring whose times are not known."""
        untimed = 0
        if batch.overflowing and batch.notes is not None:
            untimed = min(batch.overflowing, int(np.count_nonzero(batch.notes["time"] <= 0)))
        if untimed and not source.overflowed:
            source.since_ns, source.begun_ns = source.after_ns, source.last_ns
        source.overflowed += untimed
        if source.overflowed and batch.received_ns - source.begun_ns > _OVERFLOWS_NS:
            self._tell_overflow(source, batch.received_ns)

    def _tell_overflow(self, source: _Source, until_ns: int) -> None:
        if source.overflowed:
            between = min(source.since_ns, until_ns), until_ns
            self._writer.add_loss(Loss(source.stream, *between, source.overflowed, "overflow"))
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
                    side.received(time.time_ns(), datagram)
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
            self._note_overrun(source, unseen)
        self._tell_overrun(source)
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


def _noted(batch: batches.Batch, first: int, end: int) -> tuple[int, int]:
    """The first and the latest time that a tap noted of some datagrams of a batch (epoch, ns); 0: none."""
    times = np.zeros(0, np.int64) if batch.notes is None else batch.notes["time"][first:end]
    known = times[times > 0]
    return (int(known[0]), int(known.max())) if len(known) else (0, 0)


def _way(events: EventSocket) -> dict[str, Any]:
    """How the events of a socket come, for who reads their times."""
    why = events.untapped
    return {"slots": batches.SLOTS, "untapped": why} if why else {"tap": True}
