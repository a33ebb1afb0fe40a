"""Writes a recording: datagrams in compressed chunks, everything else in small rows.

What was committed survives a crash of the recorder and of the host; `Writer.commit` is to be called when
it is due (`Writer.pace`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from iptrec.errors import RecordingError
from iptrec.files import Draft
from iptrec.recording.chunks import Waiting
from iptrec.recording.home import Home, creating, described, is_changeable, leave_log
from iptrec.recording.kinds import SNAPSHOTS, STREAMS
from iptrec.recording.pace import Pace
from iptrec.recording.ring import Ring
from iptrec.recording.schema import APPLICATION_ID, FORMAT, SCHEMA
from iptrec.recording.zstd import Packer

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from iptrec.recording.packing import Notes
    from iptrec.recording.rows import Facts, Loss

_ZSTD_LEVEL: Final = 3
_HEAD: Final = (
    f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; {SCHEMA}"
)
# A -wal that grew longer while somebody read is cut when it is used again.
_WAL_BYTES: Final = 8 << 20


class Blob(NamedTuple):
    """A content, ready to be written; made in any thread."""

    sha256: str
    encoding: str
    size: int
    data: bytes

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Hash and compress."""
        data = Packer(_ZSTD_LEVEL).pack(content)
        return cls(hashlib.sha256(content).hexdigest(), "zstd", len(content), data)


