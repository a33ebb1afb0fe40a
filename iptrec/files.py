"""How every file of ours is made: by descriptor, private, and with the rights of the user behind sudo.

Where somebody else may change a directory, a name in it can be a link or another file by the time it is opened
again. So a file is made in a directory that is held open, never through a link, and gets its name when it
is whole, or ready to be read by others while it grows. SQLite opens files by name: it is let into directories
alone where nobody else can change our names, or with the rights of the user whose directory it is, and it
is checked which file it has before it reads or writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sqlite3
import stat
from typing import TYPE_CHECKING, BinaryIO, Final, Self
from urllib.parse import quote

from iptrec import descriptors
from iptrec.errors import ANOTHER_OUTPUT, RecordingError
from iptrec.identity import acting_as, behind_sudo, only_root_changes, open_led_by_root

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from iptrec.identity import User

_DIRECTORY: Final = descriptors.PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SEARCH: Final = 0o111
_MOST_LINKS: Final = 40  # as many as the kernel follows


class Place:
    """A name in a directory that is held open, whatever becomes of its path. Methods raise OSError.

    What is done here is done with the rights of the user behind sudo. In a directory that only root can
    change, and that nobody else has led us to, it is done with root's, and what is made is given to that user.
    Raises `RecordingError` where others can lead root, without sudo, elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._user: User | None = None
        self.owner: User | None = None
        user = behind_sudo()
        self.directory = self._open() if user is None else self._open_for(user)

    def _open(self) -> int:
        found = open_led_by_root(self.path.parent)
        if found is None:
            raise RecordingError(
                f"cannot create {self.path}: others than root can change where {self.path.parent} leads;"
                " use a directory that only root can change, or run iptrec by sudo as its owner"
            )
        return found

    def _open_for(self, user: User) -> int:
        with contextlib.suppress(OSError):  # the user may be let in where root is not
            found = open_led_by_root(self.path.parent)
            if found is not None and only_root_changes(found):
                self.owner = user
                return found
            if found is not None:
                os.close(found)
        self._user = user
        with self.acting():
            return os.open(self.path.parent, _DIRECTORY)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.directory)

    def acting(self) -> AbstractContextManager[None]:
        """With the rights that count here."""
        return acting_as(self._user)

    @property
    def ours(self) -> bool:
        """Whether nobody else can put names here; with somebody's own rights nothing can be gained by that."""
        return os.geteuid() != 0 or self._user is not None or only_root_changes(self.directory)

    @property
    def safe(self) -> bool:
        """Whether nobody else can change a name that we have made here."""
        return self.ours or only_root_changes(self.directory, sticky=True)

    @property
    def links(self) -> bool:
        """Whether a link here may be followed: no stranger has put it here."""
        return self._user is None and self.ours

    def require_safe(self) -> None:
        """Raise `RecordingError` where others could put another file under our name."""
        if not self.safe:
            raise RecordingError(
                f"cannot create {self.path}: others than root can change the directory {self.path.parent};"
                " use one that only root can change, or run iptrec by sudo as its owner"
            )

    def require_own(self, name: str) -> None:
        """Raise `RecordingError` where root's rights would replace what the user behind sudo could not."""
        status = self.status(name)
        if self.owner is not None and status is not None and status.st_uid != self.owner.uid:
            raise RecordingError(
                f"cannot replace {self.path.with_name(name)}: it belongs to user {status.st_uid}, not to user"
                f" {self.owner.uid}, who ran sudo; delete it, or use ",
                ANOTHER_OUTPUT,
            )

    def status(self, name: str) -> os.stat_result | None:
        """What has this name here, a link itself; None if nothing has."""
        with self.acting(), contextlib.suppress(FileNotFoundError):
            return os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        return None

    def make(self, name: str) -> int:
        """A new file, mode 0600 or less (umask); its descriptor."""
        with self.acting():
            return self._given(os.open(name, _NEW, 0o600, dir_fd=self.directory))

    def make_unnamed(self) -> int | None:
        """The same without a name; None where the filesystem has no such thing (open(2), O_TMPFILE)."""
        if descriptors.UNNAMED is None:
            return None
        with self.acting(), contextlib.suppress(OSError):
            flags = descriptors.UNNAMED | os.O_RDWR | os.O_CLOEXEC
            return self._given(os.open(".", flags, 0o600, dir_fd=self.directory))
        return None

    def make_directory(self, name: str) -> int:
        """A new directory, mode 0700 or less, still with the rights of who makes it; its descriptor."""
        with self.acting():
            os.mkdir(name, 0o700, dir_fd=self.directory)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(name, flags, dir_fd=self.directory)

    def _given(self, descriptor: int) -> int:
        # A recorder at work has given up the right to give files away: a copy stays root's.
        with contextlib.suppress(PermissionError):
            if self.owner is not None:
                os.fchown(descriptor, self.owner.uid, self.owner.gid)
        return descriptor

    def link(self, descriptor: int, name: str) -> None:
        """Give a name to this very file. Raises FileExistsError: something has it already."""
        with self.acting():
            os.link(descriptors.ALL / str(descriptor), name, dst_dir_fd=self.directory)

    def rename(self, old: str, new: str) -> None:
        """Rename it; what had the new name is replaced, a link not followed."""
        with self.acting():
            os.rename(old, new, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def unlink(self, name: str) -> None:
        """Take a name away, if it is there."""
        with self.acting(), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.directory)

    def remove_tree(self, name: str) -> None:
        """Take a directory away with all that is in it, never through a link."""
        with self.acting():
            shutil.rmtree(name, dir_fd=self.directory)


