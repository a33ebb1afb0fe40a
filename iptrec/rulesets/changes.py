"""What the kernel told of changes of the rules of one namespace, and between which times they were."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode import nftrace
from iptrec.decode.generations import BEFORE_ALL
from iptrec.rulesets.timeline import EVER, NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import I64
    from iptrec.recording.rows import Recording

# The recorder looks at changes after each look at events, but not at what comes meanwhile: so a change that it
# received was not there yet the last time but one before.
_LOOKS: Final = 3
_NOTHING: Final = np.zeros(0, np.int64)


class _Chunk(NamedTuple):
    """One that was read; ``before``: the number of the one before it, in its stream."""

    stream: int
    before: int
    first_ns: int
    last_ns: int


class Changes:
    """Those of a stream of changes, beside one of events.

    ``lost_ns``: when the first were lost, None: never.
    """

    def __init__(self, recording: Recording, changes: str, events: str, namespace: int) -> None:
        self._recording = recording
        self._changes = [
            one.id
            for one in recording.streams
            if one.kind == changes and one.namespace == namespace
        ]
        self._events = [
            one.id for one in recording.streams if one.kind == events and one.namespace == namespace
        ]
        self._read: list[_Chunk] = []
        self._open = not recording.facts.closed
        self._all: Looks | None = None  # once all events were looked through
        self.lost_ns = min(
            (one.first_ns for one in recording.losses if one.stream in self._changes), default=None
        )

    def datagrams(self) -> Iterator[tuple[int, bytes]]:
        """What told of them, and when it was received (epoch, ns)."""
        self._read = []
        for stream in self._changes:
            before = 0
            for chunk in self._recording.chunks(stream):
                times = int(chunk.received_ns[0]), int(chunk.received_ns[-1])
                self._read.append(_Chunk(stream, before, *times))
                before = chunk.id
                yield from chunk.datagrams()

    def between(self, first_ns: int, last_ns: int) -> Iterator[tuple[int, bytes]]:
        """Those that were received between two times, and some beside them; all were read once before."""
        for one in self._read:
            if one.first_ns <= last_ns and first_ns <= one.last_ns:
                for chunk in itertools.islice(self._recording.chunks(one.stream, one.before), 1):
                    for received, data in chunk.datagrams():
                        if first_ns <= received <= last_ns:
                            yield received, data

    def are_after(self, generation: int) -> bool:
        """Whether events of a recording that was not closed tell of a newer ruleset than one."""
        if not self._open:
            return False
        self._all = self.looks(NEVER)
        return self._all.newest > generation

    def looks(self, until_ns: int) -> Looks:
        """When events were received, at least to the first after ``until_ns`` (epoch), and numbers of then."""
        if self._all is not None:
            return self._all
        looks, number, told = [(_NOTHING, _NOTHING)], [_NOTHING], [_NOTHING]
        for stream in self._events:
            last_ns = 0
            for chunk in self._recording.chunks(stream):
                sent_ns = chunk.received_ns
                if chunk.notes is not None:
                    sent_ns = chunk.notes.sent(chunk.received_ns, last_ns).earliest
                    last_ns = int(sent_ns[-1])
                looks.append(_looks(chunk.received_ns, sent_ns))
                found = nftrace.generations(chunk.data, chunk.lengths, chunk.received_ns)
                number.append(found.number)
                told.append(found.sent_ns)  # received: they are asked for so
                if int(chunk.received_ns[-1]) > until_ns:
                    break
        time_ns, first = _looks(*map(np.concatenate, zip(*looks, strict=True)))
        later = np.minimum.accumulate(np.append(first, NEVER)[::-1])[::-1][1:]
        before_ns = np.minimum(time_ns, later - 1)
        return Looks(time_ns, before_ns, np.concatenate(number), np.concatenate(told))


def _looks(received_ns: I64, sent_ns: I64) -> tuple[I64, I64]:
    """When datagrams were received, each time once, and after which time the first one was sent of each's."""
    time_ns, look = np.unique(received_ns, return_inverse=True)
    first = np.full(len(time_ns), NEVER)
    np.minimum.at(first, look, sent_ns)
    return time_ns, first


class Looks(NamedTuple):
    """When events were received (epoch, ns), in order, each time once; and rulesets' numbers among them.

    ``before_ns``: not after those times, and what was received later was sent after it. With a tap more may
    have been sent by the time that is noted: the clock is read after events were taken out of the ring, and
    those behind one that was still being written were left there. ``number``: those numbers, in order,
    received at ``told_ns``. Each was the newest one after the look before that.
    """

    time_ns: I64 = _NOTHING
    before_ns: I64 = _NOTHING
    number: I64 = _NOTHING
    told_ns: I64 = _NOTHING

    @property
    def newest(self) -> int:
        """The last number that was told; `BEFORE_ALL` if none was."""
        return int(self.number.max(initial=BEFORE_ALL))

    def behind(self, generation: int) -> int | None:
        """After which time a ruleset came that is newer than one; None where no number tells.

        A ruleset is in force before the kernel tells it, and for how long depends on when the process that
        commits it gets a processor again. The recorder asks for the number, which changes before the rules do.
        """
        told = int(np.searchsorted(self.number, generation, side="right"))
        if not told:
            return None
        look = int(np.searchsorted(self.time_ns, self.told_ns[told - 1])) - 1
        return int(self.before_ns[look]) if look >= 0 else EVER

    def not_before(self, received_ns: int) -> int | None:
        """After which time a change was told that was received then; None where nobody looked before."""
        look = int(np.searchsorted(self.time_ns, received_ns, side="right")) - _LOOKS
        return int(self.before_ns[look]) if look >= 0 else None
