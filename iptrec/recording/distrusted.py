"""A stranger's SQLite file, opened read-only with its schema distrusted.

Only our own plain tables are accepted, and every value's type is checked. A file that is still being written
can be looked at again and again; in between it is let go, so that the writer can end it as one single file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import sqlite3
import stat
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

from iptrec import descriptors
from iptrec.errors import AbandonedError, RecordingError, strerror
from iptrec.names import counted
from iptrec.recording import at_work, private
from iptrec.recording.compressed import PART, is_compressed, unpacked
from iptrec.recording.schema import APPLICATION_ID, FORMAT, NEWEST, SCHEMAS
from iptrec.recording.spooled import is_pipe, spooled
from iptrec.recording.upgrade import Row, upgraded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")
MAX_VALUE: Final = 64 << 20  # bytes unpacked, of a chunk or a snapshot; none is longer packed
_TYPES: Final = {"INTEGER": int, "TEXT": str, "BLOB": bytes}
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE + (1 << 20),
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 16,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_PRAGMAS: Final = ("query_only = 1", "trusted_schema = 0", "cell_size_check = 1", "mmap_size = 0")
_WAL_MAGIC: Final = 0x377F0682
_PAGE_SIZES: Final = frozenset(1 << bits for bits in range(9, 17))
_COMMIT_S: Final = 0.01  # for a commit
_USELESS_SHM: Final = (
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
)  # fmt: skip


class Distrusted:
    """An open file; see `Reader`. All methods raise `RecordingError` for what is not a recording."""

    def __init__(self, path: str | Path, held: int | None = None) -> None:
        self.path = Path(path)
        self._held = held
        self.closed = False
        self._connection: sqlite3.Connection | None = None
        self.version = FORMAT
        self._shared = False  # the connection, with a recorder
        self._check_file()
        unnamed = not self.path.stat().st_nlink  # of `spooled`
        # SQLite, too, looks for its neighbours there.
        self._given = self.path if unnamed else self.path.resolve()
        self._file = self._given
        with self.translating(), contextlib.ExitStack() as stack:
            if is_pipe(self.path):
                self._file = stack.enter_context(spooled(self.path))
            if held is None and is_compressed(self._file):
                self._file = stack.enter_context(unpacked(self._file, self.path))
            if not self._file.stat().st_nlink:  # its name goes as soon as it is open
                made = stack.enter_context(private.named(recording=self._file))
                self._file = made / "recording"
            self._connect()

    @property
    def at_work(self) -> bool | None:
        """Whether its recorder is; None where that cannot be told."""
        return (
            at_work.is_recording(self._given) if self._held is None else at_work.is_held(self._held)
        )

    @property
    def commits(self) -> int | None:
        """A number that every commit of its writer changes; None where each look is a connection of its own."""
        if self._connection is None:
            return None
        with self.translating():
            (number,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(number)

    @contextlib.contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection, for one look."""
        with self.translating():
            yield self._connection or self._connect()

    def select(self, table: str, which: str, parameters: dict[str, Any]) -> Iterator[Row]:
        """Rows in today's format, the type of each value as its table says."""
        columns = _layout(self.version).columns.get(table)
        if columns is None:
            return  # the file is older than the table
        names = ", ".join(column.name for column in columns)
        with self.connected() as connection:
            query = f"SELECT {names} FROM {table} {which}"  # noqa: S608 - our own words
            for values in self._waiting(lambda: connection.execute(query, parameters)):
                for column, value in zip(columns, values, strict=True):
                    if not (isinstance(value, column.type) or (value is None and column.nullable)):
                        raise self.damaged(f"{table}.{column.name} holds a {type(value).__name__}")
                yield upgraded(
                    self.version,
                    table,
                    {column.name: value for column, value in zip(columns, values, strict=True)},
                )

    def _waiting(self, attempt: Callable[[], _T]) -> _T:
        """What ``attempt`` gives; SQLite may take the log of a recorder that commits or ends for broken."""
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                readonly = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY
                if self._held is None or not readonly:
                    raise
                if not self.at_work:
                    raise AbandonedError(
                        f"the recorder of {self.path} left it unfinished"
                    ) from None
                time.sleep(_COMMIT_S)

    def _check_file(self) -> None:
        # Never opened here: closing a descriptor of our own would drop the locks that SQLite holds on
        # the same file in this process (fcntl(2)).
        try:
            mode = self.path.stat().st_mode
        except OSError as error:
            raise RecordingError(
                f"cannot open {self.path}: {strerror(error)}{self._hint()}"
            ) from None
        if stat.S_ISDIR(mode):
            raise RecordingError(f"cannot open {self.path}: {os.strerror(errno.EISDIR)}")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise RecordingError(f"cannot open {self.path}: it is not a regular file")
        effective = os.access in os.supports_effective_ids
        if not os.access(self.path, os.R_OK, effective_ids=effective):
            raise RecordingError(
                f"cannot open {self.path}: {os.strerror(errno.EACCES)}; ask its owner"
            )

    def _hint(self) -> str:
        """Where what is looked for may be: a recorder that was killed has not compressed it."""
        name = self.path.name.removesuffix(".gz")
        part = self.path.with_name(name.removesuffix(".db") + PART)
        with contextlib.suppress(OSError):  # a directory that nobody lets us look into
            if part.is_file():
                return f"; {part} is there, not compressed yet"
        return ""

    def _connect(self) -> sqlite3.Connection:
        """Open the file in the way that its neighbours on the disk allow, and leave these as they are."""
        self.require_open()
        if self._held is not None:  # its writer is at work
            return self._waiting(lambda: self._connect_as("readonly_shm=1"))
        wal, shm = (Path(f"{self._file}{suffix}") for suffix in ("-wal", "-shm"))
        self._shared = wal.exists()
        if not self._shared:
            # Nobody writes: no lock and no -shm is needed, so that a read-only directory will do.
            return self._connect_whole()
        try:
            return self._connect_beside(wal, shm)
        except FileNotFoundError:  # the recorder has just ended it as one single file
            self._shared = False
            return self._connect_whole()

    def _connect_whole(self) -> sqlite3.Connection:
        """Nothing is beside it: all of it is there, or it is a copy that was cut off."""
        connection = self._connect_as("immutable=1")
        pages, page = (
            int(connection.execute(f"PRAGMA page_{what}").fetchone()[0])
            for what in ("count", "size")
        )
        # SQLite notices that by itself, but for the last page, of which it takes zeros for what is missing.
        missing = pages * page - self._file.stat().st_size
        if missing > 0:
            self._disconnect()
            raise self.damaged(f"it lacks its last {counted(missing, 'byte')}; copy it again")
        return connection

    def _connect_beside(self, wal: Path, shm: Path) -> sqlite3.Connection:
        # What the recorder shares with us; where it was killed, SQLite reads the -wal by itself.
        if _are_of_one(self._file, wal, shm) and _begins_well(wal):
            try:
                return self._connect_as("readonly_shm=1")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _USELESS_SHM:
                    raise
        # SQLite would make a -shm, and might remove the -wal. The copy's names go as soon as it is open.
        self._shared = False
        with private.copied(self._file, wal) as copy:
            self._file = copy
            return self._connect_as("")

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
        for one in descriptors.ALL.iterdir():
            with contextlib.suppress(OSError):
                if one.name != str(self._held) and os.path.samestat(os.fstat(int(one.name)), held):
                    return
        raise RecordingError(f"{self.path} is another file by now: somebody moved the recording")

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise RecordingError(f"{self.path} is not an iptrec recording")
        if version > NEWEST:
            raise RecordingError(
                f"{self.path} was recorded by a newer iptrec (format {version}, this one reads up to"
                f" {NEWEST}): update iptrec"
            )
        if version not in SCHEMAS:
            raise self.damaged(f"there is no format {version}")
        self.version = version
        expected = _layout(version).objects
        found = set()
        for kind, name, definition in _objects(connection):
            if (kind, name, definition) not in expected:
                raise self.damaged(f"it has a {kind} {name} that no recording has")
            found.add((kind, name, definition))
        if missing := expected - found:
            raise self.damaged(f"it has no {' '.join(min(missing)[:2])}")

    def let_go(self) -> None:
        """Disconnect from a file that was being written: what comes is not in the connection once it ends."""
        if self._shared:
            self._disconnect()

    def close(self) -> None:
        """Let go of the file for good."""
        self.closed = True
        self._disconnect()

    def require_open(self) -> None:
        """Raise `RecordingError` after `close`."""
        if self.closed:
            raise RecordingError(f"{self.path} was closed; open it again")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """What SQLite and the system find wrong, as a `RecordingError` that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RecordingError(f"cannot read {self.path}: {printable(error)}") from None
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise RecordingError(f"{self.path} is not an iptrec recording") from None
            raise self.damaged(str(error)) from None
        except OSError as error:
            raise RecordingError(
                f"cannot read {error.filename or self.path}: {strerror(error)}"
            ) from None
        except (OverflowError, MemoryError):
            raise self.damaged("a value in it is too large") from None
        except UnicodeDecodeError:  # in SQLite's message
            raise self.damaged("its schema is not a text") from None

    def damaged(self, fact: str) -> RecordingError:
        """The error that says so."""
        return RecordingError(f"recording {self.path} is damaged: {printable(fact)}")


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


def printable(fact: object) -> str:
    """One line of a terminal, whatever a stranger put into the file."""
    return ascii(str(fact)[:200])[1:-1]
