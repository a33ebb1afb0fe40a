"""What a ring lets go of: the oldest events, and what only they needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.recording.kinds import STREAMS

if TYPE_CHECKING:
    import sqlite3

_LASTING: Final = ", ".join(f"'{one.name}'" for one in STREAMS.values() if not one.trimmed)
_TRIMMED: Final = f"stream IN (SELECT id FROM stream WHERE kind NOT IN ({_LASTING}))"  # noqa: S608
# More streams than there are: chunks that are stored together overlap in time.
_TOGETHER: Final = 16
# States of tables that other states of the same tables had followed before the time in question.
_REPLACED: Final = """\
DELETE FROM snapshot WHERE after_ns IS NOT NULL AND time_ns < :since AND EXISTS (
  SELECT 1 FROM snapshot AS later WHERE later.namespace = snapshot.namespace
  AND later.source = snapshot.source AND substr(later.kind, 1, 9) = substr(snapshot.kind, 1, 9)
  AND later.id > snapshot.id AND later.time_ns < :since)"""
_UNUSED: Final = "FROM blob WHERE sha256 NOT IN (SELECT blob FROM snapshot)"
_WORTH: Final = 16  # one part in so many is too much before it is let go
_STATE_BYTES: Final = 150  # of a state beside its content, about
_EVER_NS: Final = 2**63 - 1


class Cut(NamedTuple):
    """The last chunk that is to go, 0 if none is; and from which time (epoch, ns) on states stay."""

    chunk: int
    since_ns: int


class Ring:
    """Knows how much there is of what may go: ``event_bytes`` of chunks, ``state_bytes`` of tables' states."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.event_bytes = 0
        self.state_bytes = 0
        self._connection = connection
        self._lasting: set[int] = set()  # streams
        self._newest = 0  # chunk of what is not lasting

    def add_stream(self, stream: int, kind: str) -> None:
        """A stream was added."""
        if not STREAMS[kind].trimmed:
            self._lasting.add(stream)

    def add_chunk(self, stream: int, chunk: int, size: int) -> None:
        """A chunk of a stream was written."""
        if stream not in self._lasting:
            self.event_bytes += size
            self._newest = chunk

    def add_state(self, size: int) -> None:
        """A state of a table was written, with a content of so many new bytes."""
        self.state_bytes += size + _STATE_BYTES

    def cut(self, *, most_bytes: int | None, lasts_ns: int | None) -> Cut | None:
        """What is to go by now (see `Writer.trim`); None while that is not worth while."""
        excess, since_ns, until_ns = 0, 0, _EVER_NS
        if most_bytes is not None:
            excess = _excess(self.event_bytes, most_bytes)
            since_ns = self._states_since(_excess(self.state_bytes, most_bytes))
        if lasts_ns is not None:
            until_ns = time.time_ns()  # what is later was received before the clock was set back
            since_ns = until_ns - lasts_ns
        found = Cut(self._oldest(excess, since_ns, until_ns), since_ns)
        return found if any(found) else None

    def _states_since(self, excess: int) -> int:
        """From which time on the states of tables stay where so many bytes of them go; 0: they all do."""
        since_ns = 0
        for time_ns, size in self._connection.execute(
            "SELECT time_ns, length(data) FROM snapshot JOIN blob ON sha256 = blob"
            " WHERE after_ns IS NOT NULL ORDER BY id"
        ):
            if excess <= 0:
                break
            since_ns, excess = time_ns, excess - size - _STATE_BYTES
        return since_ns

    def _oldest(self, excess: int, since_ns: int, until_ns: int) -> int:
        """The last chunk that is to go, 0 if none is: the newest one stays, unless its time is over."""
        gone = 0
        for chunk, last_ns, size in self._connection.execute(
            f"SELECT id, last_ns, length(data) FROM chunk WHERE {_TRIMMED} ORDER BY id"  # noqa: S608 - our own words
        ):
            enough = excess <= 0 or chunk == self._newest
            if enough and since_ns <= last_ns <= until_ns:
                break
            gone, excess = chunk, excess - size
        return gone

    def let_go(self, cut: Cut) -> tuple[int, int]:
        """Delete the chunks up to one, and what no other one needs; returns the bytes of both."""
        execute = self._connection.execute
        rows = f"FROM chunk WHERE id <= ? AND {_TRIMMED}"
        (size,) = execute(f"SELECT total(length(data)) {rows}", (cut.chunk,)).fetchone()
        events, contents = int(size), 0
        self.event_bytes -= events
        execute(f"DELETE {rows}", (cut.chunk,))
        (first_ns,) = execute(
            f"SELECT min(first_ns) FROM (SELECT first_ns FROM chunk WHERE {_TRIMMED}"  # noqa: S608
            f" ORDER BY id LIMIT {_TOGETHER})"
        ).fetchone()
        horizon = cut.since_ns if first_ns is None else first_ns
        execute("DELETE FROM loss WHERE last_ns < ?", (horizon,))
        replaced = execute(_REPLACED, {"since": horizon}).rowcount
        if replaced:
            (size,) = execute(f"SELECT total(length(data)) {_UNUSED}").fetchone()
            contents = int(size)
            self.state_bytes -= contents + replaced * _STATE_BYTES
            execute(f"DELETE {_UNUSED}")
        return events, contents


def _excess(held: int, most: int) -> int:
    """What is to go, 0 while that is little."""
    return held - most if held - most > most // _WORTH else 0
