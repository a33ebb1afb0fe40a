"""What the kernel told of changes of the rules of one namespace, and between which times they were."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import I64
    from iptrec.recording.rows import Recording

# The recorder looks at changes after each look at events, but not at what comes meanwhile: so a change that it
# received was not there yet the last time but one before.
_LOOKS: Final = 3


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

    def looks(self, until_ns: int) -> I64:
        """When events were received, up to the first time after ``until_ns`` (epoch); in order, each once."""
        found = [np.zeros(0, np.int64)]
        for stream in self._events:
            for chunk in self._recording.chunks(stream):
                found.append(np.unique(chunk.received_ns))
                if int(chunk.received_ns[-1]) > until_ns:
                    break
        return np.unique(np.concatenate(found))


def not_before(received_ns: int, looks: I64) -> int | None:
    """After which time a change was made that was received then; None where nobody looked before."""
    before = int(np.searchsorted(looks, received_ns, side="right")) - _LOOKS
    return int(looks[before]) if before >= 0 else None
