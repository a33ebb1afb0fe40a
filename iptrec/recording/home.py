"""The files of a recording that is being written: its own, and those that SQLite keeps beside it.

All are made here before SQLite opens them, and stay open: so none of a stranger's can be taken for one of
them, and all can be found again when somebody has moved the recording meanwhile. The recording has its name
from the moment on when it is one: whoever is killed leaves a recording, or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Final

from iptrec.errors import ANOTHER_OUTPUT, FORCE, RecordingError, strerror
from iptrec.files import Draft, Place, connect, held_twice, is_file
from iptrec.recording import at_work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path


_TO_LOG: Final = ("PRAGMA journal_mode = MEMORY", "PRAGMA journal_mode = WAL")
_LOG: Final = ("-wal", "-shm")
_READER_GONE_S: Final = 1.0  # a reader that follows holds the file for milliseconds at a time
_PRIMARY: Final = 0xFF  # of a result code of SQLite: which kind, but not where
# An empty -journal is none: while it is there nobody can have one of his own be taken for ours.
COMPANIONS: Final = (*_LOG, at_work.COMPANION)


class Home:
    """A recording's file, made of its first content, and its companions, empty.

    Raises `RecordingError`, nothing is left then: something is there (without ``force``) or not a regular file,
    the directory is missing or not writable or others can change it, the disk is full.
    """

    def __init__(self, path: Path, content: bytes, *, force: bool) -> None:
        self.path = path
        self._companions: dict[str, int] = {}
        self._open = contextlib.ExitStack()
        with creating(path), contextlib.ExitStack() as undo:
            undo.callback(self._open.close)
            self._draft = self._open.enter_context(Draft(path))
            self._draft.place.require_safe()
            with self._draft.stream() as file:
                file.write(content)
            os.fsync(self._draft.descriptor)
            at_work.hold(self._draft.descriptor)
            _make_room(self._draft.place, force=force)
            undo.callback(self.remove)
            self._draft.publish(replace=False)
            for suffix in COMPANIONS:
                descriptor = self._draft.place.make(f"{path.name}{suffix}")
                self._open.callback(os.close, descriptor)
                self._companions[f"{path.name}{suffix}"] = descriptor
            at_work.hold(self._companions[f"{path.name}{at_work.COMPANION}"])
            undo.pop_all()

    @property
    def in_place(self) -> bool:
        """Whether the recording still has its name, in the directory that it was made in."""
        return self._draft.in_place

    @property
    def followed(self) -> bool:
        """Whether somebody waits for what is written."""
        return at_work.is_followed(self._companions[f"{self.path.name}{at_work.COMPANION}"])

    @property
    def size(self) -> int:
        """Of the recording, in bytes."""
        return os.fstat(self._draft.descriptor).st_size

    def acting(self) -> AbstractContextManager[None]:
        """With the rights that its files are to be handled with."""
        return self._draft.place.acting()

    def connect(self) -> sqlite3.Connection:
        """SQLite on these very files, with a write-ahead log. Raises sqlite3.Error or `RecordingError`."""
        with self.acting():
            connection = connect(self.path, self._draft.descriptor)
            try:
                # To the log without a journal on the disk; one page changes. Then a look at it opens it.
                for statement in (*_TO_LOG, "BEGIN IMMEDIATE", "ROLLBACK"):
                    self._check_names()
                    connection.execute(statement)
                self._check_log()
            except BaseException:
                connection.close()
                raise
        return connection

    def open_to_read(self) -> int:
        """Another descriptor of the recording, closed with the rest: that takes away SQLite's locks."""
        with self.acting():
            found = os.open(f"/proc/self/fd/{self._draft.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        self._open.callback(os.close, found)
        return found

    def _check_names(self) -> None:
        """Before SQLite opens them: it fills the -shm at once, even if nothing of ours is in that."""
        place = self._draft.place
        names = [f"{self.path.name}{one}" for one in _LOG]
        if not all(is_file(place.status(one), self._companions[one]) for one in names):
            raise self._foreign()

    def _check_log(self) -> None:
        """Nothing was appended yet: it would go into somebody else's file."""
        if not all(held_twice(self._companions[f"{self.path.name}{one}"]) for one in _LOG):
            raise self._foreign()

    def _foreign(self) -> RecordingError:
        return RecordingError(f"cannot write {self.path}: somebody put another file beside it")

    @property
    def files(self) -> dict[str, os.stat_result]:
        """The recording and what is beside it by their names, while it is open."""
        return {name: os.fstat(descriptor) for name, descriptor in self._own.items()}

    @property
    def _own(self) -> dict[str, int]:
        return {self.path.name: self._draft.descriptor, **self._companions}

    def remove(self) -> None:
        """Take all files away that are still ours."""
        for name, descriptor in self._own.items():
            self._remove(name, descriptor)

    def close(self) -> None:
        """Let go of the files, after SQLite has; what it could not take away by name is taken away now."""
        left_over = bool(self._companions) and self._log_is_left_over()
        for name, descriptor in self._companions.items():
            if name.endswith(at_work.COMPANION) or left_over:
                self._remove(name, descriptor)
        self._companions = {}
        self._open.close()

    def _log_is_left_over(self) -> bool:
        """Whether the log belongs to nothing: the recording was moved away from it, or is whole."""
        if not self.in_place:
            return True
        with self.acting(), contextlib.suppress(OSError):
            if is_file(self.path.lstat(), self._draft.descriptor):
                return False
        return os.fstat(self._companions[f"{self.path.name}-wal"]).st_size == 0

    def _remove(self, name: str, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            if is_file(self._draft.place.status(name), descriptor):
                self._draft.place.unlink(name)


def remove(path: Path, made: Mapping[str, os.stat_result]) -> None:
    """Delete a recording, and what readers kept beside it, with these rights.

    ``made``: `Home.files`; only what is still one of these goes.
    """
    with contextlib.suppress(RecordingError, OSError), contextlib.closing(Place(path)) as place:
        for name, one in made.items():
            status = place.status(name)
            if status is not None and os.path.samestat(status, one):
                place.unlink(name)


def tidy(path: Path, made: Mapping[str, os.stat_result]) -> bool:
    """Take away the log that a reader kept of a closed recording; False while one still does.

    ``made``: as for `remove`; a file that is another one is let be.
    """
    with contextlib.ExitStack() as opened, contextlib.suppress(RecordingError, OSError):
        place = opened.enter_context(contextlib.closing(Place(path)))
        opened.enter_context(place.acting())
        found = {name: place.status(name) for name in made}
        logs = [one for name, one in found.items() if name != path.name and one is not None]
        foreign = [
            name for name, one in found.items() if one and not os.path.samestat(one, made[name])
        ]
        if foreign or not logs:
            return True
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(place.name, flags, dir_fd=place.directory)
        opened.callback(os.close, descriptor)
        with contextlib.closing(connect(path, descriptor)) as connection:
            try:
                connection.execute("PRAGMA journal_mode = MEMORY")
            except sqlite3.Error:
                return False
    return True


@contextlib.contextmanager
def creating(path: Path) -> Iterator[None]:
    """Errors about a file that is to be made, as one line."""
    try:
        yield
    except FileExistsError:
        raise RecordingError(f"{path} exists; use ", FORCE, " or ", ANOTHER_OUTPUT) from None
    except FileNotFoundError:
        raise RecordingError(f"cannot create {path}: {_missing(path)}", ANOTHER_OUTPUT) from None
    except OSError as error:
        raise RecordingError(
            f"cannot create {path}: {strerror(error)}; use ", ANOTHER_OUTPUT
        ) from None
    except sqlite3.Error as error:
        raise RecordingError(
            f"cannot create {path}: {described(error, path)}; use ", ANOTHER_OUTPUT
        ) from None


def described(error: sqlite3.Error, path: Path) -> str:
    """What SQLite says, and that the disk is full where it calls that an I/O error: as of the -shm."""
    if error.sqlite_errorcode & _PRIMARY == sqlite3.SQLITE_IOERR:
        with contextlib.suppress(OSError):
            if not os.statvfs(path.parent).f_bavail:
                return f"{error}: {os.strerror(errno.ENOSPC)}"
    return str(error)


def is_changeable(path: Path) -> bool:
    """Whether the file system takes changes, as it does not after an error (errors=remount-ro)."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def leave_log(connection: sqlite3.Connection) -> None:
    """Back to a single file; SQLite refuses at once while a reader is connected."""
    give_up = time.monotonic() + _READER_GONE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = MEMORY")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() > give_up:
                return
            time.sleep(0.01)
        else:
            return


def _missing(path: Path) -> str:
    """Why the system finds nothing where a file is to be made; up to what to use instead."""
    if path.is_dir():
        return "it is a directory; use "
    if path.parent.is_dir():  # such as /proc
        return f"no file can be made in {path.parent}; use "
    return f"there is no directory {path.parent}; make it or use "


def require_room(path: Path, *, force: bool) -> None:
    """Raise `RecordingError` where no recording can be made, as `Home` does; nothing is changed."""
    with creating(path), contextlib.closing(Place(path)) as place:
        place.require_safe()
        _in_the_way(place, force=force)


def clear_beside(path: Path) -> None:
    """Take away what SQLite has beside a recording that another one is about to replace: it is not of that."""
    with creating(path), contextlib.closing(Place(path)) as place:
        for name in _in_the_way(place, force=True):
            if name != place.name:
                place.unlink(name)


def _make_room(place: Place, *, force: bool) -> None:
    """What has our names goes (``force``), or is refused."""
    for name in _in_the_way(place, force=force):
        place.unlink(name)


def _in_the_way(place: Place, *, force: bool) -> list[str]:
    """What has our names; refused without ``force``, and where it is not a regular file, or being recorded."""
    names = [f"{place.name}{suffix}" for suffix in ("", *COMPANIONS)]
    found = {name: status for name in names if (status := place.status(name)) is not None}
    for name, status in found.items():
        old = place.path.with_name(name)
        if not stat.S_ISREG(status.st_mode):
            raise RecordingError(f"{old} exists and is not a regular file; use ", ANOTHER_OUTPUT)
        if not force:
            raise RecordingError(f"{old} exists; use ", FORCE, " or ", ANOTHER_OUTPUT)
        if name == place.name and at_work.is_recording(old):
            raise RecordingError(f"{old} is being recorded by another iptrec; use ", ANOTHER_OUTPUT)
        place.require_own(name)
    return list(found)
