"""The rules of a recording that may grow: they are read again when it has more of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.decode import nftrace
from iptrec.decode.generations import BEFORE_ALL
from iptrec.rulesets.backends import BACKENDS, history

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.recording.rows import Chunk, Recording, Stream
    from iptrec.rulesets.timeline import Timelines


class Rules:
    """Those of one stream of events, or of those of both backends in a namespace.

    ``timelines``: all tables.
    """

    def __init__(self, recording: Recording, streams: Sequence[Stream]) -> None:
        self._recording = recording
        self._events = streams
        kinds = {BACKENDS[one.kind].changes for one in streams}
        self._changes = {
            one.id: 0
            for one in recording.streams
            if one.kind in kinds and one.namespace == streams[0].namespace
        }
        self._told = BEFORE_ALL
        self._known: tuple[int, ...] = ()
        self.timelines, *others = self._read()
        for one in others:
            self.timelines.adopt(one)

    def hear(self, chunk: Chunk) -> None:
        """Events of a stream may tell that there is a newer ruleset, whatever that is."""
        if any(one.id == chunk.stream and BACKENDS[one.kind].changes for one in self._events):
            numbers = nftrace.generations(chunk.data, chunk.lengths, chunk.received_ns).number
            self._told = max(self._told, int(numbers.max(initial=BEFORE_ALL)))

    def renewed(self) -> bool:
        """Read them again if there are more; whether there were."""
        last = self._last()
        if last == self._known:
            return False
        self._known = last
        self.timelines.renew(self._read())
        return True

    def _read(self) -> list[Timelines]:
        return [history(self._recording, BACKENDS[one.kind], one.namespace) for one in self._events]

    def _last(self) -> tuple[int, ...]:
        """What there is by now: snapshots, what the kernel told of changes, and a number among the events."""
        for stream, last in self._changes.items():
            for chunk in self._recording.chunks(stream, after=last):
                self._changes[stream] = chunk.id
        return self._recording.newest_snapshot(), *self._changes.values(), self._told
