"""A small text file for others to read that is replaced again and again, and is whole at any time.

Who keeps it has it locked (flock(2)). A new one is locked before it gets the name, so the name is never
free while its keeper lives, and nothing else need lie beside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING, Final

from iptrec.errors import RecordingError, UsageError, strerror
from iptrec.identity import User, acting_as, behind_sudo, open_led_by_root
from iptrec.metrics.exposition import is_at_work, is_ours

if TYPE_CHECKING:
    from pathlib import Path

_MODE: Final = 0o644
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMED: Final = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LARGEST: Final = 1 << 26  # bytes of ours
# With who has it locked: it may be about to end, or to say that it is at work.
_PATIENCE_S: Final = 1.0
_LOOK_S: Final = 0.01


class TextFile:
    """Its directory, held open. What is done there is done with the rights of the directory's owner.

    So root gains nobody anything by it. Raises `RecordingError` where there is no such directory, or where
    somebody else's link leads root to it; `UsageError` where it belongs to somebody else than the user behind
    sudo, or root.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._user: User | None = None
        self._kept = -1  # the file that we have locked
        caller = behind_sudo()
        try:
            found = open_led_by_root(path.parent, through_others=True)
            if found is None and caller is not None:  # who may go there alone
                self._user = caller
                with acting_as(caller):
                    found = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._refused(error) from None
        if found is None:
            raise RecordingError(
                f"cannot write {path}: others than root can change a link that leads to {path.parent};"
                " name the directory itself"
            )
        self._directory = found
        owner = os.fstat(found)
        if self._user is not None or os.geteuid() != 0 or owner.st_uid == 0:
            return
        if caller is not None and caller.uid != owner.st_uid:
            raise UsageError(
                f"{path.parent} belongs to user {owner.st_uid}, not to user {caller.uid}, who ran sudo;"
                " name a directory of root's"
            )
        self._user = User(owner.st_uid, owner.st_gid, ())

    def take(self) -> str:
        """Have the name for us until `close`, or the end of this process; what the file says, "" if it is new.

        Raises `UsageError` where another recorder keeps it, or it is a file of something else,
        `RecordingError` where it cannot be written.
        """
        end = time.monotonic() + _PATIENCE_S
        try:
            with acting_as(self._user):
                while (text := self._take(patient=time.monotonic() < end)) is None:
                    time.sleep(_LOOK_S)
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link
                raise self._foreign() from None
            raise self._refused(error) from None
        return text

    def _take(self, *, patient: bool) -> str | None:
        """None: it has to be tried again."""
        descriptor = os.open(self._path.name, _NAMED, 0o600, dir_fd=self._directory)
        with contextlib.ExitStack() as refused:
            refused.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._foreign()
            with open(descriptor, "rb", closefd=False) as file:
                text = file.read(_LARGEST).decode(errors="replace")
            if text and not is_ours(text):
                raise self._foreign()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if patient:
                    return None
                if is_at_work(text):
                    raise UsageError(
                        f"another recorder keeps {self._path}; give each its own file"
                    ) from None
                # Else a stranger has it, who can read what an ended one has left.
            if not self._is_named(descriptor):  # another one has replaced it meanwhile
                return None
            refused.pop_all()
        self._kept = descriptor
        return text

    def _is_named(self, descriptor: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            named = os.stat(self._path.name, dir_fd=self._directory, follow_symlinks=False)
            return os.path.samestat(named, os.fstat(descriptor))
        return False

    def write(self, text: str) -> None:
        """Replace it (mode 0644), at once for who reads it. Raises `RecordingError`."""
        name = f".{self._path.name}.{secrets.token_hex(4)}"  # not one that is read by its ending
        try:
            with acting_as(self._user), contextlib.ExitStack() as failed:
                descriptor = os.open(name, _NEW, 0o600, dir_fd=self._directory)
                failed.callback(os.close, descriptor)
                failed.callback(self._remove, name)
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # while nobody else can open it
                os.fchmod(descriptor, _MODE)
                with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
                    file.write(text)
                os.rename(
                    name, self._path.name, src_dir_fd=self._directory, dst_dir_fd=self._directory
                )
                failed.pop_all()
        except OSError as error:
            raise self._refused(error) from None
        self._let_go()
        self._kept = descriptor

    def remove(self) -> None:
        """Remove it. Raises `RecordingError`."""
        try:
            with acting_as(self._user):
                self._remove(self._path.name)
        except OSError as error:
            raise self._refused(error) from None

    def close(self) -> None:
        """Let go of it."""
        self._let_go()
        os.close(self._directory)

    def _let_go(self) -> None:
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def _foreign(self) -> UsageError:
        return UsageError(f"{self._path} exists and is not a file of --metrics; name another one")

    def _refused(self, error: OSError) -> RecordingError:
        return RecordingError(f"cannot write {self._path}: {strerror(error)}")
