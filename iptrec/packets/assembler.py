"""The packets of one stream of events, put together from what waits of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode import nftrace
from iptrec.decode.netlink import padded
from iptrec.packets import clock, told_ids
from iptrec.packets.assemble import Assembly, assemble
from iptrec.packets.copies import FLOOD_NS, Logged
from iptrec.packets.fixed import fixed
from iptrec.packets.walk import Walker
from iptrec.recording.rows import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.decode.generations import Generations
    from iptrec.names import I64, U8, U32, Mask
    from iptrec.recording.rows import Loss, Stream
    from iptrec.rulesets.resolver import Resolved, Resolver


# The kernel begins to stamp packets a moment after it is asked to.
_STAMPING_NS: Final = 100_000_000

_NEVER: Final = int(np.iinfo(np.int64).max)
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


class Seam(NamedTuple):
    """What a window takes over: the last chunk, the floor, and a digest of all that waits."""

    through: int
    floor_ns: int
    waiting: bytes


class _Origin(NamedTuple):
    """What came before a chunk: the chunk before it, datagrams, and the floor."""

    after: int
    datagrams: int
    floor_ns: int


@dataclass(frozen=True, slots=True)
class Read:
    """All datagrams that wait, and the packets that were put together of them.

    ``lengths`` (bytes) and ``received_ns`` (epoch): of the datagrams; the rest as `Window` has it.
    ``own``: of which events the kernel's time was noted. ``reached_ns``: all events that were logged before are
    among these. ``waits``: traversals of which another stream may tell more, shape (n,).
    """

    lengths: U32
    received_ns: I64
    events: TraceEvents
    moment_ns: I64
    earliest_ns: I64
    own: Mask
    resolved: Resolved
    assembly: Assembly
    reached_ns: int
    waits: Mask


class _Waiting(NamedTuple):
    """Datagrams that lie back to back in ``data`` (see `padded`), and what their times tell."""

    data: U8
    lengths: U32
    received_ns: I64
    receipt: clock.Receipt


class Assembler:
    """Puts the packets of one stream together, window by window.

    ``start``: of the window that is being read; ``events``, ``bytes``: how many datagrams came for it, and
    their size. ``empty``: no event waits for one. ``ended``: no more chunks come. ``losses``: gives all of the
    recording. ``listed_ns``: see `clock.receipt`. ``resolver``: of its events' places.
    """

    def __init__(
        self,
        stream: Stream,
        resolver: Resolver,
        begun_ns: int,
        losses: Callable[[], Sequence[Loss]],
        listed_ns: int = 0,
    ) -> None:
        self.stream = stream
        self._losses = losses
        self._listed_ns = listed_ns
        self.ended = False
        self.empty = True
        self.resolver = resolver
        self._slots = _number(stream.detail.get("slots"), 0)
        self._arrival_ns = None
        if "stamps_ns" in stream.detail:
            self._arrival_ns = _number(stream.detail["stamps_ns"], 0) + _STAMPING_NS
        self._rebuilt = stream.detail.get("rebuilt") is True
        self.walker = Walker(resolver, gaps=self._rebuilt and stream.kind == "nftrace")
        self._chunks: list[Chunk] = []
        self.events = self.bytes = 0
        self._receipts: list[clock.Receipt] = []
        self._floor = begun_ns
        self._last = self._seen = 0  # chunk; datagrams
        self._numbers: list[I64] = []  # of the datagrams, among all of the stream
        self._origins: list[_Origin] = []  # of the chunks that they are of
        self.start = Start(0, 0, _NO_TIMES, (begun_ns,))
        self._waiting = _Waiting(padded([]), _NO_LENGTHS, _NO_TIMES, clock.NOTHING)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk of the stream; chunks come in order."""
        count = len(chunk.lengths)
        self.empty = False
        self._origins.append(_Origin(self._last, self._seen, self._floor))
        self._numbers.append(np.arange(self._seen, self._seen + count))
        self._last, self._seen = chunk.id, self._seen + count
        self._receipts.append(self._receipt(chunk))
        self._chunks.append(chunk)
        self.events += count
        self.bytes += len(chunk.data)

    def _receipt(self, chunk: Chunk) -> clock.Receipt:
        """What its times tell, and those of the chunks before."""
        if chunk.notes is not None:
            under_way_ns = self.resolver.backend.under_way_ns
            sent = chunk.notes.sent(chunk.received_ns, self._floor + under_way_ns)
            receipt = clock.noted(*sent, self._floor, under_way_ns)
            receipt = receipt._replace(cpu=chunk.notes.processors())
            self._floor = int(receipt.floor[-1])
            return receipt
        receipt = clock.receipt(chunk.received_ns, self._floor, self._slots, self._listed_ns)
        if len(chunk.lengths):  # a call's datagrams are all in one chunk
            floor = int(receipt.floor[-1])
            self._floor = clock.floor_after(chunk.received_ns, floor, self._slots, self._listed_ns)
        return receipt

    def leave(self) -> None:
        """Let go of all that waits but for the last number of a ruleset.

        What `start` says is not true any more.
        """
        waiting = [*zip(self._chunks, self._receipts, strict=True)]
        self._forget()
        for chunk, receipt in waiting:
            self._number_alone(chunk, receipt)

    def skip(self, chunk: Chunk) -> None:
        """Take the same of a chunk, which nobody reads."""
        self._last = chunk.id
        self._number_alone(chunk, self._receipt(chunk))

    def _number_alone(self, chunk: Chunk, receipt: clock.Receipt) -> None:
        if self.resolver.backend.changes is None:
            return
        told = nftrace.generations(chunk.data, chunk.lengths, chunk.received_ns).datagram[-1:]
        if len(told):
            end = int(chunk.lengths[: told[0] + 1].sum())
            data = chunk.data[end - int(chunk.lengths[told[0]]) : end]
            one = Chunk(0, chunk.stream, chunk.received_ns[told], chunk.lengths[told], data)
            self._chunks, self._receipts = [one], [receipt.take(told)]
            self._numbers, self._seen = [np.zeros(1, np.int64)], 1
            self._origins = [_Origin(0, 0, self._floor)]

    def _forget(self) -> None:
        self._chunks, self._receipts, self._numbers, self._origins = [], [], [], []
        self._seen = self.events = self.bytes = 0

    @property
    def seam(self) -> Seam:
        """All that the next window takes over, as `start` describes it; none of its chunks was added yet."""
        digest = blake2b()
        for chunk, receipt in zip(self._chunks, self._receipts, strict=True):
            digest.update(chunk.data)
            for column in (chunk.lengths, chunk.received_ns, *receipt):
                digest.update(np.ascontiguousarray(column).data)
        return Seam(self._last, self._floor, digest.digest())

    def resume(self, start: Start, chunks: Iterable[Chunk]) -> None:
        """Stand where a window begins, without the windows before. ``chunks``: as `Start` says."""
        self._forget()
        self._last = start.after
        for floor, chunk in zip(start.floors_ns, chunks, strict=False):
            self._floor = floor
            self.add(chunk)
        self._floor = start.floors_ns[-1]
        self._gather()
        self._keep(start.kept)

    def read(self) -> Read:
        """Put together what waits."""
        self._gather()
        data, lengths, received, receipt = self._waiting
        located = self.resolver.locate(data, lengths, receipt.sent)
        events = located.events
        of_events = receipt.take(events.datagram)
        earliest, latest = clock.bounds(events, of_events)
        # What comes in the next window was logged after what is stamped in this one.
        self._floor = max(self._floor, clock.latest_stamp(events))
        resolved = self.resolver.resolve(located, earliest, latest)
        moment = clock.moments(events, of_events)
        estimated = clock.estimated(events, of_events)
        events = replace(
            events,
            hook=self.resolver.hooks(events, resolved),
            received_ns=received[events.datagram],
            sent_ns=np.where(estimated, moment, events.sent_ns),
            estimated=estimated,
        )
        whole = partial(self._whole, earliest, events.received_ns)
        logged = Logged(earliest, events.received_ns, of_events.cpu, whole)
        of_nft = self.stream.kind == "nftrace"
        same = fixed(events, self.resolver.timelines) if self._rebuilt and not of_nft else None
        given = told_ids.keys(events) if self._rebuilt and of_nft else None
        assembly = assemble(
            events, resolved, self.resolver, self.walker, self._arrival_ns, logged, same, given
        )
        return Read(
            lengths=lengths,
            received_ns=received,
            events=events,
            moment_ns=moment,
            earliest_ns=earliest,
            own=of_events.own,
            resolved=resolved,
            assembly=assembly,
            reached_ns=_NEVER if self.ended else self._floor,
            waits=np.zeros(len(assembly), np.bool_),
        )

    def keep(self, again: Mask, generations: Generations) -> None:
        """Let some of the datagrams that were read, shape (n,), begin the next window.

        The ``generations`` that these are judged by come along.
        """
        self.empty = not again.any()
        judged_by = np.zeros(len(again), np.bool_)
        judged_by[generations.needed(again)] = True
        self._keep(np.flatnonzero(again | judged_by))

    def _whole(self, earliest_ns: I64, received_ns: I64) -> Mask:
        """Before which events none was lost for a while, as far as that can be seen.

        ``earliest_ns``, ``received_ns``: between these times each was logged.
        """
        if self.stream.detail.get("sequence") is False:  # an imported capture
            return np.zeros(len(received_ns), np.bool_)
        losses = [one for one in self._losses() if one.stream == self.stream.id and one.of_events]
        begun = np.sort(np.array([one.first_ns for one in losses], np.int64))
        ended = np.sort(np.array([one.last_ns for one in losses], np.int64))
        before = np.searchsorted(begun, received_ns, side="right")
        over = np.searchsorted(ended, earliest_ns - FLOOD_NS)
        whole: Mask = before == over
        return whole

    def _gather(self) -> None:
        """Take all datagrams that wait together."""
        self._waiting = _Waiting(
            padded(chunk.data for chunk in self._chunks),
            np.concatenate([_NO_LENGTHS, *(chunk.lengths for chunk in self._chunks)]),
            np.concatenate([_NO_TIMES, *(chunk.received_ns for chunk in self._chunks)]),
            clock.Receipt(*map(np.concatenate, zip(clock.NOTHING, *self._receipts, strict=True))),
        )

    def _keep(self, datagrams: I64) -> None:
        data, lengths, received, receipt = self._waiting
        ends = np.cumsum(lengths, dtype=np.int64)
        begin = (ends - lengths)[
            datagrams[np.diff(datagrams, prepend=-2) != 1]
        ]  # of those in a row
        end = ends[datagrams[np.diff(datagrams, append=-1) != 1]]
        spans = zip(begin.tolist(), end.tolist(), strict=True)
        again = b"".join([data[one:other].data for one, other in spans])
        self._chunks, self._receipts = [], []
        self.events = self.bytes = 0
        if again:
            self._chunks = [
                Chunk(0, self.stream.id, received[datagrams], lengths[datagrams], again)
            ]
            self._receipts = [receipt.take(datagrams)]
        kept = np.concatenate([_NO_TIMES, *self._numbers])[datagrams]
        self._numbers = [kept]
        if not len(kept):
            self._origins = []
            self.start = Start(self._last, self._last, kept, (self._floor,))
            return
        needed = sum(one.datagrams <= kept[0] for one in self._origins) - 1
        del self._origins[:needed]
        first = self._origins[0]
        floors = (*(one.floor_ns for one in self._origins), self._floor)
        self.start = Start(first.after, self._last, kept - first.datagrams, floors)


def _number(value: object, default: int) -> int:
    """A number of a stream's detail, which anybody may have written."""
    return value if isinstance(value, int) and 0 <= value < 2**62 else default