class Writer:
    """An open recording; `create` makes one.

    As a context manager that is left without `close` it keeps what was appended, and the recording
    says of itself that it was cut off; where it is not to stay (``keeps``) an error takes it away. All methods
    raise `RecordingError` when the file cannot be written (disk full, I/O); it stays readable, with
    everything that was committed before. Without events it does not stay then: it would read as if no packet
    had been traced.

    ``pace``: when a `commit` is due.
    ``descriptor``: of the file, to be read, as long as this is open. ``datagrams``, ``raw_bytes``: what was
    appended. ``stored_bytes``, ``snapshot_bytes``: of chunks, of snapshots in the file. ``size``: of the file,
    bytes, once it is closed.
    """

    def __init__(self, home: Home) -> None:
        self.path = home.path
        self.keeps = True
        self.pace = Pace()
        self.datagrams = 0
        self.raw_bytes = 0
        self.stored_bytes = 0
        self.snapshot_bytes = 0
        self.size = 0
        self._together = False
        self._event_streams: set[int] = set()
        self._stores_events = self._holds_events = False  # not committed perhaps; committed
        self._failed = False
        self._home = home
        self._ended = False
        self._connection = home.connect()
        self._ring = Ring(self._connection)
        self.descriptor = home.open_to_read()
        # A commit outlives a power loss, too. Five a second cost nothing that can be measured.
        for statement in ("synchronous = FULL", f"journal_size_limit = {_WAL_BYTES}"):
            self._connection.execute(f"PRAGMA {statement}")
        self._waiting = Waiting()

    @classmethod
    def create(cls, path: Path, facts: Facts, *, force: bool = False) -> Self:
        """Make the file, mode 0600, owned by the user behind sudo.

        Raises `RecordingError`: it exists (without ``force``) or is not a regular file, the directory is
        missing or not writable, others could put another file in its place, the disk is full. Nothing is
        left behind then.
        """
        home = Home(path, _content(facts), force=force)
        try:
            with creating(path):
                return cls(home)
        except BaseException:
            home.remove()
            home.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ended:
            return
        if kind is None or self._stays:
            with contextlib.suppress(RecordingError):
                self.commit()
        if kind is not None and not self._stays:
            self._home.remove()
        self._end()

    def add_namespace(self, name: str | None, inode: int) -> int:
        """Add a namespace; returns its id."""
        with self._transaction():
            return self._insert("namespace", name=name, inode=inode)

    def add_stream(self, namespace: int, kind: str, detail: dict[str, Any]) -> int:
        """Add a stream of a kind of `kinds.STREAMS`; returns its id."""
        with self._transaction():
            stream = self._insert(
                "stream", namespace=namespace, kind=STREAMS[kind].name, detail=json.dumps(detail)
            )
        if STREAMS[kind].events:
            self._event_streams.add(stream)
        self._ring.add_stream(stream, kind)
        return stream

    def add_snapshot(
        self,
        namespace: int,
        kind: str,
        time_ns: int,
        source: str,
        content: bytes | Blob,
        after_ns: int | None = None,
        media: str | None = None,
    ) -> int:
        """Add a snapshot of a kind of `kinds.SNAPSHOTS`; a content that is there already is stored once.

        ``media``: where it is not written as that kind is.
        """
        media = media or SNAPSHOTS[kind].media
        blob = content if isinstance(content, Blob) else Blob.of(content)
        with self._transaction():
            added = self._connection.execute(
                "INSERT OR IGNORE INTO blob VALUES (:sha256, :encoding, :size, :data)",
                blob._asdict(),
            ).rowcount
            self.snapshot_bytes += added * len(blob.data)
            if after_ns is not None:
                self._ring.add_state(added * len(blob.data))
            return self._insert(
                "snapshot", namespace=namespace, kind=kind, media=media, time_ns=time_ns,
                after_ns=after_ns, source=source, blob=blob.sha256,
            )  # fmt: skip

    def add_loss(self, loss: Loss) -> None:
        """Note a loss."""
        with self._transaction():
            self._insert("loss", **asdict(loss))

    def append(
        self,
        stream: int,
        received_ns: int,
        lengths: npt.NDArray[np.uint32],
        data: bytes | bytearray | memoryview,
        notes: Notes | None = None,
    ) -> None:
        """Add datagrams that were received together; they are in the file after `commit`.

        ``lengths``: shape (n,), bytes of each; ``data``: the datagrams back to back. Both are copied.
        ``notes``: of them; either all of a stream have some, or none.
        """
        if not len(lengths):
            return
        if self.pace.since_ns is None:
            self.pace.since_ns = time.monotonic_ns()
        self._waiting.append(stream, received_ns, lengths, data, notes)
        self.datagrams += len(lengths)
        self.raw_bytes += len(data)
        if self._waiting.enough:
            self._store()
            if self.pace.due:
                self.commit()

    @property
    def files(self) -> dict[str, os.stat_result]:
        """The recording and what is beside it by their names, as long as this is open."""
        return self._home.files

    @property
    def followed(self) -> bool:
        """Whether somebody waits for what is written."""
        return self._home.followed

    @property
    def event_bytes(self) -> int:
        """Of chunks in the file, what `trim` may take."""
        return self._ring.event_bytes

    @property
    def file_bytes(self) -> int:
        """About the size that the file will have when it is closed: what waits is not in it yet."""
        return self.stored_bytes + self.snapshot_bytes

    @property
    def _stays(self) -> bool:
        """Whether an error leaves the file."""
        return self.keeps and (self._holds_events or not self._failed)

    def commit(self) -> None:
        """Put all that was appended into the file."""
        if self.pace.since_ns is None:
            return
        begun = time.monotonic_ns()
        self._check_place()
        with self._transaction():
            self._store()
        self.pace.took_ns = time.monotonic_ns() - begun

    def _store(self) -> None:
        """Make chunks of what was appended. They are committed later: each commit waits for the disk."""
        with self._translating():
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            for chunk in self._waiting.chunks():
                added = self._insert("chunk", **chunk._asdict())
                self.stored_bytes += len(chunk.data)
                self._ring.add_chunk(chunk.stream, added, len(chunk.data))
                self._stores_events |= chunk.stream in self._event_streams
        self._waiting.clear()

    def trim(self, *, most_bytes: int | None = None, lasts_ns: int | None = None) -> bool:
        """Let go of the oldest events: what is more than ``most_bytes``, or was received longer ago.

        The space is used again: the file does not grow. With the events go the losses of that time, and
        states of tables that had been replaced by then. Where the states are more than ``most_bytes`` the
        oldest go, together with the events of their time. Changes of interfaces stay.

        Nothing goes before it is worth while: so this may be called each second, however much stays. Returns
        whether any event went.
        """
        cut = self._ring.cut(most_bytes=most_bytes, lasts_ns=lasts_ns)
        events = 0
        if cut is not None:
            with self._transaction():
                events, contents = self._ring.let_go(cut)
                self.stored_bytes -= events
                self.snapshot_bytes -= contents
        return events > 0

    def copy(self, path: Path, stopped_ns: int, reason: str) -> None:
        """Everything so far as a recording of its own, closed; this one goes on."""
        self.commit()
        with self._translating():
            _copy(self._connection, path, stopped_ns, reason)

    def close(self, stopped_ns: int, reason: str) -> None:
        """End the recording cleanly.

        One single file is left, unless somebody keeps reading it: then that file is whole by itself,
        and the -wal beside it is empty.
        """
        self._check_place()
        self.commit()
        with self._transaction():
            self._connection.execute(
                "UPDATE recording SET stopped_ns = ?, stop_reason = ?, closed = 1",
                (stopped_ns, _text(reason)),
            )
        with self._translating():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            leave_log(self._connection)
        self._end()

    def _end(self) -> None:
        """Let go of the file; one that was moved meanwhile gets what is only in the log."""
        with self._home.acting(), contextlib.suppress(sqlite3.Error):
            if not self._home.in_place:
                self._connection.rollback()
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with self._home.acting():
            self._connection.close()
        self.size = self._home.size
        self._ended = True  # also where Ctrl-C comes meanwhile: nothing is closed twice
        self._home.close()

    def _insert(self, table: str, **row: object) -> int:
        return _insert(self._connection, table, row)

    def _check_place(self) -> None:
        """SQLite would go on writing to a file that has no name any more, or another one."""
        if not self._home.in_place:
            raise RecordingError(
                f"cannot write {self.path}: somebody moved or deleted it while it was written"
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is added in it is committed at once: each commit waits for the disk."""
        with self._transaction():
            self._together = True
            try:
                yield
            finally:
                self._together = False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """What is done in it is committed together with the chunks that were stored before."""
        if self._together:
            yield
            return
        with self._translating():
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        self._holds_events = self._stores_events
        if not self._waiting:
            self.pace.since_ns = None

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            with self._home.acting():
                yield
        except sqlite3.Error as error:
            self._check_place()
            self._stores_events = self._holds_events
            # What is no OperationalError is about a row of ours; and from what is read-only nothing goes.
            ours = not isinstance(error, sqlite3.OperationalError)
            self._failed = not ours and is_changeable(self.path)
            log = f"{self.path.name}-wal"  # goes in the end, where there is room for what it has
            stays = f"what was committed before is kept in it and, if there is one, in {log}"
            kept = stays if self._stays else "no file is left"
            told = described(error, self.path)
            raise RecordingError(f"cannot write {self.path}: {told}; {kept}") from None


def _content(facts: Facts) -> bytes:
    """A recording of nothing, made in memory: what has a name on the disk always says what it is."""
    row: dict[str, Any] = asdict(facts)
    for name in ("command", "families", "interfaces"):
        row[name] = json.dumps([_text(one) for one in row[name]])
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        memory.executescript(_HEAD)
        _insert(memory, "recording", {"id": 1, **row})
        memory.execute("COMMIT")
        return memory.serialize()


def _copy(recording: sqlite3.Connection, path: Path, stopped_ns: int, reason: str) -> None:
    """All rows of a recording in a new file, which has its name once it is whole."""
    with (
        creating(path),
        Draft(path, named=True) as draft,
        contextlib.closing(draft.connect()) as made,
    ):
        for statement in ("journal_mode = OFF", "locking_mode = EXCLUSIVE"):
            made.execute(f"PRAGMA {statement}")
        made.executescript(_HEAD)
        _copy_rows(recording, made)
        made.execute(
            "UPDATE recording SET stopped_ns = ?, stop_reason = ?, closed = 1",
            (stopped_ns, reason),
        )
        made.execute("COMMIT")
        draft.publish(replace=False)


def _copy_rows(recording: sqlite3.Connection, made: sqlite3.Connection) -> None:
    for (table,) in made.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        rows = recording.execute(f"SELECT * FROM {table}")  # noqa: S608 - our own tables
        places = ", ".join("?" * len(rows.description))
        made.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    """Add a row of a table of the schema; its id."""
    values = [_text(one) if isinstance(one, str) else one for one in row.values()]
    words = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608
    return connection.execute(words, values).lastrowid or 0


def _text(value: str) -> str:
    r"""Return a text that SQLite takes: what is not UTF-8 (in argv) is written as \xNN."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
