"""A recording of some packets: their events, and of what is beside events all but what is of other packets.

Which datagram of a stream brought an event is counted from the stream's beginning. What is not an event of a
packet, such as the numbers of nf_tables' rulesets among the traces, stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode.drops import HEAD
from iptrec.pack.beside import ANSWERS, CONNECTIONS, Belongs
from iptrec.packets.window import windows
from iptrec.recording.packing import Notes
from iptrec.recording.rows import LEFT_OUT, Chunk, Stream
from iptrec.rulesets.backends import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from iptrec.names import I64, Mask
    from iptrec.pack.chosen import Choice
    from iptrec.packets.assembler import Start
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Facts, Loss, Namespace, Recording, Snapshot

_TIME: Final = 8  # bytes: a record of a drop begins with its time
_LEAST: Final = 20  # of IPv4
_NO_MARK: Final = b""
_DROPS: Final = "drops"


@dataclass(slots=True)
class _Datagrams:
    """Of one stream of events: which of them are of packets, and which of packets that are packed.

    ``ends``: how many there are up to each chunk of ``chunks``.
    """

    chunks: I64
    ends: I64
    of_packets: Mask
    packed: Mask

    @classmethod
    def of(cls, recording: Recording, stream: int) -> _Datagrams:
        some = [(one.id, len(one.lengths)) for one in recording.chunks(stream)]
        ids, counts = np.array(some, np.int64).reshape(-1, 2).T
        total = int(counts.sum())
        none = np.zeros(total, np.bool_)
        return cls(ids, np.cumsum(counts), none, none.copy())

    def upto(self, chunk: int) -> int:
        """How many there are up to a chunk, with it."""
        at = int(np.searchsorted(self.chunks, chunk, side="right"))
        return int(self.ends[at - 1]) if at else 0

    def read(self, start: Start, following: Start | None) -> I64:
        """The numbers of those that a window has; ``following``: how the next one begins."""
        until = len(self.packed) if following is None else self.upto(following.through)
        return np.concatenate(
            [self.upto(start.after) + start.kept, np.arange(self.upto(start.through), until)]
        )

    @property
    def kept(self) -> Mask:
        """Which of them are in the new recording."""
        kept: Mask = self.packed | ~self.of_packets
        return kept


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of a window: whether each event that is of a packet (or of none) is packed."""

    starts: tuple[Start, ...]
    streams: tuple[int, ...]
    datagram: I64
    packed: Mask


@dataclass(slots=True)
class _Dropped:
    """Which records of drops may be of packets that are packed.

    ``packed``, ``others``: times (epoch, ns) at which packets were dropped that are, and those that are not.
    ``marks``: what stays in each packet that is, see `_mark_of`.
    """

    packed: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)
    marks: set[bytes] = field(default_factory=lambda: {_NO_MARK})
    belongs: Belongs = field(default_factory=Belongs)

    def keeps(self, record: bytes) -> bool:
        """Whether a record is packed."""
        time_ns = int.from_bytes(record[:_TIME], "little")
        if time_ns in self.others and time_ns not in self.packed:
            return False
        content = record[HEAD:]
        if content[:1] and content[0] >> 4 == 6:  # noqa: PLR2004 - a version
            return self.belongs.is_ipv6(content)
        return _mark_of(content) in self.marks


def _mark_of(packet: bytes) -> bytes:
    """The id and protocol of IPv4, which no rule, NAT or fragmentation changes; `_NO_MARK` of others."""
    if len(packet) < _LEAST or packet[0] >> 4 != 4:  # noqa: PLR2004 - a version
        return _NO_MARK
    return packet[4:6] + packet[9:10]


def picked(recording: Recording, choice: Choice) -> Picked:
    """The recording of the packets that were chosen."""
    streams = [one for one in recording.streams if one.kind in BACKENDS]
    datagrams = {one.id: _Datagrams.of(recording, one.id) for one in streams}
    dropped, with_drops = _Dropped(), any(one.kind == _DROPS for one in recording.streams)
    beside = [one for one in recording.streams if one.kind in (_DROPS, CONNECTIONS, ANSWERS)]
    before: _Seen | None = None
    for window in windows(recording):
        now = _seen(window, streams, choice)
        if with_drops:
            _note(window, choice, dropped)
        if beside:
            dropped.belongs.see(window.events, _rows(window, choice))
        if before is not None:
            _mark(before, now if now.streams == before.streams else None, datagrams)
        before = now
    if before is not None:
        _mark(before, None, datagrams)
    for one in beside:
        if one.kind == CONNECTIONS:
            dropped.belongs.learn_masters(
                datagram for chunk in recording.chunks(one.id) for _, datagram in chunk.datagrams()
            )
    kept = {stream: one.kept for stream, one in datagrams.items()}
    return Picked(recording, choice, kept, dropped)


def _note(window: Window, choice: Choice, dropped: _Dropped) -> None:
    """When packets of a window were dropped, and what is known of those that are packed."""
    assembly, decided = window.assembly, window.decided
    packed = choice.numbers[window.number : window.number + decided]
    ended = window.ended_ns[:decided]
    dropped.packed.update(ended[packed & (ended > 0)].tolist())
    dropped.others.update(ended[~packed & (ended > 0)].tolist())
    first = assembly.rows[assembly.first[:decided][packed]]
    dropped.marks.update(_mark_of(window.events.packet(row)) for row in first.tolist())


