"""A recording in windows of bounded size, each with its packets put together.

A window ends with packets that are still under way: all that begins with the first of them is taken
over into the next window, so that each packet is judged with all of its events, and packets come in
the order of their first event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.context.counters import Counts
from iptrec.context.refusals import disbelieved, refusals
from iptrec.names import AF_BRIDGE, HOOKS
from iptrec.packets.assembler import Assembler
from iptrec.packets.copies import FLOOD_NS
from iptrec.packets.dropped import Dropped
from iptrec.packets.in_flight import UNDER_WAY_NS
from iptrec.packets.joined import Joiner
from iptrec.packets.loops import LOOPBACK
from iptrec.packets.refused import RACE_NS, Refused
from iptrec.recording.hosts import of_namespace
from iptrec.rulesets.backends import BACKENDS
from iptrec.rulesets.growing import Rules
from iptrec.rulesets.joined import STREAMS as JOINED
from iptrec.rulesets.joined import Joined
from iptrec.rulesets.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.context.refusals import Refusal
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.assembler import Read, Start
    from iptrec.recording.rows import Chunk, Recording, Stream
    from iptrec.rulesets.resolver import Book, Resolved


WINDOW_EVENTS: Final = 65_536  # what fits into the caches is read faster
_WINDOW_BYTES: Final = 32 << 20
# What packets under way may hold back: some windows. More is decided without waiting for their ends.
_MOST_WAITING: Final = 2 * WINDOW_EVENTS
_MOST_WAITING_BYTES: Final = 2 * _WINDOW_BYTES
QUEUED_NS: Final = 2_000_000_000
# How much later one of two sockets is read, while a recording is followed.
_MOST_BEHIND_NS: Final = 2_000_000_000
_NEVER: Final = int(np.iinfo(np.int64).max)
_FORWARD, _OUTPUT, _POSTROUTING = range(2, len(HOOKS))


class Bookmark(NamedTuple):
    """A window.

    ``stream``: the first one that it is of. ``starts``: of each of its streams; None where that is too
    long to be noted: one begins at a window before. ``number``: of its first packet; ``packets``: how many
    are decided in it. ``reach``: how many windows before it its packets' relations lead to. ``earliest_ns``,
    ``latest_ns``: the times between which its packets began; both 0 if it has none.
    """

    stream: int
    starts: tuple[Start, ...] | None
    number: int
    packets: int
    reach: int
    earliest_ns: int
    latest_ns: int


@dataclass(frozen=True, slots=True)
class Window:
    """Some events of one stream, or of those of both backends in one namespace, and their traversals.

    The first ``decided`` traversals of the assembly are final and numbered from ``number``; the
    others come again, with more events, in the next window. ``stream``: the first one, ``starts``: of each.
    ``moment_ns``: when each event was logged, as well as one can tell (epoch); ``earliest_ns``: it was not
    before. ``unplaced``: events that name no rule; ``unread``: receive times (epoch, ns) of datagrams that
    hold something else than events. Both are of this window alone. ``ended_ns``: when the kernel dropped each
    traversal that no rule did (epoch), 0 for the others; ``disagree``: of how many the rules tell one end and
    the kernel another one.
    """

    stream: Stream
    starts: tuple[Start, ...]
    resolver: Book
    events: TraceEvents
    moment_ns: I64
    earliest_ns: I64
    resolved: Resolved
    assembly: Assembly
    decided: int
    number: int
    unplaced: I64
    unread: I64
    ended_ns: I64
    disagree: int

    def rows(self) -> I64:
        """The event numbers of the decided traversals, one after the other."""
        assembly = self.assembly
        end = assembly.first[self.decided] if self.decided < len(assembly) else len(assembly.rows)
        return assembly.rows[:end]


class Decided(NamedTuple):
    """What a `Window` has by its events alone: what the kernel dropped is not looked at yet."""

    starts: tuple[Start, ...]
    events: TraceEvents
    moment_ns: I64
    earliest_ns: I64
    resolved: Resolved
    assembly: Assembly
    decided: int
    unplaced: I64
    unread: I64


class Streams:
    """One stream of events, or those of both backends in one namespace: they tell of the same packets."""

    def __init__(
        self,
        assemblers: list[Assembler],
        book: Book,
        joiner: Joiner | None,
        dropped: Dropped,
        refused: Sequence[Refusal],
        rules: Rules,
    ) -> None:
        self.assemblers = assemblers
        self.book = book
        self._rules = rules
        self._joiner = joiner
        self._dropped = dropped
        self._refused = Refused(refused, book)

    @property
    def first(self) -> Stream:
        """The first one."""
        return self.assemblers[0].stream

    @property
    def full(self) -> bool:
        """Whether enough new datagrams wait for a window."""
        return (
            sum(one.events for one in self.assemblers) >= WINDOW_EVENTS
            or sum(one.bytes for one in self.assemblers) >= _WINDOW_BYTES
        )

    @property
    def empty(self) -> bool:
        """Whether no event waits."""
        return all(one.empty for one in self.assemblers)

    @property
    def ahead(self) -> Assembler | None:
        """The one with packets of which the other's events are still to be read, if those are many."""
        waiting = [len(one.start.kept) for one in self.assemblers]
        if max(waiting) - min(waiting) < WINDOW_EVENTS // 4:
            return None
        return self.assemblers[waiting.index(max(waiting))]

    def add(self, assembler: Assembler, chunk: Chunk) -> None:
        """Take a chunk of a recording that grows."""
        self._rules.hear(chunk)
        assembler.add(chunk)

    def renew(self) -> None:
        """Read the rules again if there are more of them."""
        if self._rules.renewed():
            self.book.renew()

    def close(self, until_ns: int | None, number: int, *, live: bool = False) -> Window:
        """Decide all packets that cannot go on after ``until_ns`` (epoch; None: nothing goes on).

        ``number``: of the first of them. ``live``: it is the time now; no packet waits for ever.
        """
        return self.finish(self.decide(until_ns, live=live), number)

    def decide(self, until_ns: int | None, *, live: bool = False, torn: bool = False) -> Decided:
        """The same by the events alone; see `close`.

        ``torn``: it begins in the midst of packets; what is of the first half of it is not waited for.
        """
        starts = tuple(one.start for one in self.assemblers)
        parts = [one.read() for one in self.assemblers]
        read = parts[0] if self._joiner is None else self._joiner.join(parts)
        if live:
            read = replace(read, waits=read.waits | self._untold(read.assembly))
        events, assembly = read.events, read.assembly
        decided = len(assembly)
        if until_ns is not None:
            behind_ns = _MOST_BEHIND_NS if live else _NEVER
            over = len(events) // 2 if torn else 0
            decided = _first_under_way(read, until_ns, behind_ns, over)
        again = _again(events, assembly, decided, len(read.lengths))
        if read.lengths[again].sum() > _MOST_WAITING_BYTES:
            decided, again = len(assembly), np.zeros(len(read.lengths), np.bool_)
        sizes = np.cumsum([len(one.lengths) for one in parts])
        for one, part, some in zip(
            self.assemblers, parts, np.split(again, sizes[:-1]), strict=True
        ):
            one.keep(some, part.events.generations)
        return Decided(
            starts=starts,
            events=events,
            moment_ns=read.moment_ns,
            earliest_ns=read.earliest_ns,
            resolved=read.resolved,
            assembly=assembly,
            decided=decided,
            unplaced=np.flatnonzero((read.resolved.place < 0) & ~again[events.datagram]),
            unread=read.received_ns[events.undecoded[~again[events.undecoded]]],
        )

    def finish(self, some: Decided, number: int) -> Window:
        """A window, with what the kernel dropped; ``number``: of its first packet."""
        events, earliest_ns = some.events, some.earliest_ns
        ended = self._dropped.end(events, earliest_ns, some.assembly, some.decided)
        assembly = self._refused.doubted(
            events, earliest_ns, ended.assembly, ended.untold_ns, _raced_ns(some)
        )
        return Window(
            stream=self.first,
            resolver=self.book,
            number=number,
            ended_ns=ended.time_ns,
            disagree=ended.disagree,
            **some._replace(assembly=assembly)._asdict(),
        )

    def _untold(self, assembly: Assembly) -> Mask:
        """Traversals by rules that nobody knows, or has no text of: the recorder may be about to list them."""
        untold: Mask = np.array(
            [
                one.doubt is not None
                or any(
                    place.wordless or place.unseen
                    for place in map(self.book.places.__getitem__, one.path)
                )
                for one in assembly.outcomes
            ],
            np.bool_,
        )[assembly.outcome]
        return untold


