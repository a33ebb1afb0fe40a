"""Reads a recording, and nothing but reads: it may come from a stranger.

The database is opened read-only with its schema distrusted; only our own plain tables are accepted,
every value's type and size is checked, and no more is unpacked than a chunk declares. Memory stays
bounded by the limits below.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import sqlite3
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import quote

import zstandard

from iptrec.errors import RecordingError
from iptrec.recording import private
from iptrec.recording.compressed import is_compressed, unpacked
from iptrec.recording.packing import unpack
from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Snapshot, Stream
from iptrec.recording.schema import APPLICATION_ID, FORMAT, SCHEMAS
from iptrec.recording.upgrade import Row, upgraded

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_CHUNK: Final = 64 << 20  # bytes unpacked
_MAX_BLOB: Final = 64 << 20  # bytes unpacked
_MAX_BLOBS: Final = 4 << 30  # bytes unpacked, all snapshots, one after the other
_REMEMBERED_BLOBS: Final = 16 << 20  # bytes
_MAX_TEXT: Final = 64 << 20  # characters of all rows of a small table
_MAX_ROWS: Final = 100_000  # of a small table
_TYPES: Final = {"INTEGER": int, "TEXT": str, "BLOB": bytes}
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: _MAX_CHUNK + (1 << 20),
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 16,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_PRAGMAS: Final = ("query_only = 1", "trusted_schema = 0", "cell_size_check = 1", "mmap_size = 0")
_WAL_MAGIC: Final = 0x377F0682
_PAGE_SIZES: Final = frozenset(1 << bits for bits in range(9, 17))
_USELESS_SHM: Final = (
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
)  # fmt: skip


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
        self._held = held
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self._version = FORMAT
        self._check_file()
        self._file = self.path.resolve()  # SQLite, too, looks for its neighbours there
        with contextlib.ExitStack() as stack:
            if held is None and is_compressed(self.path):
                # Its name goes as soon as it is open: nothing can stay behind.
                self._file = stack.enter_context(unpacked(self.path))
            with self._told():
                self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file for good."""
        self._closed = True
        self._disconnect()

    def require_open(self) -> None:
        """Raise `RecordingError` after `close`."""
        if self._closed:
            raise RecordingError(f"{self.path} was closed; open it again")

    @property
    def facts(self) -> Facts:
        """The recording itself, as the file says it now."""
        rows = self._table("recording")
        if not rows:
            raise self._damaged("it has no row about the recording")
        row = rows[0]
        del row["id"]
        for name in ("command", "families", "interfaces"):
            row[name] = tuple(str(one) for one in self._json(row[name], list))
        row["closed"] = bool(row["closed"])
        if row["byte_order"] != "little":
            raise RecordingError(
                f"{self.path} was recorded on a {_printable(row['byte_order'])}-endian host;"
                " this iptrec reads little-endian recordings only"
            )
        return Facts(**row)

    @property
    def namespaces(self) -> list[Namespace]:
        """The namespaces."""
        return [Namespace(**row) for row in self._table("namespace")]

    @property
    def streams(self) -> list[Stream]:
        """The streams; the namespace of each exists."""
        known = {one.id for one in self.namespaces}
        rows = self._table("stream")
        for row in rows:
            self._check_known("stream", row["id"], "namespace", row["namespace"], known)
        return [Stream(**row | {"detail": self._json(row["detail"], dict)}) for row in rows]

    @property
    def losses(self) -> list[Loss]:
        """The losses, in order; the stream of each exists, and none has less than no events."""
        known = {one.id for one in self.streams}
        losses = []
        for row in self._table("loss"):
            number = row.pop("id")
            self._check_known("loss", number, "stream", row["stream"], known)
            if row["events"] is not None and row["events"] < 0:
                raise self._damaged(f"loss {number} cannot have {row['events']} events")
            losses.append(Loss(**row))
        return losses

    @property
    def datagrams(self) -> int:
        """How many datagrams the chunks say that they hold."""
        with self._told():
            connection = self._connection or self._connect()
            (found,) = connection.execute("SELECT total(datagrams) FROM chunk").fetchone()
        self._let_go()
        return int(found)

    def snapshots(self, *kinds: str) -> Iterator[Snapshot]:
        """The snapshots (of some kinds), in order of time; the namespace of each exists."""
        known = {one.id for one in self.namespaces}
        recent: dict[str, bytes] = {}  # states often come back
        room = _MAX_BLOBS
        for row in sorted(self._table("snapshot"), key=lambda row: (row["time_ns"], row["id"])):
            self._check_known("snapshot", row["id"], "namespace", row["namespace"], known)
            if kinds and row["kind"] not in kinds:
                continue
            digest = row.pop("blob")
            content = recent.pop(digest, None)
            if content is None:
                try:
                    content = self._blob(digest, min(room, _MAX_BLOB))
                except RecordingError:
                    if any(self._select("snapshot", "WHERE id = :id", {"id": row["id"]})):
                        raise
                    continue  # a ring let go of it meanwhile
                finally:
                    self._let_go()
                room -= len(content)
            recent[digest] = content
            while sum(map(len, recent.values())) > _REMEMBERED_BLOBS:
                del recent[next(iter(recent))]
            yield Snapshot(**row, content=content)

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """The chunks (of a stream) with an id above ``after``, in order; their stream exists."""
        known = {one.id for one in self.streams}
        only = "" if stream is None else "AND stream = :stream"
        query = f"WHERE id > :after {only} ORDER BY id LIMIT 1"
        # One query a chunk: no read transaction stays open that would keep the writer from reusing
        # its write-ahead log.
        while rows := list(self._select("chunk", query, {"after": after, "stream": stream})):
            row = rows[0]
            if row["id"] <= after:  # a damaged tree finds what was not asked for, for ever
                raise self._damaged(f"chunk {row['id']} comes after chunk {after}")
            if row["stream"] not in known:  # it may have come after we looked
                known = {one.id for one in self.streams}
            self._check_known("chunk", row["id"], "stream", row["stream"], known)
            yield self._chunk(row)
            after = row["id"]
        self._let_go()

    def _chunk(self, row: Row) -> Chunk:
        name = f"chunk {row['id']}"
        raw = self._unpacked(name, row, _MAX_CHUNK)
        try:
            received_ns, lengths, data = unpack(raw, row["datagrams"], row["first_ns"])
        except ValueError as error:
            raise self._damaged(f"{name}: {error}") from None
        if (received_ns[0], received_ns[-1]) != (row["first_ns"], row["last_ns"]):
            raise self._damaged(f"{name} has other receive times than it says")
        return Chunk(row["id"], row["stream"], received_ns, lengths, data)

    def _blob(self, digest: str, room: int) -> bytes:
        name = f"blob {digest[:12]}"
        for row in self._select("blob", "WHERE sha256 = :digest", {"digest": digest}):
            content = self._unpacked(name, row, room)
            if hashlib.sha256(content).hexdigest() == digest:
                return content
        raise self._damaged(f"{name} is missing or not what it was")

    def _unpacked(self, name: str, row: Row, room: int) -> bytes:
        encoding, size, data = row["encoding"], row["size"], row["data"]
        if encoding != "zstd":
            raise self._damaged(f"{name} has an unknown encoding {encoding[:20]!r}")
        if size < 0:
            raise self._damaged(f"{name} cannot have {size} bytes")
        if size > room:
            raise RecordingError(
                f"{self.path} holds more than can be read: {name} has {size:,} bytes, {room:,} are left"
            )
        try:
            if zstandard.get_frame_parameters(data).content_size != size:
                raise self._damaged(f"{name} does not have the size that it declares")
            content: bytes = zstandard.ZstdDecompressor().decompress(
                data, max_output_size=size, allow_extra_data=False
            )
        except (zstandard.ZstdError, MemoryError) as error:
            raise self._damaged(f"{name} cannot be unpacked ({error})") from None
        return content

    def _table(self, table: str) -> list[Row]:
        """All rows of a small table, in order."""
        rows = []
        room = _MAX_TEXT
        for row in self._select(table, "ORDER BY id", {}):
            rows.append(row)
            room -= sum(len(value) for value in row.values() if isinstance(value, str))
            if len(rows) > _MAX_ROWS or room < 0:
                raise self._damaged(f"there is too much in its table {table}")
        self._let_go()
        return rows

    def _select(self, table: str, which: str, parameters: dict[str, Any]) -> Iterator[Row]:
        """Rows in today's format, the type of each value as its table says."""
        columns = _layout(self._version).columns.get(table)
        if columns is None:
            return  # the file is older than the table
        names = ", ".join(column.name for column in columns)
        with self._told():
            connection = self._connection or self._connect()
            for values in connection.execute(f"SELECT {names} FROM {table} {which}", parameters):  # noqa: S608 - our own words
                for column, value in zip(columns, values, strict=True):
                    if not (isinstance(value, column.type) or (value is None and column.nullable)):
                        raise self._damaged(f"{table}.{column.name} holds a {type(value).__name__}")
                yield upgraded(
                    self._version,
                    table,
                    {column.name: value for column, value in zip(columns, values, strict=True)},
                )

    def _check_file(self) -> None:
        # Never opened here: closing a descriptor of our own would drop the locks that SQLite holds on
        # the same file in this process (fcntl(2)).
        try:
            mode = self.path.stat().st_mode
        except OSError as error:
            raise RecordingError(f"cannot open {self.path}: {error.strerror}") from None
        if stat.S_ISDIR(mode):
            raise RecordingError(f"cannot open {self.path}: {os.strerror(errno.EISDIR)}")
        if not stat.S_ISREG(mode):
            raise RecordingError(f"cannot open {self.path}: it is no regular file")
        effective = os.access in os.supports_effective_ids
        if not os.access(self.path, os.R_OK, effective_ids=effective):
            raise RecordingError(
                f"cannot open {self.path}: {os.strerror(errno.EACCES)}; ask its owner"
            )

    def _connect(self) -> sqlite3.Connection:
        """Open the file in the way that its neighbours on the disk allow, and leave these as they are."""
        self.require_open()
        if self._held is not None:  # its writer is at work
            return self._connect_as("readonly_shm=1")
        wal, shm = (Path(f"{self._file}{suffix}") for suffix in ("-wal", "-shm"))
        if not wal.exists():
            # Nobody writes: no lock and no -shm is needed, so that a read-only directory will do.
            return self._connect_as("immutable=1")
        # What the recorder shares with us; where it was killed, SQLite reads the -wal by itself.
        if _are_of_one(self._file, wal, shm) and _begins_well(wal):
            try:
                return self._connect_as("readonly_shm=1")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _USELESS_SHM:
                    raise
        # SQLite would make a -shm, and might remove the -wal. The copy's names go as soon as it is open.
        try:
            with private.copied(self._file, wal) as self._file:
                return self._connect_as("")
        except FileNotFoundError:  # the recorder has just ended it as one single file
            return self._connect_as("immutable=1")

    def _connect_as(self, options: str) -> sqlite3.Connection:
        name = quote(os.fsencode(self._file.absolute()))
        connection = sqlite3.connect(
            f"file:{name}?mode=ro&{options}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._check_held()
            connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
            for limit, value in _LIMITS.items():
                connection.setlimit(limit, value)
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            self._check_schema(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _check_held(self) -> None:
        """SQLite opened the file by its name: is it the one that we hold?"""
        if self._held is None:
            return
        held = os.fstat(self._held)
        for one in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                if one.name != str(self._held) and os.path.samestat(one.stat(), held):
                    return
        raise RecordingError(f"{self.path} is another file by now: somebody moved the recording")

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise RecordingError(f"{self.path} is not an iptrec recording")
        if version > FORMAT:
            raise RecordingError(
                f"{self.path} was recorded by a newer iptrec (format {version}, this one reads up to"
                f" {FORMAT}): update iptrec"
            )
        if version not in SCHEMAS:
            raise self._damaged(f"there is no format {version}")
        self._version = version
        expected = _layout(version).objects
        found = set()
        for kind, name, definition in _objects(connection):
            if (kind, name, definition) not in expected:
                raise self._damaged(f"it has a {kind} {name} that no recording has")
            found.add((kind, name, definition))
        if missing := expected - found:
            raise self._damaged(f"it has no {' '.join(min(missing)[:2])}")

    def _let_go(self) -> None:
        """Disconnect from a file that may still be written."""
        if self._held is None and Path(f"{self._file}-wal").exists():
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _check_known(
        self, table: str, number: int, of: str, reference: int, known: set[int]
    ) -> None:
        if reference not in known:
            raise self._damaged(f"{table} {number} belongs to a {of} {reference} that is not there")

    def _json(self, text: str, kind: type[Any]) -> Any:  # noqa: ANN401 - JSON
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # no lone surrogates
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise self._damaged(f"{text[:40]!r} is no JSON {kind.__name__}")
        return value

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RecordingError(f"cannot read {self.path}: {_printable(error)}") from None
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise RecordingError(f"{self.path} is not an iptrec recording") from None
            raise self._damaged(str(error)) from None
        except OSError as error:
            raise RecordingError(
                f"cannot read {error.filename or self.path}: {error.strerror}"
            ) from None
        except (OverflowError, MemoryError, UnicodeDecodeError) as error:
            # The last one: Python cannot decode SQLite's message about a schema that is no text.
            raise self._damaged(str(error)) from None

    def _damaged(self, fact: str) -> RecordingError:
        return RecordingError(f"recording {self.path} is damaged: {_printable(fact)}")


class _Column(NamedTuple):
    name: str
    type: type
    nullable: bool


class _Layout(NamedTuple):
    """What a format's tables are: as `_objects` gives them, and their columns."""

    objects: frozenset[tuple[str, str, str]]
    columns: dict[str, list[_Column]]


@functools.cache
def _layout(version: int) -> _Layout:
    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(SCHEMAS[version])
        objects = frozenset(_objects(empty))
        columns = {
            table: [
                _Column(name, _TYPES[kind], not (not_null or key))
                for _, name, kind, not_null, _, key in empty.execute(f"PRAGMA table_info({table})")
            ]
            for kind, table, _ in objects
            if kind == "table"
        }
    return _Layout(objects, columns)


def _objects(connection: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """Tables, indexes, views and triggers: type, name, definition without comments and layout."""
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_schema"):
        bare = re.sub(r"--[^\n]*", "", str(sql or ""))
        yield str(kind), str(name), " ".join(bare.split())


def _are_of_one(*files: Path) -> bool:
    """Whether they are files of one owner; to that of the recording root's SQLite gives the others away."""
    try:
        found = [one.lstat() for one in files]
    except OSError:  # one is missing
        return False
    owners = {(one.st_uid, one.st_gid) for one in found}
    return len(owners) == 1 and all(stat.S_ISREG(one.st_mode) for one in found)


def _begins_well(wal: Path) -> bool:
    """Whether it is empty or begins as SQLite writes it (fileformat2.html#walformat); else that waits 10 s."""
    with private.opened(wal) as file:
        head = file.read(12)
    if len(head) < 12:  # noqa: PLR2004
        return not head
    magic, _, page = struct.unpack(">III", head)
    return magic & ~1 == _WAL_MAGIC and page in _PAGE_SIZES


def _printable(fact: object) -> str:
    """One line of a terminal, whatever a stranger put into the file."""
    return ascii(str(fact)[:200])[1:-1]
