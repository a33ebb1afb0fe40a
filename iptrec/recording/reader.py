"""Reads a recording, and nothing but reads: it may come from a stranger.

The database is opened read-only with its schema distrusted; only plain tables of our own definition are
accepted, every value's type and size is checked, and no more is unpacked than a chunk declares.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import numpy as np
import zstandard

from iptrec.errors import RecordingError
from iptrec.recording.rows import Chunk, Facts, Loss, Namespace, Snapshot, Stream
from iptrec.recording.schema import APPLICATION_ID, FORMAT, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_CHUNK: Final = 64 << 20
_MAX_BLOB: Final = 256 << 20
_MAX_ROWS: Final = 100_000  # of the small tables
_TYPES: Final = {"i": int, "t": str, "b": bytes}
_HEADER: Final = b"SQLite format 3\0"


class Reader:
    """An open recording; a context manager. Raises `RecordingError` for whatever is no recording."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _check_header(self.path)
        try:
            # Without a write-ahead log beside it nothing will change: no lock, no -shm is needed.
            wal = Path(f"{self.path}-wal")
            mode = "ro" if wal.exists() else "ro&immutable=1"
            self._connection = sqlite3.connect(
                f"file:{quote(str(self.path.absolute()))}?mode={mode}",
                uri=True,
                isolation_level=None,
            )
        except sqlite3.Error as error:
            raise RecordingError(f"cannot open {self.path}: {error}") from None
        try:
            with self._told():
                self._distrust()
                self._check_schema()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def facts(self) -> Facts:
        """The recording itself, as the file says it now."""
        for row in self._rows(
            "SELECT uuid, iptrec, kernel, host, command, filter, families, interfaces, snaplen,"
            " started_ns, started_monotonic_ns, byte_order, stopped_ns, stop_reason, closed FROM recording",
            "tttttTttiiitITi",
        ):
            uuid, version, kernel, host = row[:4]
            command, families, interfaces = map(self._texts, (row[4], row[6], row[7]))
            snaplen, started, monotonic, order, stopped, reason, closed = row[8:]
            if order != "little":
                raise RecordingError(
                    f"{self.path} was recorded on a {order}-endian host, which cannot be read yet"
                )
            return Facts(
                uuid, version, kernel, host, command, row[5], families, interfaces, snaplen, started,
                monotonic, order, stopped, reason, bool(closed),
            )  # fmt: skip
        raise self._damaged("it has no row about the recording")

    @property
    def namespaces(self) -> list[Namespace]:
        """The namespaces."""
        return [
            Namespace(*row) for row in self._rows("SELECT id, name, inode FROM namespace", "iTi")
        ]

    @property
    def streams(self) -> list[Stream]:
        """The streams."""
        return [
            Stream(number, namespace, kind, self._json(detail, dict))
            for number, namespace, kind, detail in self._rows(
                "SELECT id, namespace, kind, detail FROM stream", "iitt"
            )
        ]

    @property
    def losses(self) -> list[Loss]:
        """The losses, in order."""
        return [
            Loss(*row)
            for row in self._rows(
                "SELECT stream, first_ns, last_ns, events, how FROM loss ORDER BY id", "iiiIt"
            )
        ]

    def snapshots(self) -> list[Snapshot]:
        """The snapshots with their contents, in order."""
        contents: dict[str, bytes] = {}
        total = 0
        result = []
        for number, namespace, kind, time_ns, source, digest in self._rows(
            "SELECT id, namespace, kind, time_ns, source, blob FROM snapshot ORDER BY id", "iititt"
        ):
            if digest not in contents:
                contents[digest] = self._blob(digest)
                total += len(contents[digest])
                if total > _MAX_BLOB:
                    raise self._damaged(f"its snapshots are larger than {_MAX_BLOB >> 20} MiB")
            result.append(Snapshot(number, namespace, kind, time_ns, source, contents[digest]))
        return result

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """The chunks (of a stream) with an id above ``after``, in order."""
        query = (
            "SELECT id, stream, first_ns, datagrams, encoding, size, data FROM chunk WHERE id > ?"
        )
        if stream is not None:
            query += " AND stream = ?"
        parameters = (after,) if stream is None else (after, stream)
        with self._told():
            cursor = self._connection.execute(query + " ORDER BY id", parameters)
        while True:
            with self._told():
                row = cursor.fetchone()
            if row is None:
                return
            self._check_types(row, "iiiitib")
            yield self._chunk(*row)

    def _chunk(
        self,
        number: int,
        stream: int,
        first_ns: int,
        count: int,
        encoding: str,
        size: int,
        data: bytes,
    ) -> Chunk:
        name = f"chunk {number}"
        raw = self._unpacked(name, encoding, size, data, _MAX_CHUNK)
        if not 0 <= count * 12 <= len(raw):
            raise self._damaged(f"{name} cannot hold {count} datagrams")
        lengths = np.frombuffer(raw, "<u4", count)
        steps = np.frombuffer(raw, "<i8", count, count * 4)
        body = raw[count * 12 :]
        if int(lengths.sum(dtype=np.uint64)) != len(body):
            raise self._damaged(f"the datagrams of {name} do not fill it")
        return Chunk(number, stream, first_ns + np.cumsum(steps), lengths, body)

    def _blob(self, digest: str) -> bytes:
        for encoding, size, data in self._rows(
            "SELECT encoding, size, data FROM blob WHERE sha256 = ?", "tib", digest
        ):
            content = self._unpacked(f"blob {digest[:12]}", encoding, size, data, _MAX_BLOB)
            if hashlib.sha256(content).hexdigest() == digest:
                return content
        raise self._damaged(f"blob {digest[:12]} is missing or not what it was")

    def _unpacked(self, name: str, encoding: str, size: int, data: bytes, limit: int) -> bytes:
        if encoding != "zstd" or not 0 <= size <= limit:
            raise self._damaged(f"{name} has encoding {encoding!r} and size {size!r}")
        try:
            parameters = zstandard.get_frame_parameters(data)
            if parameters.content_size != size or parameters.window_size > limit:
                raise self._damaged(f"{name} does not have the size that it declares")
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
        except (zstandard.ZstdError, TypeError, MemoryError) as error:
            raise self._damaged(f"{name} cannot be unpacked ({error})") from None

    def _distrust(self) -> None:
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_BLOB + (1 << 20))
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for pragma in (
            "query_only = 1",
            "trusted_schema = 0",
            "cell_size_check = 1",
            "mmap_size = 0",
        ):
            self._connection.execute(f"PRAGMA {pragma}")

    def _check_schema(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise RecordingError(f"{self.path} is not an iptrec recording")
        if version > FORMAT:
            raise RecordingError(
                f"{self.path} was recorded by a newer iptrec (format {version}, this one reads up to"
                f" {FORMAT}): update iptrec"
            )
        if version < FORMAT:
            raise self._damaged(f"there is no format {version}")
        expected = _definitions(SCHEMA)
        found: dict[str, str] = {}
        for kind, name, sql in self._connection.execute(
            "SELECT type, name, sql FROM sqlite_schema"
        ).fetchmany(_MAX_ROWS):
            if kind == "index" and str(name).startswith("sqlite_autoindex_") and sql is None:
                continue
            if kind != "table" or not isinstance(sql, str):
                raise self._damaged(f"it has a {kind} {name}, which no recording has")
            found |= _definitions(sql + ";")
        if found != expected:
            raise self._damaged("its tables are not those of a recording")

    def _rows(self, query: str, types: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows; ``types`` as `_check_types` has them."""
        with self._told():
            rows = self._connection.execute(query, parameters).fetchmany(_MAX_ROWS + 1)
        if len(rows) > _MAX_ROWS:
            raise self._damaged(f"it has more than {_MAX_ROWS} rows for {query!r}")
        for row in rows:
            self._check_types(row, types)
        return rows

    def _check_types(self, row: tuple[Any, ...], types: str) -> None:
        """One letter a column: i integer, t text, b blob; a capital one may be NULL.

        STRICT tables promise as much, but somebody may have edited the file's pages.
        """
        for value, letter in zip(row, types, strict=True):
            if not isinstance(value, _TYPES[letter.lower()]) and (
                value is not None or letter.islower()
            ):
                raise self._damaged(f"{str(value)[:40]!r} stands where {letter} belongs")

    def _texts(self, text: str) -> tuple[str, ...]:
        return tuple(str(one) for one in self._json(text, list))

    def _json(self, text: str, kind: type[Any]) -> Any:  # noqa: ANN401 - JSON
        try:
            value = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise self._damaged(f"{str(text)[:40]!r} is no JSON {kind.__name__}")
        return value

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, fact: str) -> RecordingError:
        # sqlite quotes the file in its messages
        return RecordingError(f"recording {self.path} is damaged: {' '.join(fact.split())[:200]}")


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
    except OSError as error:
        raise RecordingError(f"cannot open {path}: {error.strerror}") from None
    if header != _HEADER:
        raise RecordingError(f"{path} is not an iptrec recording")


def _definitions(sql: str) -> dict[str, str]:
    """Each table's definition without comments and blanks; STRICT tables hold their types."""
    bare = re.sub(r"\s+", " ", re.sub(r"--[^\n]*", "", sql))
    statements = [statement.strip() for statement in bare.split(";") if statement.strip()]
    return {statement.split("(")[0]: statement for statement in statements}