def windows(reader: Recording, since: Bookmark | None = None) -> Iterator[Window]:
    """All of a recording, or from a bookmark on."""
    number = 1
    for streams in opened(reader, {}):
        after = [0] * len(streams.assemblers)
        if since is not None:
            if streams.first.id != since.stream:
                continue
            assert since.starts is not None  # noqa: S101 - one can begin there
            for one, start in zip(streams.assemblers, since.starts, strict=True):
                one.resume(start, _chunks(reader, one.stream, start))
            after, number = [one.through for one in since.starts], since.number
            since = None
        for window in rest(reader, streams, after, number):
            yield window
            number += window.decided


def rest(reader: Recording, streams: Streams, after: list[int], number: int) -> Iterator[Window]:
    """Those of some streams, of which so many chunks were read; ``number``: of the first packet."""
    for one, chunk, until_ns in _in_turn(reader, streams, after):
        one.add(chunk)
        if streams.full:
            yield (window := streams.close(until_ns, number))
            number += window.decided
    yield streams.close(None, number)


def _chunks(reader: Recording, stream: Stream, start: Start) -> Iterator[Chunk]:
    """Those of which a window keeps datagrams."""
    if not len(start.kept):
        return iter(())
    chunks = reader.chunks(stream.id, start.after)
    return takewhile(lambda chunk: chunk.id <= start.through, chunks)