def open_device(path: Path) -> int | None:
    """A device or a pipe, open to be written to; None for all else, and where nothing is.

    It is what was opened that is looked at, so nobody can put a file there meanwhile. Raises OSError, or
    `RecordingError` where others than root can put a device or a pipe.
    """
    for _ in range(_MOST_LINKS):
        with contextlib.closing(Place(path)) as place:
            status = place.status(place.name)
            if status is None or not stat.S_ISLNK(status.st_mode):
                return _open_device(place, status, os.O_NOFOLLOW)
            if not place.links:
                return None
            if os.path.samestat(os.fstat(place.directory), descriptors.ALL.stat()):  # /dev/stdout
                return _open_device(place, os.stat(place.name, dir_fd=place.directory), 0)
            path = path.parent / os.readlink(place.name, dir_fd=place.directory)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _open_device(place: Place, status: os.stat_result | None, flags: int) -> int | None:
    if status is None or not _is_device(status):
        return None
    if not place.ours:
        raise RecordingError(
            f"{place.path} is a device or a pipe where others than root can put one; use - and a pipe"
        )
    flags |= os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC
    with place.acting():
        found = os.open(place.name, flags, dir_fd=place.directory)
    if _is_device(os.fstat(found)):
        return found
    os.close(found)
    return None


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)


class Draft:
    """A file that has not got its name yet; a context manager. Left without `publish` nothing of it stays.

    ``named``: it has a name of its own meanwhile, ``path``, for SQLite to open. ``mode``: instead of 0600.
    Raises OSError, or `RecordingError` where SQLite could be led astray.
    """

    def __init__(self, path: Path, *, named: bool = False, mode: int | None = None) -> None:
        self._temporary: str | None = None
        with contextlib.ExitStack() as undo:
            self.place = Place(path)
            undo.callback(self.place.close)
            undo.callback(self._unlink_temporary)
            if named:
                self.place.require_safe()
            found = None if named else self.place.make_unnamed()
            if found is None:
                self._temporary = _temporary_name()
                found = self.place.make(self._temporary)
            self.descriptor = found
            undo.callback(self.close)
            if mode is not None:
                with self.place.acting():
                    os.fchmod(self.descriptor, mode)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.place.close()

    def __del__(self) -> None:
        # Ctrl-C may come when it is made, and the ``with`` not begun.
        self._unlink_temporary()

    @property
    def path(self) -> Path:
        """Where it is to be found now."""
        return self.place.path.with_name(self._temporary or self.place.name)

    @property
    def in_place(self) -> bool:
        """Whether this very file has the name that it is to have."""
        return is_file(self.place.status(self.place.name), self.descriptor)

    def publish(self, *, replace: bool) -> None:
        """Give it its name. Raises FileExistsError where something has it (unless ``replace``)."""
        if replace:
            self.place.require_own(self.place.name)
            if self._temporary is None:
                self._temporary = _temporary_name()
                self.place.link(self.descriptor, self._temporary)
            self.place.rename(self._temporary, self.place.name)
            self._temporary = None
        else:
            self._publish_new()
        if not self.in_place:
            raise RecordingError(f"cannot write {self.place.path}: somebody put another file there")

    def _publish_new(self) -> None:
        place = self.place
        try:
            place.link(self.descriptor, place.name)
        except FileExistsError:
            raise
        except OSError:  # a filesystem without links, and so without owners
            if self._temporary is None or place.status(place.name) is not None:
                raise
            place.rename(self._temporary, place.name)
            self._temporary = None
        self._unlink_temporary()

    def stream(self) -> BinaryIO:
        """To write to it, from its beginning; closing that leaves it open here."""
        return open(self.descriptor, "wb", closefd=False)

    def connect(self) -> sqlite3.Connection:
        """SQLite on this very file; see `connect`. Transactions are the caller's."""
        with self.place.acting():
            return connect(self.path, self.descriptor)

    def close(self) -> None:
        """Let go of it, and of what is not published."""
        self._unlink_temporary()
        os.close(self.descriptor)

    def _unlink_temporary(self) -> None:
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self.place.unlink(self._temporary)
            self._temporary = None


