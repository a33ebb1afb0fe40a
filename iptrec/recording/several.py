"""Several recordings read as one: files, merged files, or both.

Each is as it was when it was opened, also while it is still being written. Their order does not depend on the
order of the files: by the hosts' names, then by when they began.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from iptrec.errors import RecordingError
from iptrec.recording.hosts import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from iptrec.recording.reader import Reader, Recorded
    from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Snapshot, Stream

_HIGHEST: Final = 1 << 60  # number of a row; more cannot be stored once they are added up
TAKEN: Final = "still-recording"  # why it ended, of a copy in a merged file
UNSURE: Final = "not-closed"  # the same, where it may have been cut off before
_SAME_BOOT_NS: Final = 500_000_000  # clocks are set forth and back while a host runs


class _Numbers(NamedTuple):
    """Of rows: the highest ones of a file, or what is added to those of a file."""

    namespace: int = 0
    stream: int = 0
    chunk: int = 0
    snapshot: int = 0

    def __add__(self, other: tuple[int, ...]) -> _Numbers:  # type: ignore[override]
        return _Numbers(*(one + more for one, more in zip(self, other, strict=True)))


class Part:
    """One of the recordings: a `rows.Recording` whose numbers no other one of them has.

    ``own``: the row about it. ``shift``: what is added to the numbers in the file, whose highest are ``last``.
    ``of``: of which recording each namespace of the file is.
    """

    def __init__(
        self, reader: Reader, own: Recorded, shift: _Numbers, last: _Numbers, of: dict[int, int]
    ) -> None:
        self._reader, self._shift, self._last = reader, shift, last
        self._opened_ns = time.time_ns()
        self.own = own
        self.facts: Facts = own.facts
        self.file = own.file or reader.path.name
        self._own = {namespace for namespace, recording in of.items() if recording == own.id}
        self.namespaces: list[Namespace] = [
            replace(one, id=one.id + shift.namespace)
            for one in reader.namespaces
            if one.id in self._own
        ]
        self.streams: list[Stream] = [
            replace(one, id=one.id + shift.stream, namespace=one.namespace + shift.namespace)
            for one in reader.streams
            if one.namespace in self._own
        ]
        known = {one.id for one in self.streams}
        losses = (replace(one, stream=one.stream + shift.stream) for one in reader.losses)
        self.losses: list[Loss] = [one for one in losses if one.stream in known]
        self.heard: Callable[[Chunk], None] | None = None

    @property
    def running(self) -> bool | None:
        """Whether it is still recorded; None where that cannot be told."""
        if self.own.file is not None:
            return None if self.facts.stop_reason == UNSURE else False
        return self._reader.running

    def taken(self, running: bool | None) -> Facts:
        """The row about what there was when it was opened, for a copy of it; ``running``: at that time."""
        if self.facts.closed or running is False:
            return self.facts
        if running is None:
            return replace(self.facts, stop_reason=UNSURE)
        return replace(self.facts, closed=True, stopped_ns=self._opened_ns, stop_reason=TAKEN)

    def snapshots(self, *kinds: str) -> Iterator[Snapshot]:
        """See `rows.Recording`."""
        for one in self._reader.snapshots(*kinds, namespaces=self._own):
            if one.id <= self._last.snapshot:
                yield replace(
                    one,
                    id=one.id + self._shift.snapshot,
                    namespace=one.namespace + self._shift.namespace,
                )

    def newest_snapshot(self) -> int:
        """See `rows.Recording`; always the same."""
        return self._last.snapshot + self._shift.snapshot

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """See `rows.Recording`."""
        if stream is None:
            some = (self.chunks(one.id, after) for one in self.streams)
            yield from heapq.merge(*some, key=lambda one: one.id)
            return
        if not any(stream == one.id for one in self.streams):
            return
        shift = self._shift
        for one in self._reader.chunks(stream - shift.stream, max(0, after - shift.chunk)):
            if one.id > self._last.chunk:
                return
            yield replace(one, id=one.id + shift.chunk, stream=stream)
            if self.heard is not None:
                self.heard(one)


class Several:
    """Recordings in one or several files: a `rows.Recording`, and all that a `Reader` has; a context manager.

    ``hosts``: each of them, whose rows are ``parts``. ``copies``: pairs of files that hold the same recording.
    Raises `RecordingError` for rows whose numbers are so high that they cannot be told from those of another
    file.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        known = [(one, _highest(one), one.recordings) for one in readers]
        known.sort(key=lambda one: sorted(_order(own, one[0]) for own in one[2]))
        self._readers = [one for one, _, _ in known]
        shift, found = _Numbers(), list[Part]()
        for reader, last, recordings in known:
            of = reader.recording_of
            found += [Part(reader, own, shift, last, of) for own in recordings]
            shift += last
        self.parts = sorted(found, key=lambda one: _order(one.own, None, one.file))
        names = _names(self.parts)
        self.hosts = [
            Host(name, part.file, part, part.running)
            for name, part in zip(names, self.parts, strict=True)
        ]
        self.copies = list(_copies(self.parts))
        self._of_stream = {one.id: part for part in self.parts for one in part.streams}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files for good."""
        for one in self._readers:
            one.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return any(one.closed for one in self._readers)

    def require_open(self) -> None:
        """Raise `RecordingError` after `close`."""
        for one in self._readers:
            one.require_open()

    @property
    def path(self) -> Path:
        """The files, for words about all of them."""
        return Path(", ".join(str(one.path) for one in self._readers))

    @property
    def facts(self) -> Facts:
        """What is true of all: from the first start to the last stop; interfaces where each has some.

        The filter is that which all have, or none; what is each one's own, as the uuid is, is the first one's.
        """
        every = [one.facts for one in self.parts]
        stops = [one.stopped_ns for one in every]
        named = all(one.interfaces for one in every)
        filters = {one.filter for one in every}
        return replace(
            min(every, key=lambda one: one.started_ns),
            host=", ".join(dict.fromkeys(one.name for one in self.hosts)),
            kernel=", ".join(dict.fromkeys(one.kernel for one in every)),
            filter=filters.pop() if len(filters) == 1 else None,
            families=tuple(sorted({name for one in every for name in one.families})),
            interfaces=tuple(sorted({name for one in every for name in one.interfaces if named})),
            snaplen=max(one.snaplen for one in every),
            stopped_ns=None if None in stops else max(filter(None, stops)),
            closed=all(one.closed for one in every),
        )

    @property
    def running(self) -> bool | None:
        """Whether any is still recorded; None where that cannot be told."""
        every = [one.running for one in self.parts]
        return True if True in every else None if None in every else False

    def wait(self, at_most_s: float) -> None:
        """See `Reader.wait`."""
        self._readers[0].wait(at_most_s)

    @property
    def size(self) -> int:
        """The bytes of all files, uncompressed."""
        return sum(one.size for one in self._readers)

    @property
    def datagrams(self) -> int:
        """How many datagrams the chunks say that they hold."""
        return sum(one.datagrams for one in self._readers)

    @property
    def namespaces(self) -> list[Namespace]:
        """The namespaces of all."""
        return [one for part in self.parts for one in part.namespaces]

    @property
    def streams(self) -> list[Stream]:
        """The streams of all."""
        return [one for part in self.parts for one in part.streams]

    @property
    def losses(self) -> list[Loss]:
        """The losses of all, in order of time."""
        every = [one for part in self.parts for one in part.losses]
        return sorted(every, key=lambda one: one.first_ns)

    def snapshots(self, *kinds: str) -> Iterator[Snapshot]:
        """See `rows.Recording`."""
        some = (one.snapshots(*kinds) for one in self.parts)
        return heapq.merge(*some, key=lambda one: (one.time_ns, one.id))

    def newest_snapshot(self) -> int:
        """See `rows.Recording`; always the same."""
        return max(one.newest_snapshot() for one in self.parts)

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """See `rows.Recording`; of all streams in order of time."""
        if stream is not None:
            part = self._of_stream.get(stream)
            return iter(()) if part is None else part.chunks(stream, after)
        some = (one.chunks(None, after) for one in self.parts)
        return heapq.merge(*some, key=lambda one: (int(one.received_ns[0]), one.id))

    def hear(self, heard: Callable[[Chunk], None]) -> None:
        """Be told of each chunk that is read."""
        for one in self.parts:
            one.heard = heard


def together(readers: Sequence[Reader]) -> Reader | Several:
    """The recordings of some files as one; a single one that is no merged file is itself."""
    first, *more = readers
    return Several(readers) if more or first.merged else first


def _highest(reader: Reader) -> _Numbers:
    # Chunks first: what is known of the rules is then not older than the packets that are read.
    chunk = reader.highest("chunk")
    last = _Numbers(
        reader.highest("namespace"), reader.highest("stream"), chunk, reader.highest("snapshot")
    )
    if max(last) > _HIGHEST or reader.lowest < 0:
        raise RecordingError(
            f"{reader.path} numbers its rows as no recorder does; it can be read alone, not beside others"
        )
    return last


def _order(own: Recorded, reader: Reader | None, file: str = "") -> tuple[str, int, str, str]:
    name = file or own.file or (reader.path.name if reader else "")
    return own.facts.host, own.facts.started_ns, own.facts.uuid, name


@dataclass(slots=True)
class _Boot:
    """The recordings of one host between two starts of its system."""

    first: Part

    def holds(self, other: Part) -> bool:
        """Whether another one is of it: of one name and one kernel, whose clocks began to run together."""
        mine, its = self.first.facts, other.facts
        apart_ns = abs(_booted_ns(mine) - _booted_ns(its))
        return mine.kernel == its.kernel and apart_ns < _SAME_BOOT_NS


def _booted_ns(facts: Facts) -> int:
    return facts.started_ns - facts.started_monotonic_ns


def _names(parts: Sequence[Part]) -> list[str]:
    """Of the host of each; those of several hosts that have one name are told apart by the files' names."""
    boots: dict[str, list[_Boot]] = {}
    of: list[_Boot] = []
    for one in parts:
        some = boots.setdefault(one.facts.host, [])
        known = next((boot for boot in some if boot.holds(one)), None)
        if known is None:
            some.append(known := _Boot(one))
        of.append(known)
    names: dict[int, str] = {}
    taken: set[str] = {*boots}
    for host, some in boots.items():
        for boot in some:
            name = host if len(some) == 1 else _free(f"{host}({boot.first.file})", taken)
            names[id(boot)] = name
            taken.add(name)
    return [names[id(one)] for one in of]


def _free(name: str, taken: set[str]) -> str:
    """A name that nobody has yet."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}#{number}"
    return found


def _copies(parts: Sequence[Part]) -> Iterator[tuple[str, str]]:
    seen: dict[tuple[str, int], str] = {}
    for one in parts:
        key = one.facts.begun
        if key in seen:
            yield seen[key], one.file
        seen.setdefault(key, one.file)