def _in_turn(
    reader: Recording, streams: Streams, after: list[int]
) -> Iterator[tuple[Assembler, Chunk, int]]:
    """The chunks of some streams in the order of their first datagrams, and whose each is.

    One that is ahead waits for the others. ``after``: which chunk of each. With a chunk comes the time up to
    which all were read then (epoch, ns).
    """
    assemblers = streams.assemblers
    sources = [
        reader.chunks(one.stream.id, last) for one, last in zip(assemblers, after, strict=True)
    ]
    heads = [next(one, None) for one in sources]
    while any(one is not None for one in heads):
        begin = {
            at: (one is streams.ahead, int(head.received_ns.min(initial=_NEVER)))
            for at, (one, head) in enumerate(zip(assemblers, heads, strict=True))
            if head is not None
        }
        for at, one in enumerate(assemblers):
            one.ended = at not in begin
        at = min(begin, key=lambda one: (begin[one], one))
        chunk = heads[at]
        assert chunk is not None  # noqa: S101 - it is there
        del begin[at]
        last = int(chunk.received_ns.max(initial=0))
        yield assemblers[at], chunk, min([last, *(time for _, time in begin.values())])
        heads[at] = next(sources[at], None)


def follow(reader: Recording, ticks: Iterable[int]) -> Iterator[Window]:
    """A recording while it grows: look for new chunks at each tick, which is the time (epoch, ns).

    Ends, with all that is left, when the ticks end.
    """
    known: dict[int, Streams] = {}
    seen: dict[int, int] = {}
    number = 1
    for now_ns in chain(ticks, [None]):
        for streams in opened(reader, known):
            for one in streams.assemblers:
                for chunk in reader.chunks(one.stream.id, after=seen.get(one.stream.id, 0)):
                    seen[one.stream.id] = chunk.id
                    streams.add(one, chunk)
            if now_ns is None or not streams.empty:
                streams.renew()
                yield (window := streams.close(now_ns, number, live=True))
                number += window.decided


def opened(reader: Recording, known: dict[int, Streams]) -> Iterator[Streams]:
    """All streams of events, those of the same packets together; ``known``: by the first one's id.

    The rulesets are read once a first chunk is there.
    """
    for some in _of_same_packets(reader.streams):
        if some[0].id not in known:
            known[some[0].id] = _made(reader, some)
        yield known[some[0].id]


def _of_same_packets(streams: Iterable[Stream]) -> Iterator[list[Stream]]:
    """Each stream of events alone, but those of both backends in a namespace together."""
    left = [one for one in streams if one.kind in BACKENDS]
    while left:
        one = left.pop(0)
        others = [
            each
            for each in left
            if {one.kind, each.kind} == {*JOINED} and one.namespace == each.namespace
        ][:1]
        left = [each for each in left if each not in others]
        yield sorted([one, *others], key=lambda each: (*JOINED, each.kind).index(each.kind))


