"""A long recording out of a short one: its events again and again, each time later.

The packets' stamps and numbers are those of the first time: repeat no less than what the analysis keeps in mind
(`relations.REMEMBERED` windows), or packets meet their own repetitions.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

import numpy as np
import zstandard

from iptrec.recording.packing import Notes, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAUSE_NS: Final = 1_000_000_000
_REPEATED: Final = ("nflog", "nftrace", "drops")
_SELECT: Final = """\
SELECT chunk.id, stream, first_ns, last_ns, datagrams, noted, encoding, size, data, kind
FROM chunk JOIN stream ON stream.id = chunk.stream ORDER BY chunk.id"""
_INSERT: Final = "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def repeat(source: str | Path, output: str | Path, times: int) -> None:
    """Write what has all events of a recording so many times."""
    shutil.copyfile(source, output)
    with closing(sqlite3.connect(output)) as connection:
        connection.executescript("PRAGMA journal_mode = off; PRAGMA synchronous = off")
        rows = [one for one in connection.execute(_SELECT) if one[-1] in _REPEATED]
        last_id, last_ns = max(one[0] for one in rows), max(one[3] for one in rows)
        span_ns = last_ns - min(one[2] for one in rows) + _PAUSE_NS
        (behind,) = connection.execute("SELECT max(id) FROM chunk").fetchone()
        for number in range(1, times):
            later = _later(rows, span_ns * number, behind + (number - 1) * last_id)
            connection.executemany(_INSERT, later)
        stopped = "UPDATE recording SET stopped_ns = stopped_ns + ?"
        connection.execute(stopped, (span_ns * (times - 1),))
        connection.commit()


def _later(rows: list[tuple], by_ns: int, ids: int) -> Iterator[tuple]:
    """The chunks again, with later times and ids."""
    for number, stream, first_ns, last_ns, count, noted, encoding, size, data, kind in rows:
        told = _told_later(data, size, count, first_ns, by_ns, noted) if kind == "drops" else data
        times = first_ns + by_ns, last_ns + by_ns
        yield number + ids, stream, *times, count, noted, encoding, size, told


def _told_later(data: bytes, size: int, count: int, first_ns: int, by_ns: int, noted: int) -> bytes:
    """A chunk of records of drops, which begin with their times."""
    raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    received_ns, lengths, records, notes = unpack(raw, count, first_ns, noted=bool(noted))
    changed = np.frombuffer(records, np.uint8).copy()
    ends = np.cumsum(lengths, dtype=np.int64)
    at = (ends - lengths)[:, None] + np.arange(8)
    changed[at] = (changed[at].view("<i8") + by_ns).view(np.uint8)
    if notes is not None:
        notes = Notes(notes.sent_ns + by_ns, notes.cpu)
    packed = pack(received_ns + by_ns, lengths, [changed.tobytes()], notes)
    return zstandard.ZstdCompressor(level=-1).compress(packed)
