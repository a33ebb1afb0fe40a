"""A small text file for others to read that is replaced again and again, and is whole at any time."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Final

from iptrec.errors import RecordingError, UsageError, strerror
from iptrec.identity import User, acting_as, behind_sudo, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODE: Final = 0o644
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TextFile:
    """Its directory, held open. What is done there is done with the rights of the directory's owner.

    So root gains nobody anything by it. Raises `RecordingError` where there is no such directory, `UsageError`
    where it belongs to somebody else than the user behind sudo, or root.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._user: User | None = None
        try:
            self._directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RecordingError(f"cannot write {path}: {strerror(error)}") from None
        owner = os.fstat(self._directory)
        caller = behind_sudo()
        if os.geteuid() != 0 or owner.st_uid == 0:
            return
        if caller is not None and caller.uid != owner.st_uid:
            raise UsageError(
                f"{path.parent} belongs to user {owner.st_uid}, not to user {caller.uid}, who ran sudo;"
                " name a directory of root's"
            )
        self._user = User(owner.st_uid, owner.st_gid, ())
        prepare(self._user)

    def write(self, text: str) -> None:
        """Replace it (mode 0644), at once for who reads it. Raises `RecordingError`."""
        name = f".{self._path.name}.{secrets.token_hex(4)}"  # not one that is read by its ending
        try:
            with acting_as(self._user), self._named(name) as descriptor:
                os.fchmod(descriptor, _MODE)
                with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
                    file.write(text)
                os.rename(
                    name, self._path.name, src_dir_fd=self._directory, dst_dir_fd=self._directory
                )
        except OSError as error:
            raise RecordingError(f"cannot write {self._path}: {strerror(error)}") from None

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[int]:
        """A new file, which is gone in the end unless it has another name."""
        descriptor = os.open(name, _NEW, 0o600, dir_fd=self._directory)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory)