def _made(reader: Recording, streams: list[Stream]) -> Streams:
    """``streams``: one, or those of both backends; what they are read by is of their own recording alone."""
    reader = of_namespace(reader, streams[0].namespace)
    rules = Rules(reader, streams)
    counts = Counts(reader, streams[0].namespace)
    meanwhile = counts.meanwhile()
    resolvers = [
        Resolver(
            BACKENDS[one.kind],
            rules.timelines,
            f"iptrec:{reader.facts.uuid}",
            disbelieved(counts),
            meanwhile,
        )
        for one in streams
    ]
    listed_ns = _listed_ns(reader, streams[0].namespace)
    assemblers = [
        Assembler(one, resolver, reader.facts.started_ns, lambda: reader.losses, listed_ns)
        for one, resolver in zip(streams, resolvers, strict=True)
    ]
    dropped = Dropped(reader, streams[0].namespace)
    if len(streams) == 1:
        return Streams(assemblers, resolvers[0], None, dropped, refusals(counts), rules)
    book = Joined(resolvers)
    joiner = Joiner(book, [one.walker for one in assemblers])
    return Streams(assemblers, book, joiner, dropped, refusals(counts), rules)


def _listed_ns(reader: Recording, namespace: int) -> int:
    """When the first lists of the network were kept (epoch), which have one time; 0: none were."""
    lists = (one for one in reader.snapshots("links") if one.namespace == namespace)
    return next((one.time_ns for one in lists), 0)


def _raced_ns(some: Decided) -> int:
    """Before which time packets began that may have raced with those of the window before (epoch); 0: none."""
    if not any(one.through for one in some.starts) or not len(some.earliest_ns):
        return 0
    return int(some.earliest_ns.min()) + RACE_NS


def _first_under_way(read: Read, now_ns: int, behind_ns: int, over: int) -> int:
    """The number of traversals, from the first, none of which can go on.

    ``behind_ns``: how long one waits at most for what another stream may tell of it. ``over``: what began
    before this event has ended in any case.
    """
    assembly = read.assembly
    if not len(assembly):
        return 0
    last_ns = read.events.received_ns[assembly.lasts()]
    patience = np.array(
        [
            0 if one.finished else QUEUED_NS if one.queued else UNDER_WAY_NS
            for one in assembly.outcomes
        ]
    )[assembly.outcome]
    waiting = (patience > 0) & (last_ns + patience > now_ns)
    waiting |= read.waits & (now_ns - last_ns < behind_ns)
    waiting |= _floods(read) & (last_ns + FLOOD_NS > now_ns)
    waiting &= assembly.rows[assembly.first] >= over
    first = int(np.argmax(waiting)) if waiting.any() else len(assembly)
    origins = assembly.origins()
    while len(parted := origins[first:][(origins[first:] >= 0) & (origins[first:] < first)]):
        first = int(parted.min())  # a copy is not read again without what it was copied from
    return max(first, int(np.searchsorted(assembly.first, len(assembly.rows) - _MOST_WAITING)))


def _floods(read: Read) -> Mask:
    """Which traversals the kernel may be copying: frames for many, all that a bridge forwards or IP sends."""
    events, rows, first = read.events, read.assembly.rows, read.assembly.first
    bridged = (events.hook == _FORWARD) & (events.indev == events.outdev)
    bridged |= events.family == AF_BRIDGE
    for_many = (events.link_length > 0) & (events.buffer.take(np.maximum(events.link, 0)) & 1 > 0)
    sent = (events.hook == _POSTROUTING) & (events.outdev != LOOPBACK)
    flooded, left = (np.logical_or.reduceat(one[rows], first) for one in (bridged | for_many, sent))
    floods: Mask = flooded | (left & (events.hook[rows[first]] == _OUTPUT))
    return floods


def _again(events: TraceEvents, assembly: Assembly, decided: int, datagrams: int) -> Mask:
    """Which of all datagrams the traversals from ``decided`` on need once more; shape (datagrams,)."""
    again = np.zeros(datagrams, np.bool_)
    again[events.datagram[assembly.rows[assembly.count[:decided].sum() :]]] = True
    return again
