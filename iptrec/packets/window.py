"""A recording in windows of bounded size, each with its packets put together.

A window ends with packets that are still under way: all that begins with the first of them is taken
over into the next window, so that each packet is judged with all of its events, and packets come in
the order of their first event.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.context.refusals import refused
from iptrec.packets import clock
from iptrec.packets.assemble import Assembly, assemble
from iptrec.packets.walk import Walker
from iptrec.recording.rows import Chunk
from iptrec.rulesets.backends import BACKENDS, history
from iptrec.rulesets.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.recording.rows import Recording, Stream
    from iptrec.rulesets.resolver import Resolved


WINDOW_EVENTS: Final = 65_536  # what fits into the caches is read faster
_WINDOW_BYTES: Final = 32 << 20
# What packets under way may hold back: some windows. More is decided without waiting for their ends.
_MOST_WAITING: Final = 2 * WINDOW_EVENTS
_MOST_WAITING_BYTES: Final = 2 * _WINDOW_BYTES
# The kernel takes a packet from rule to rule in microseconds; a sender that is preempted on its way
# through OUTPUT takes milliseconds; userspace behind NFQUEUE takes its time.
UNDER_WAY_NS: Final = 100_000_000
QUEUED_NS: Final = 2_000_000_000

# The kernel begins to stamp packets a moment after it is asked to.
_STAMPING_NS: Final = 100_000_000

_NO_LENGTHS: Final = np.zeros(0, np.uint32)
_NO_TIMES: Final = np.zeros(0, np.int64)


class Start(NamedTuple):
    """All that a window takes over from what was read before it.

    It has the ``kept`` ones of the datagrams in the stream's chunks after chunk ``after`` up to chunk
    ``through``, counted from 0, and goes on with the chunks after that one. ``floors_ns``: before each of
    these chunks, and after the last one, see `clock.receipt`.
    """

    after: int
    through: int
    kept: I64
    floors_ns: tuple[int, ...]


class Bookmark(NamedTuple):
    """A window.

    ``start``: None where that is too long to be noted: one begins at a window before. ``number``: of its
    first packet; ``packets``: how many are decided in it. ``reach``: how many windows before it its packets'
    relations lead to. ``earliest_ns``, ``latest_ns``: the times between which its packets began; both 0 if
    it has none.
    """

    stream: int
    start: Start | None
    number: int
    packets: int
    reach: int
    earliest_ns: int
    latest_ns: int


class _Origin(NamedTuple):
    """What came before a chunk: the chunk before it, datagrams, and the floor."""

    after: int
    datagrams: int
    floor_ns: int


@dataclass(frozen=True, slots=True)
class Window:
    """Some events of one stream and the traversals that they make.

    The first ``decided`` traversals of the assembly are final and numbered from ``number``; the
    others come again, with more events, in the next window. ``moment_ns``: when each event was logged, as well
    as one can tell (epoch); ``earliest_ns``: it was not before. ``unplaced``: events that
    name no rule; ``unread``: receive times (epoch, ns) of datagrams that hold something else than
    events. Both are of this window alone.
    """

    stream: Stream
    start: Start
    resolver: Resolver
    events: TraceEvents
    moment_ns: I64
    earliest_ns: I64
    resolved: Resolved
    assembly: Assembly
    decided: int
    number: int
    unplaced: I64
    unread: I64

    def rows(self) -> I64:
        """The event numbers of the decided traversals, one after the other."""
        assembly = self.assembly
        end = assembly.first[self.decided] if self.decided < len(assembly) else len(assembly.rows)
        return assembly.rows[:end]


class Assembler:
    """Puts the packets of one stream together, window by window; ``empty``: no event waits for one."""

    def __init__(self, stream: Stream, resolver: Resolver, begun_ns: int) -> None:
        self._stream = stream
        self._resolver = resolver
        self._slots = _number(stream.detail.get("slots"), 0)
        self._arrival_ns = None
        if "stamps_ns" in stream.detail:
            self._arrival_ns = _number(stream.detail["stamps_ns"], 0) + _STAMPING_NS
        self._walker = Walker(resolver)
        self._chunks: list[Chunk] = []
        self._new_events = self._new_bytes = 0
        self.empty = True
        self._receipts: list[clock.Receipt] = []
        self._floor = begun_ns
        self._last = self._seen = 0  # chunk; datagrams
        self._numbers: list[I64] = []  # of the datagrams, among all of the stream
        self._origins: list[_Origin] = []  # of the chunks that they are of
        self._start = Start(0, 0, _NO_TIMES, (begun_ns,))

    @property
    def full(self) -> bool:
        """Whether enough new datagrams wait for a window."""
        return self._new_events >= WINDOW_EVENTS or self._new_bytes >= _WINDOW_BYTES

    def add(self, chunk: Chunk) -> None:
        """Take a chunk of the stream; chunks come in order."""
        count = len(chunk.lengths)
        self.empty = False
        self._origins.append(_Origin(self._last, self._seen, self._floor))
        self._numbers.append(np.arange(self._seen, self._seen + count))
        self._last, self._seen = chunk.id, self._seen + count
        receipt = clock.receipt(chunk.received_ns, self._floor, self._slots)
        if count:  # a call's datagrams are all in one chunk
            floor = int(receipt.floor[-1])
            self._floor = clock.floor_after(chunk.received_ns, floor, self._slots)
        self._chunks.append(chunk)
        self._receipts.append(receipt)
        self._new_events += count
        self._new_bytes += len(chunk.data)

    def resume(self, start: Start, chunks: Iterable[Chunk]) -> None:
        """Stand where a window begins, without the windows before. ``chunks``: as `Start` says."""
        self._last = start.after
        for floor, chunk in zip(start.floors_ns, chunks, strict=False):
            self._floor = floor
            self.add(chunk)
        self._floor = start.floors_ns[-1]
        self._keep(*self._waiting(), start.kept)

    def close(self, until_ns: int | None, number: int) -> Window:
        """Decide all packets that cannot go on after ``until_ns`` (epoch; None: nothing goes on).

        ``number``: of the first of them.
        """
        data, lengths, received, receipt = self._waiting()
        located = self._resolver.locate(data, lengths, received)
        events = located.events
        of_events = receipt.take(events.datagram)
        earliest, latest = clock.bounds(events, of_events)
        # What comes in the next window was logged after what is stamped in this one.
        self._floor = max(self._floor, clock.latest_stamp(events))
        resolved = self._resolver.resolve(located, earliest, latest)
        assembly = assemble(events, resolved, self._resolver, self._walker, self._arrival_ns)
        decided = (
            len(assembly) if until_ns is None else _first_under_way(events, assembly, until_ns)
        )
        again = _again(events, assembly, decided, len(lengths))
        if lengths[again].sum() > _MOST_WAITING_BYTES:
            decided, again = len(assembly), np.zeros(len(lengths), np.bool_)
        self.empty = not again.any()
        again[events.generations.needed(again)] = True
        window = Window(
            stream=self._stream,
            start=self._start,
            resolver=self._resolver,
            events=events,
            moment_ns=clock.moments(events, of_events),
            earliest_ns=earliest,
            resolved=resolved,
            assembly=assembly,
            decided=decided,
            number=number,
            unplaced=np.flatnonzero((resolved.place < 0) & ~again[events.datagram]),
            unread=received[events.undecoded[~again[events.undecoded]]],
        )
        self._keep(data, lengths, received, receipt, np.flatnonzero(again))
        return window

    def _waiting(self) -> tuple[bytes, npt.NDArray[np.uint32], I64, clock.Receipt]:
        """The datagrams that wait, their lengths, receive times, and what these tell."""
        data = b"".join(chunk.data for chunk in self._chunks)
        lengths = np.concatenate([_NO_LENGTHS, *(chunk.lengths for chunk in self._chunks)])
        received = np.concatenate([_NO_TIMES, *(chunk.received_ns for chunk in self._chunks)])
        receipt = clock.Receipt(
            np.concatenate([_NO_TIMES, *(one.floor for one in self._receipts)]),
            np.concatenate([_NO_TIMES, *(one.guess for one in self._receipts)]),
        )
        return data, lengths, received, receipt

    def _keep(
        self,
        data: bytes,
        lengths: npt.NDArray[np.uint32],
        received: I64,
        receipt: clock.Receipt,
        datagrams: I64,
    ) -> None:
        """Let the given datagrams begin the next window."""
        if len(datagrams) == len(lengths):
            again = data
        else:
            ends = np.cumsum(lengths, dtype=np.int64)
            spans = zip((ends - lengths)[datagrams].tolist(), ends[datagrams].tolist(), strict=True)
            again = b"".join([data[start:end] for start, end in spans])
        self._chunks, self._receipts = [], []
        self._new_events = self._new_bytes = 0
        if again:
            self._chunks = [
                Chunk(0, self._stream.id, received[datagrams], lengths[datagrams], again)
            ]
            self._receipts = [receipt.take(datagrams)]
        kept = np.concatenate([_NO_TIMES, *self._numbers])[datagrams]
        self._numbers = [kept]
        if not len(kept):
            self._origins = []
            self._start = Start(self._last, self._last, kept, (self._floor,))
            return
        needed = sum(one.datagrams <= kept[0] for one in self._origins) - 1
        del self._origins[:needed]
        first = self._origins[0]
        floors = (*(one.floor_ns for one in self._origins), self._floor)
        self._start = Start(first.after, self._last, kept - first.datagrams, floors)


def windows(reader: Recording, since: Bookmark | None = None) -> Iterator[Window]:
    """All of a recording, or from a bookmark on."""
    number = 1
    for assembler, stream in _assemblers(reader, {}):
        after = 0
        if since is not None:
            if stream.id != since.stream:
                continue
            assert since.start is not None  # noqa: S101 - one can begin there
            assembler.resume(since.start, _chunks(reader, stream, since.start))
            after, number = since.start.through, since.number
            since = None
        for chunk in reader.chunks(stream.id, after):
            assembler.add(chunk)
            if assembler.full:
                yield (window := assembler.close(int(chunk.received_ns[-1]), number))
                number += window.decided
        yield (window := assembler.close(None, number))
        number += window.decided


def _chunks(reader: Recording, stream: Stream, start: Start) -> Iterator[Chunk]:
    """Those of which a window keeps datagrams."""
    if not len(start.kept):
        return iter(())
    chunks = reader.chunks(stream.id, start.after)
    return takewhile(lambda chunk: chunk.id <= start.through, chunks)


def follow(reader: Recording, ticks: Iterable[int]) -> Iterator[Window]:
    """A recording while it grows: look for new chunks at each tick, which is the time (epoch, ns).

    Ends, with all that is left, when the ticks end.
    """
    assemblers: dict[int, tuple[Assembler, Stream]] = {}
    seen: dict[int, int] = {}
    number = 1
    for now_ns in ticks:
        for assembler, stream in _assemblers(reader, assemblers):
            for chunk in reader.chunks(stream.id, after=seen.get(stream.id, 0)):
                seen[stream.id] = chunk.id
                assembler.add(chunk)
            if not assembler.empty:
                yield (window := assembler.close(now_ns, number))
                number += window.decided
    for assembler, stream in _assemblers(reader, assemblers):
        for chunk in reader.chunks(stream.id, after=seen.get(stream.id, 0)):
            assembler.add(chunk)
        yield (window := assembler.close(None, number))
        number += window.decided


def _assemblers(
    reader: Recording, known: dict[int, tuple[Assembler, Stream]]
) -> Iterator[tuple[Assembler, Stream]]:
    """An assembler for each stream of events; the rulesets are read once its first chunk is there."""
    for stream in reader.streams:
        if stream.kind not in BACKENDS:
            continue
        if stream.id not in known:
            backend = BACKENDS[stream.kind]
            resolver = Resolver(
                backend,
                history(reader, backend, stream.namespace),
                f"iptrec:{reader.facts.uuid}",
                refused(reader, stream.namespace),
            )
            known[stream.id] = (Assembler(stream, resolver, reader.facts.started_ns), stream)
        yield known[stream.id]


def _first_under_way(events: TraceEvents, assembly: Assembly, now_ns: int) -> int:
    """The number of traversals, from the first, none of which can go on."""
    if not len(assembly):
        return 0
    last = assembly.rows[assembly.first + assembly.count - 1]
    patience = np.array(
        [
            0 if one.finished else QUEUED_NS if one.queued else UNDER_WAY_NS
            for one in assembly.outcomes
        ]
    )[assembly.outcome]
    waiting = (patience > 0) & (events.received_ns[last] + patience > now_ns)
    first = int(np.argmax(waiting)) if waiting.any() else len(assembly)
    return max(first, int(np.searchsorted(assembly.first, len(assembly.rows) - _MOST_WAITING)))


def _again(events: TraceEvents, assembly: Assembly, decided: int, datagrams: int) -> Mask:
    """Which of all datagrams the traversals from ``decided`` on need once more; shape (datagrams,)."""
    again = np.zeros(datagrams, np.bool_)
    again[events.datagram[assembly.rows[assembly.count[:decided].sum() :]]] = True
    return again


def _number(value: object, default: int) -> int:
    """A number of a stream's detail, which anybody may have written."""
    return value if isinstance(value, int) and 0 <= value < 2**62 else default
