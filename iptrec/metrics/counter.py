"""The process that counts the packets of one recording while it grows, for ``record --metrics``.

It has no rights when it reads what was recorded (see `follower`). It writes a line of JSON a time: all that was
counted until then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

# All of it is loaded while there are rights: it may lie where only root can read it.
from iptrec.answers.tally import Tally
from iptrec.errors import AbandonedError
from iptrec.kernel import host, privileges, process
from iptrec.metrics.exposition import Counts
from iptrec.packets.window import follow
from iptrec.recording import packing  # noqa: F401 - of chunks
from iptrec.recording.reader import Reader
from iptrec.rulesets.backends import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Snapshot, Stream

_LOOK_S: Final = 0.5
_BEHIND_OTHERS: Final = 10  # nice(2)


class _Watched:
    """A recording whose chunks of events are counted as they are read; a `rows.Recording`."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.uncounted = 0
        self._waiting: set[int] = set()  # chunks that were there, and have not been read yet
        self._listed: dict[int, int] = {}  # the last one that was there, by stream

    def look(self) -> None:
        """Note which chunks are there. Those of before that nobody has read have gone."""
        self.uncounted += len(self._waiting)
        self._waiting.clear()
        for stream in self.reader.streams:
            if stream.kind in BACKENDS:
                last = self._listed.get(stream.id, 0)
                there = [one for one, _ in self.reader.chunk_sizes(stream.id, last)]
                self._waiting.update(there)
                self._listed[stream.id] = max(there, default=last)

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """See `rows.Recording`."""
        for chunk in self.reader.chunks(stream, after):
            if chunk.id > self._listed.get(chunk.stream, 0):
                self._listed[chunk.stream] = chunk.id
            self._waiting.discard(chunk.id)
            yield chunk

    def oldest_ns(self) -> int | None:
        """When the oldest event that is held was received."""
        return self._first(dict.fromkeys(self._listed, 0))

    def waiting_ns(self) -> int | None:
        """When the oldest event that has not been read was received."""
        return self._first(self._listed)

    def _first(self, after: dict[int, int]) -> int | None:
        first = (next(self.reader.chunks(one, last), None) for one, last in after.items())
        return min((int(one.received_ns[0]) for one in first if one is not None), default=None)

    @property
    def facts(self) -> Facts:
        """See `rows.Recording`."""
        return self.reader.facts

    @property
    def namespaces(self) -> list[Namespace]:
        """See `rows.Recording`."""
        return self.reader.namespaces

    @property
    def streams(self) -> list[Stream]:
        """See `rows.Recording`."""
        return self.reader.streams

    @property
    def losses(self) -> list[Loss]:
        """See `rows.Recording`."""
        return self.reader.losses

    def snapshots(self, *kinds: str) -> Iterator[Snapshot]:
        """See `rows.Recording`."""
        return self.reader.snapshots(*kinds)

    def newest_snapshot(self) -> int:
        """See `rows.Recording`."""
        return self.reader.newest_snapshot()


class _Losses:
    """What was lost, by cause; a ring lets go of losses as well."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.times: Counter[str] = Counter()
        self._there: Counter[Loss] = Counter()

    def look(self, losses: list[Loss]) -> None:
        """Count those that are new."""
        there = Counter(losses)
        for one, count in (there - self._there).items():
            self.times[one.how] += count
            self.events[one.how] += count * (one.events or 0) if one.of_events else 0
        self._there = there


def main() -> None:
    """Be that process: ``argv``: who started it, a descriptor of the recording, its name, a period (s)."""
    parent, held, path, every_s = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        float(sys.argv[4]),
    )
    privileges.look_as(*host.nobody())
    with Reader(path, held) as reader:
        watched, counted, losses = _Watched(reader), Tally(), _Losses()
        privileges.give_up()
        process.end_with_parent(parent)
        os.nice(_BEHIND_OTHERS)
        try:
            for window in follow(watched, _ticks(watched, counted, losses, every_s)):
                counted.add(window)
        except AbandonedError:  # its recorder was killed: what was counted stands
            return
        _tell(watched, counted, losses)


def _ticks(watched: _Watched, tally: Tally, losses: _Losses, every_s: float) -> Iterator[int]:
    """The time (ns since 1970), again and again until the recorder has ended; tells what was counted."""
    told_s = -every_s
    while watched.reader.running is not False:
        if time.monotonic() - told_s >= every_s:
            told_s = time.monotonic()
            _tell(watched, tally, losses)
        watched.look()
        yield time.time_ns()
        time.sleep(min(_LOOK_S, every_s))
    watched.look()


def _tell(watched: _Watched, tally: Tally, losses: _Losses) -> None:
    losses.look(watched.losses)
    waiting_ns = watched.waiting_ns()
    counts = Counts(
        packets={tuple(one): count for one, count in tally.packets.items()},
        lost=dict(losses.events),
        losses=dict(losses.times),
        incomplete=tally.incomplete,
        ambiguous=tally.ambiguous,
        events=tally.events,
        uncounted=watched.uncounted,
        size=watched.reader.size,
        behind_ns=0 if waiting_ns is None else max(0, time.time_ns() - waiting_ns),
        oldest_ns=watched.oldest_ns(),
    )
    line = json.dumps(counts.as_json()).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]
