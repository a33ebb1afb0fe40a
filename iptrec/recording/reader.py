"""Reads a recording, and nothing but reads: it may come from a stranger.

How the database is opened is in `distrusted`. Every value's size is checked, and no more is unpacked than a
chunk declares. Memory stays bounded by the limits below.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from iptrec.errors import RecordingError
from iptrec.recording import zstd
from iptrec.recording.distrusted import MAX_VALUE, Distrusted, printable
from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Snapshot, Stream
from iptrec.recording.schema import MERGED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.recording.upgrade import Row

_MAX_BLOBS: Final = 4 << 30  # bytes unpacked, all snapshots, one after the other
_REMEMBERED_BLOBS: Final = 16 << 20  # bytes
_MAX_TEXT: Final = 64 << 20  # characters of all rows of a small table
_MAX_ROWS: Final = 100_000  # of a small table
_LOOK_S: Final = 0.01  # between two looks whether there is something new: each takes microseconds


class Recorded(NamedTuple):
    """The row about a recording; ``file``: of a merged one the name of the file that it was."""

    id: int
    facts: Facts
    file: str | None = None


class Reader:
    """An open recording, compressed or not; a context manager. Raises `RecordingError` for anything else.

    A recording that is still being written can be read again and again: each look tells what is in it
    now. In between, the file is let go, so that the writer can end it as one single file.

    One thread at a time may read it, whichever; once closed, nothing can be read any more.

    ``held``: a descriptor of the recording, which stays open. The file is then opened once, for a process that
    gives up its rights after that; it has to be that very file.
    """

    def __init__(self, path: str | Path, held: int | None = None) -> None:
        self.path = Path(path)
        self._file = Distrusted(self.path, held)
        self._commits = self._file.commits  # up to which was waited
        self._owned = False  # each chunk by a stream, as far as was looked

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file for good."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._file.closed

    def require_open(self) -> None:
        """Raise `RecordingError` after `close`."""
        self._file.require_open()

    @property
    def facts(self) -> Facts:
        """The recording itself, as the file says it now; a merged file has several: see `recordings`."""
        if self.merged:
            raise RecordingError(
                f"{self.path} holds several recordings (iptrec merge); this is done with one that is not merged"
            )
        return self.recordings[0].facts

    @property
    def merged(self) -> bool:
        """Whether `iptrec merge` made it: it holds several recordings, see `several`."""
        return self._file.version == MERGED

    @property
    def recordings(self) -> list[Recorded]:
        """The rows about all that is in the file, one unless it is merged; as the file says it now."""
        rows = self._table("recording")
        if not rows:
            raise self._file.damaged("it has no row about the recording")
        return [self._recorded(row) for row in rows]

    def _recorded(self, row: Row) -> Recorded:
        number, file = row.pop("id"), row.pop("file")
        for name in ("command", "families", "interfaces"):
            row[name] = tuple(str(one) for one in self._json(row[name], list))
        row["closed"] = bool(row["closed"])
        if row["byte_order"] != "little":
            raise RecordingError(
                f"{self.path} was recorded on a {printable(row['byte_order'])}-endian host;"
                " this iptrec reads little-endian recordings only"
            )
        return Recorded(number, Facts(**row), file)

    @property
    def running(self) -> bool | None:
        """Whether it is still recorded; None where that cannot be told."""
        return not self.facts.closed and self._file.at_work

    def wait(self, at_most_s: float) -> None:
        """Until its recorder commits what has not been waited for, where that can be seen; at most so long."""
        end = time.monotonic() + at_most_s
        look_s = at_most_s if self._file.commits is None else _LOOK_S
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, look_s))
            before, self._commits = self._commits, self._file.commits
            if self._commits != before:
                break

    @property
    def size(self) -> int:
        """Its bytes, uncompressed."""
        with self._file.connected() as connection:
            pages, page = (
                connection.execute(f"PRAGMA page_{what}").fetchone()[0]
                for what in ("count", "size")
            )
        self._file.let_go()
        return int(pages) * int(page)

    @property
    def namespaces(self) -> list[Namespace]:
        """The namespaces."""
        rows = self._table("namespace")
        return [Namespace(row["id"], row["name"], row["inode"]) for row in rows]

    @property
    def recording_of(self) -> dict[int, int]:
        """Of which of `recordings` each namespace is, by its number; that one exists."""
        known = {one.id for one in self.recordings}
        found = {row["id"]: row["recording"] for row in self._table("namespace")}
        for namespace, recording in found.items():
            self._check_known("namespace", namespace, "recording", recording, known)
        return found

    def highest(self, table: str) -> int:
        """The highest number of a table's rows, 0 if there are none."""
        last = self._file.select(table, "ORDER BY id DESC LIMIT 1", {})
        return next((int(one["id"]) for one in last), 0)

    @property
    def lowest(self) -> int:
        """The lowest number of any row; 0 if that is higher."""
        tables = ("namespace", "stream", "chunk", "snapshot")
        some = (self._file.select(one, "ORDER BY id LIMIT 1", {}) for one in tables)
        return min([0, *(int(one["id"]) for first in some for one in first)])

    @property
    def streams(self) -> list[Stream]:
        """The streams; the namespace of each exists, and so does the stream of each chunk that is there."""
        self._check_chunks()
        known = {one.id for one in self.namespaces}
        rows = self._table("stream")
        for row in rows:
            self._check_known("stream", row["id"], "namespace", row["namespace"], known)
        return [Stream(**row | {"detail": self._json(row["detail"], dict)}) for row in rows]

    def _check_chunks(self) -> None:
        """Once: who reads the streams one by one does not come across chunks of none."""
        if self._owned:
            return
        query = "WHERE stream NOT IN (SELECT id FROM stream) ORDER BY id LIMIT 1"
        for row in self._file.select("chunk", query, {}):
            self._check_known("chunk", row["id"], "stream", row["stream"], set())
        self._file.let_go()
        self._owned = True

    @property
    def losses(self) -> list[Loss]:
        """The losses, in order; the stream of each exists, and none has less than no events."""
        known = {one.id for one in self.streams}
        losses = []
        for row in self._table("loss"):
            number = row.pop("id")
            self._check_known("loss", number, "stream", row["stream"], known)
            if row["events"] is not None and row["events"] < 0:
                raise self._file.damaged(f"loss {number} cannot have {row['events']} events")
            losses.append(Loss(**row))
        return losses

    @property
    def datagrams(self) -> int:
        """How many datagrams the chunks say that they hold."""
        with self._file.connected() as connection:
            (found,) = connection.execute("SELECT total(datagrams) FROM chunk").fetchone()
        self._file.let_go()
        return int(found)

    def chunk_sizes(self, stream: int, after: int = 0) -> list[tuple[int, int]]:
        """The chunks of a stream behind one, in order: their ids, and how many datagrams they say they hold."""
        query = "SELECT id, datagrams FROM chunk WHERE stream = ? AND id > ? ORDER BY id"
        with self._file.connected() as connection:
            rows = connection.execute(query, (stream, after))
            found = [(int(one), int(count)) for one, count in rows]
        self._file.let_go()
        return found

    def snapshots(
        self, *kinds: str, namespaces: Collection[int] | None = None
    ) -> Iterator[Snapshot]:
        """The snapshots (of some kinds, of some namespaces), in order of time; the namespace of each exists."""
        known = {one.id for one in self.namespaces}
        recent: dict[str, bytes] = {}  # states often come back
        room = _MAX_BLOBS
        for row in sorted(self._table("snapshot"), key=lambda row: (row["time_ns"], row["id"])):
            self._check_known("snapshot", row["id"], "namespace", row["namespace"], known)
            if kinds and row["kind"] not in kinds:
                continue
            if namespaces is not None and row["namespace"] not in namespaces:
                continue
            digest = row.pop("blob")
            content = recent.pop(digest, None)
            if content is None:
                try:
                    content = self._blob(digest, min(room, MAX_VALUE))
                except RecordingError:
                    if any(self._file.select("snapshot", "WHERE id = :id", {"id": row["id"]})):
                        raise
                    continue  # a ring let go of it meanwhile
                finally:
                    self._file.let_go()
                room -= len(content)
            recent[digest] = content
            while sum(map(len, recent.values())) > _REMEMBERED_BLOBS:
                del recent[next(iter(recent))]
            yield Snapshot(**row, content=content)

    def newest_snapshot(self) -> int:
        """See `Recording`."""
        return self.highest("snapshot")

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """The chunks (of a stream) with an id above ``after``, in order; their stream exists."""
        known = {one.id for one in self.streams}
        only = "" if stream is None else "AND stream = :stream"
        query = f"WHERE id > :after {only} ORDER BY id LIMIT 1"
        # One query a chunk: no read transaction stays open that would keep the writer from reusing
        # its write-ahead log.
        while rows := list(self._file.select("chunk", query, {"after": after, "stream": stream})):
            row = rows[0]
            if row["id"] <= after:  # a damaged tree finds what was not asked for, for ever
                raise self._file.damaged(f"chunk {row['id']} comes after chunk {after}")
            if row["stream"] not in known:  # it may have come after we looked
                known = {one.id for one in self.streams}
            self._check_known("chunk", row["id"], "stream", row["stream"], known)
            yield self._chunk(row)
            after = row["id"]
        self._file.let_go()

    def _chunk(self, row: Row) -> Chunk:
        from iptrec.recording.packing import unpack  # noqa: PLC0415 - numpy, which names alone do not need

        name = f"chunk {row['id']}"
        raw = self._unpacked(name, row, MAX_VALUE)
        try:
            unpacked = unpack(raw, row["datagrams"], row["first_ns"], noted=bool(row["noted"]))
        except ValueError as error:
            raise self._file.damaged(f"{name}: {error}") from None
        received_ns, lengths, data, notes = unpacked
        if (received_ns[0], received_ns[-1]) != (row["first_ns"], row["last_ns"]):
            raise self._file.damaged(f"{name} has other receive times than it says")
        return Chunk(row["id"], row["stream"], received_ns, lengths, data, notes)

    def _blob(self, digest: str, room: int) -> bytes:
        name = f"blob {digest[:12]}"
        for row in self._file.select("blob", "WHERE sha256 = :digest", {"digest": digest}):
            content = self._unpacked(name, row, room)
            if hashlib.sha256(content).hexdigest() == digest:
                return content
        raise self._file.damaged(f"{name} is missing or not what it was")

    def _unpacked(self, name: str, row: Row, room: int) -> bytes:
        encoding, size, data = row["encoding"], row["size"], row["data"]
        if encoding != "zstd":
            raise self._file.damaged(f"{name} has an unknown encoding {encoding[:20]!r}")
        if size < 0:
            raise self._file.damaged(f"{name} cannot have {size} bytes")
        if size > room:
            raise RecordingError(
                f"{self.path} holds more than can be read: {name} has {size:,} bytes, {room:,} are left"
            )
        try:
            if zstd.declared(data) != size:
                raise self._file.damaged(f"{name} does not have the size that it declares")
            return zstd.unpack(data, size)
        except (zstd.ZstdError, MemoryError) as error:
            raise self._file.damaged(f"{name} cannot be unpacked ({error})") from None

    def _table(self, table: str) -> list[Row]:
        """All rows of a small table, in order."""
        rows = []
        room = _MAX_TEXT
        for row in self._file.select(table, "ORDER BY id", {}):
            rows.append(row)
            room -= sum(len(value) for value in row.values() if isinstance(value, str))
            if len(rows) > _MAX_ROWS or room < 0:
                raise self._file.damaged(f"there is too much in its table {table}")
        self._file.let_go()
        return rows

    def _check_known(
        self, table: str, number: int, of: str, reference: int, known: set[int]
    ) -> None:
        if reference not in known:
            raise self._file.damaged(
                f"{table} {number} belongs to a {of} {reference} that is not there"
            )

    def _json(self, text: str, kind: type[Any]) -> Any:  # noqa: ANN401 - JSON
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # no lone surrogates
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise self._file.damaged(f"{text[:40]!r} is not a JSON {kind.__name__}")
        return value