class DraftDirectory:
    """A directory with files that has not got its name yet; a context manager, as `Draft`.

    ``path``: its files are made there, within `acting`; it stays this directory whatever its name becomes.
    ``mode``: of its files, instead of 0600.
    """

    def __init__(self, path: Path, *, mode: int | None = None) -> None:
        self._mode = mode
        self._temporary = _temporary_name()
        self._made = False
        self.place = Place(path)
        try:
            self._made = True
            self._descriptor = self.place.make_directory(self._temporary)
        except BaseException:
            self._remove_temporary()
            self.place.close()
            raise
        self.path = descriptors.path_to(self._descriptor, path.with_name(self._temporary))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        self._remove_temporary()
        self.place.close()

    def __del__(self) -> None:
        self._remove_temporary()  # as a draft

    def acting(self) -> AbstractContextManager[None]:
        """With the rights that count here."""
        return self.place.acting()

    def publish(self, *, replace: bool) -> None:
        """Give it its name. Raises FileExistsError where something has it (unless ``replace``)."""
        place = self.place
        self.settle()
        if place.status(place.name) is None:
            place.rename(self._temporary, place.name)
        elif replace:
            self._swap()
        else:
            raise FileExistsError
        if not is_file(place.status(place.name), self._descriptor):
            raise RecordingError(f"cannot write {place.path}: somebody put something else there")

    def _swap(self) -> None:
        """What was there goes; after an error or Ctrl-C in between it is there again.

        What goes must be what was there: others could have put a directory of root's under the name.
        """
        place, old = self.place, _temporary_name()
        place.require_safe()
        place.require_own(place.name)
        place.rename(place.name, old)
        try:
            place.rename(self._temporary, place.name)
        except BaseException:
            place.rename(old, place.name)
            raise
        place.remove_tree(old)

    def _remove_temporary(self) -> None:
        if self._made:
            with contextlib.suppress(OSError):
                self.place.remove_tree(self._temporary)
            self._made = False

    def settle(self) -> None:
        """Modes and owners of all that is in it, the innermost first, itself last."""
        owner = self.place.owner
        with self.acting():
            for _, folders, files, directory in os.fwalk(".", False, dir_fd=self._descriptor):
                for name in (*folders, *files):
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    os.chmod(name, self._mode_of(status), dir_fd=directory)
                    if owner is not None:
                        os.chown(
                            name, owner.uid, owner.gid, dir_fd=directory, follow_symlinks=False
                        )
            os.fchmod(self._descriptor, self._mode_of(os.fstat(self._descriptor)))
            if owner is not None:
                os.fchown(self._descriptor, owner.uid, owner.gid)

    def _mode_of(self, status: os.stat_result) -> int:
        """As asked for, else private, and less where the umask says so."""
        folder = stat.S_ISDIR(status.st_mode)
        if self._mode is None:
            return status.st_mode & (0o700 if folder else 0o600)
        return self._mode | (self._mode >> 2 & _SEARCH if folder else 0)


def connect(path: Path, descriptor: int) -> sqlite3.Connection:
    """SQLite on the file that is open already; nothing is read or written before that is certain.

    SQLite makes no file, and has nothing but a descriptor until the first statement. Raises
    `RecordingError` where the name leads to another file.
    """
    name = quote(os.fsencode(path.absolute()))
    connection = sqlite3.connect(f"file:{name}?mode=rw", uri=True, isolation_level=None)
    if not held_twice(descriptor):
        connection.close()
        raise RecordingError(f"cannot write {path}: somebody put another file there")
    return connection


def held_twice(descriptor: int) -> bool:
    """Whether this process has a file open once more, beside this descriptor."""
    file = os.fstat(descriptor)
    count = 0
    for entry in descriptors.ALL.iterdir():
        with contextlib.suppress(OSError):  # that of the list itself
            count += os.path.samestat(os.fstat(int(entry.name)), file)
    return count > 1


def is_file(status: os.stat_result | None, descriptor: int) -> bool:
    """Whether that is this very file."""
    return status is not None and os.path.samestat(status, os.fstat(descriptor))


def _temporary_name() -> str:
    return f".iptrec-{secrets.token_hex(8)}"