def _rows(window: Window, choice: Choice) -> Iterable[int]:
    """Of all events of packets that are packed."""
    packed = choice.numbers[window.number : window.number + window.decided]
    rows: list[int] = window.rows()[
        np.repeat(packed, window.assembly.count[: window.decided])
    ].tolist()
    return rows


def _seen(window: Window, streams: Sequence[Stream], choice: Choice) -> _Seen:
    assembly, decided = window.assembly, window.decided
    packed = choice.numbers[window.number : window.number + decided]
    rows = np.concatenate([window.rows(), window.unplaced])
    every = np.repeat(packed, assembly.count[:decided])
    return _Seen(
        window.starts,
        _streams(window, streams),
        window.events.datagram[rows],
        np.concatenate([every, np.zeros(len(window.unplaced), np.bool_)]),
    )


def _streams(window: Window, streams: Sequence[Stream]) -> tuple[int, ...]:
    """Of those of a window, in the order of its starts."""
    first = window.stream
    others = [
        one.id for one in streams if one.namespace == first.namespace and one.kind != first.kind
    ]
    return (first.id, *others)[: len(window.starts)]


def _mark(seen: _Seen, following: _Seen | None, datagrams: dict[int, _Datagrams]) -> None:
    """Note the datagrams of a window, once it is known how many chunks it has."""
    first = 0
    for at, (stream, start) in enumerate(zip(seen.streams, seen.starts, strict=True)):
        of = datagrams[stream]
        numbers = of.read(start, None if following is None else following.starts[at])
        here = (seen.datagram >= first) & (seen.datagram < first + len(numbers))
        mine = numbers[seen.datagram[here] - first]
        of.of_packets[mine] = True
        of.packed[mine[seen.packed[here]]] = True
        first += len(numbers)


class Picked:
    """A recording in the place of another one, which is read as this is; see `picked`.

    ``kept``: which datagrams of a stream. ``dropped``: which records of drops.
    """

    def __init__(
        self, source: Recording, choice: Choice, kept: dict[int, Mask], dropped: _Dropped
    ) -> None:
        self._source = source
        self._choice = choice
        self._kept = kept
        self._dropped = dropped

    @property
    def events(self) -> int:
        """How many events of packets are left out."""
        return sum(int((~one).sum()) for one in self._kept.values())

    @property
    def facts(self) -> Facts:
        """The recording itself."""
        return self._source.facts

    @property
    def namespaces(self) -> Sequence[Namespace]:
        """All namespaces."""
        return self._source.namespaces

    @property
    def streams(self) -> Sequence[Stream]:
        """All streams; those of events say what was left out of them."""
        left = self._choice.packets - int(self._choice.numbers.sum())
        found = []
        for one in self._source.streams:
            detail = dict(one.detail)
            if one.id in self._kept:
                detail[LEFT_OUT] = {"packets": left, "events": int((~self._kept[one.id]).sum())}
                left = 0
            found.append(replace(one, detail=detail))
        return found

    @property
    def losses(self) -> Sequence[Loss]:
        """All losses."""
        return self._source.losses

    def snapshots(self, *kinds: str) -> Iterable[Snapshot]:
        """All snapshots."""
        return self._source.snapshots(*kinds)

    def newest_snapshot(self) -> int:
        """See `rows.Recording`."""
        return self._source.newest_snapshot()

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """The chunks (of a stream) with what is packed of them; from the first one on."""
        kinds = {one.id: one.kind for one in self._source.streams}
        seen = dict.fromkeys(self._kept, 0)
        changes = {
            one.id: self._dropped.belongs.change(one.kind)
            for one in self._source.streams
            if one.kind in (CONNECTIONS, ANSWERS)
        }
        for whole in self._source.chunks(stream):
            chunk = whole if whole.stream not in changes else _changed(whole, changes[whole.stream])
            mask = self._mask(chunk, kinds[chunk.stream], seen)
            if chunk.id > after and (mask is None or mask.any()):
                yield chunk if mask is None or mask.all() else _part(chunk, mask)

    def _mask(self, chunk: Chunk, kind: str, seen: dict[int, int]) -> Mask | None:
        """Which datagrams of a chunk are packed; None: all."""
        if chunk.stream in self._kept:
            first = seen[chunk.stream]
            seen[chunk.stream] += len(chunk.lengths)
            return self._kept[chunk.stream][first : first + len(chunk.lengths)]
        if kind in (CONNECTIONS, ANSWERS):
            return chunk.lengths > 0
        if kind == _DROPS:
            return np.array([self._dropped.keeps(one) for _, one in chunk.datagrams()], np.bool_)
        return None


def _changed(chunk: Chunk, change: Callable[[bytes], bytes]) -> Chunk:
    """A chunk of which each datagram is another one, or none is left of it."""
    datagrams = [change(one) for _, one in chunk.datagrams()]
    lengths = np.fromiter(map(len, datagrams), np.uint32, len(datagrams))
    return replace(chunk, lengths=lengths, data=b"".join(datagrams))


def _part(chunk: Chunk, mask: Mask) -> Chunk:
    """Some datagrams of a chunk."""
    ends = np.cumsum(chunk.lengths, dtype=np.int64)
    spans = zip((ends - chunk.lengths)[mask].tolist(), ends[mask].tolist(), strict=True)
    notes = chunk.notes
    if notes is not None:
        notes = Notes(notes.sent_ns[mask], notes.cpu[mask])
    return Chunk(
        chunk.id,
        chunk.stream,
        chunk.received_ns[mask],
        chunk.lengths[mask],
        b"".join(chunk.data[one:other] for one, other in spans),
        notes,
    )
