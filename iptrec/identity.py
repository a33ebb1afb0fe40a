"""The user behind sudo, and the rights with which files are made.

Root's rights make a file where the user who ran sudo may not, and follow a link that a stranger has put there.
So files are handled with the filesystem identity of that user (setfsuid(2)): then no link leads further
than the user could go alone. It is taken on for a moment at a time, because the rest needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_NONE: Final = (
    0xFFFFFFFF  # (uid_t) -1: no id; setfsuid then changes nothing and tells the present one
)
_SHARED: Final = 0o022  # write permission of group and others
_STICKY: Final = 0o1000


class User(NamedTuple):
    """Somebody whose rights files are handled with."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def behind_sudo() -> User | None:
    """The user who ran sudo; None for root itself, without root, or where that user has no id.

    The last one is a user namespace that maps root alone. Raises `UsageError` where SUDO_UID or SUDO_GID is
    not an id: what is made with root's rights instead would be wrong without a word.
    """
    if os.geteuid() != 0 or "SUDO_UID" not in os.environ:
        return None
    uid = _id("SUDO_UID")
    if uid == 0 or not _mapped(uid, "uid_map"):
        return None
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        gid = _id("SUDO_GID")
        return User(uid, gid, (gid,))
    gid = _id("SUDO_GID") if "SUDO_GID" in os.environ else known.pw_gid
    return User(uid, gid, tuple(os.getgrouplist(known.pw_name, gid)))


def prepare(user: User | None) -> None:
    """Make `acting_as` possible for the rest of the process, without CAP_SETUID and CAP_SETGID as well.

    The saved ids become the user's: to take on one of those needs no capability. To be called (or `acting_as`)
    before there are threads. That user may then send signals to this process. Raises `HostError`.
    """
    if user is None or os.getresuid()[2] == user.uid:
        return
    try:
        os.setgroups(user.groups)
        os.setresgid(-1, -1, user.gid)
        os.setresuid(-1, -1, user.uid)
    except OSError as error:
        raise HostError(
            f"cannot act as user {user.uid}, who ran sudo: {error.strerror}; unset SUDO_UID to make the"
            " files root's"
        ) from None


@contextlib.contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """Handle files with the user's rights alone, in this thread; None: as it is."""
    if user is None:
        yield
        return
    prepare(user)
    before = _libc.setfsgid(user.gid), _libc.setfsuid(user.uid)
    try:
        if (_libc.setfsgid(_NONE), _libc.setfsuid(_NONE)) != (user.gid, user.uid):
            raise HostError(f"cannot act as user {user.uid}, who ran sudo: the kernel refuses")
        yield
    finally:
        _libc.setfsuid(before[1])
        _libc.setfsgid(before[0])


def only_root_changes(directory: int, *, sticky: bool = False) -> bool:
    """Whether nobody but root can put another thing under a name, from / down to this open directory.

    ``sticky``: others may add names to it, but not touch ours (/tmp). Root of a user namespace has no rights
    over anybody else, so there is nobody to fear.
    """
    if not _mapped(_NONE - 1, "uid_map"):
        return True
    with contextlib.ExitStack() as opened:
        while True:
            status = os.fstat(directory)
            shared = status.st_mode & _SHARED and not (sticky and status.st_mode & _STICKY)
            if status.st_uid != 0 or shared:
                return False
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            opened.callback(os.close, above)
            if os.path.samestat(status, os.fstat(above)):
                return True
            directory, sticky = (
                above,
                True,
            )  # a name of root's cannot be changed in a sticky directory


def _id(variable: str) -> int:
    text = os.environ.get(variable, "")
    if re.fullmatch("[0-9]{1,10}", text) and int(text) < _NONE:
        return int(text)
    raise UsageError(
        f"{variable} is {text[:20]!r}, not a user's or group's id: unset SUDO_UID, or run iptrec by sudo"
    )


def _mapped(number: int, table: str) -> bool:
    """Whether an id exists in this user namespace (man 7 user_namespaces)."""
    try:
        lines = Path("/proc/self", table).read_text().splitlines()
    except OSError:  # a kernel without user namespaces
        return True
    ranges = (map(int, line.split()) for line in lines)
    return any(first <= number < first + count for first, _, count in ranges)
