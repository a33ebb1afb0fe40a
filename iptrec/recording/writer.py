"""Writes a recording: datagrams in compressed chunks, everything else in small rows.

What was committed survives a crash of the recorder; `commit` is to be called at least every 250 ms.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import zstandard
from sqlite_utils import Database

from iptrec.errors import RecordingError
from iptrec.recording.schema import APPLICATION_ID, FORMAT, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from iptrec.recording.rows import Facts, Loss

_CHUNK_BYTES = 1 << 20
_COMPANIONS = ("-wal", "-shm", "-journal")


class Writer:
    """An open recording. `create` makes one; leaving it as a context without `close` keeps what is
    committed and leaves the recording marked as cut off.
    """  # noqa: D205 - one idea

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.datagrams = 0
        self.stored_bytes = 0
        self._connection = connection
        self._database = Database(connection, execute_plugins=False)
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._pending: dict[int, _Pending] = {}

    @classmethod
    def create(
        cls, path: Path, facts: Facts, *, force: bool = False, owner: tuple[int, int] | None = None
    ) -> Self:
        """Make the file, mode 0600, owned by ``owner`` (uid, gid).

        Raises `RecordingError`: it exists (without ``force``) or is no regular file, the directory is
        missing or not writable, the disk is full.
        """
        _make_file(path, force=force, owner=owner)
        try:
            # Autocommit: transactions begin and end where this module says so.
            connection = sqlite3.connect(path, isolation_level=None)
            writer = cls(path, connection)
            writer._set_up(facts)
        except (sqlite3.Error, RecordingError) as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise RecordingError(f"cannot write {path}: {error}") from None
        if owner is not None:
            for companion in _COMPANIONS:
                with contextlib.suppress(FileNotFoundError):
                    os.chown(f"{path}{companion}", *owner)
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RecordingError):
            self.commit()
        self._connection.close()

    def add_namespace(self, name: str | None, inode: int) -> int:
        """Add a namespace; returns its id."""
        return self._insert("namespace", name=name, inode=inode)

    def add_stream(self, namespace: int, kind: str, detail: dict[str, Any]) -> int:
        """Add a stream; returns its id."""
        return self._insert("stream", namespace=namespace, kind=kind, detail=json.dumps(detail))

    def add_snapshot(
        self, namespace: int, kind: str, time_ns: int, source: str, content: bytes
    ) -> int:
        """Add a snapshot; a content that is there already is stored once."""
        digest = hashlib.sha256(content).hexdigest()
        with self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO blob VALUES (?, 'zstd', ?, ?)",
                (digest, len(content), self._compressor.compress(content)),
            )
            return self._insert(
                "snapshot",
                namespace=namespace,
                kind=kind,
                time_ns=time_ns,
                source=source,
                blob=digest,
            )

    def add_loss(self, loss: Loss) -> None:
        """Note a loss."""
        self._insert("loss", **asdict(loss))

    def append(
        self, stream: int, received_ns: int, lengths: npt.NDArray[np.uint32], data: bytes
    ) -> None:
        """Add datagrams that were received together; they are in the file after `commit`."""
        pending = self._pending.setdefault(stream, _Pending())
        pending.add(received_ns, lengths, data)
        self.datagrams += len(lengths)
        if pending.bytes >= _CHUNK_BYTES:
            self.commit()

    def commit(self) -> None:
        """Put all that was appended into the file."""
        if not any(pending.bytes for pending in self._pending.values()):
            return
        with self._transaction():
            for stream, pending in self._pending.items():
                if pending.bytes:
                    row = pending.packed(self._compressor)
                    self.stored_bytes += len(row[-1])
                    self._connection.execute(
                        "INSERT INTO chunk VALUES (NULL, ?, ?, ?, ?, 'zstd', ?, ?)", (stream, *row)
                    )
        self._pending.clear()

    def close(self, stopped_ns: int, reason: str) -> None:
        """End the recording cleanly: one single file is left."""
        self.commit()
        with self._transaction():
            self._connection.execute(
                "UPDATE recording SET stopped_ns = ?, stop_reason = ?, closed = 1",
                (stopped_ns, reason),
            )
        with self._told():
            # A reader that has the file open (show --follow) keeps the log until it goes; nothing is
            # lost by that.
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()

    def discard(self) -> None:
        """Take the file away again: nothing was recorded."""
        self._connection.close()
        for companion in ("", *_COMPANIONS):
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}{companion}")  # noqa: PTH108 - a suffix, not a path

    def _set_up(self, facts: Facts) -> None:
        with self._told():
            self._connection.executescript(
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                f"BEGIN; {SCHEMA} COMMIT;"
            )
        row: dict[str, Any] = asdict(facts)
        for name in ("command", "families", "interfaces"):
            row[name] = json.dumps(row[name])
        self._insert("recording", id=1, **row)

    def _insert(self, table: str, **row: object) -> int:
        with self._told():
            return self._database.table(table).insert(row).last_rowid or 0

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told():
            self._connection.execute("BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RecordingError(
                f"cannot write {self.path}: {error}; what was recorded before is kept"
            ) from None


class _Pending:
    """Datagrams that wait for their chunk."""

    def __init__(self) -> None:
        self.bytes = 0
        self._batches: list[tuple[int, npt.NDArray[np.uint32], bytes]] = []

    def add(self, received_ns: int, lengths: npt.NDArray[np.uint32], data: bytes) -> None:
        self._batches.append((received_ns, lengths.copy(), bytes(data)))
        self.bytes += len(data)

    def packed(self, compressor: zstandard.ZstdCompressor) -> tuple[int, int, int, int, bytes]:
        """first_ns, last_ns, datagrams, size, data of the chunk row."""
        times = np.repeat(
            np.array([received for received, _, _ in self._batches], "<i8"),
            [len(lengths) for _, lengths, _ in self._batches],
        )
        lengths = np.concatenate([lengths for _, lengths, _ in self._batches]).astype("<u4")
        steps = np.diff(times, prepend=times[0]).astype("<i8")
        raw = b"".join(
            [lengths.tobytes(), steps.tobytes(), *(data for _, _, data in self._batches)]
        )
        return int(times[0]), int(times[-1]), len(times), len(raw), compressor.compress(raw)


def _make_file(path: Path, *, force: bool, owner: tuple[int, int] | None) -> None:
    """An empty file of ours, mode 0600 from its first moment; never through a symbolic link."""
    try:
        if force and path.exists():
            if not stat.S_ISREG(path.lstat().st_mode):
                raise RecordingError(f"{path} is no regular file: refusing to overwrite it")
            for companion in ("", *_COMPANIONS):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{path}{companion}")  # noqa: PTH108 - a suffix, not a path
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise RecordingError(f"{path} exists; use --force to replace it, or another -o") from None
    except OSError as error:
        raise RecordingError(f"cannot create {path}: {error.strerror}") from None
    try:
        if owner is not None:
            os.fchown(descriptor, *owner)
    finally:
        os.close(descriptor)
