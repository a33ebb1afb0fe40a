"""The user behind sudo, and the rights with which files are made.

Root's rights make a file where the user who ran sudo may not, and follow a link that a stranger has put there.
So files are handled with the filesystem identity of that user (setfsuid(2)): then no link leads further
than the user could go alone. It is taken on for a moment at a time, because the rest needs root.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import pwd
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec import descriptors
from iptrec.errors import HostError, UsageError, strerror
from iptrec.libc import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

_NONE: Final = (
    0xFFFFFFFF  # (uid_t) -1: no id; setfsuid then changes nothing and tells the present one
)
_SHARED: Final = 0o022  # write permission of group and others
_STICKY: Final = 0o1000
_DIRECTORY: Final = descriptors.PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NAME: Final = descriptors.PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS: Final = 40  # as many as the kernel follows


class User(NamedTuple):
    """Somebody whose rights files are handled with."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def behind_sudo() -> User | None:
    """The user who ran sudo; None for root itself, without root, or where that user has no id.

    The last one is a user namespace that maps root alone. Elsewhere than on Linux root makes no files.
    Raises `UsageError` where SUDO_UID or SUDO_GID is not an id: what is made with root's rights instead would
    be wrong without a word.
    """
    if os.geteuid() != 0 or "SUDO_UID" not in os.environ or not descriptors.protects_root():
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
            f"cannot act as user {user.uid}, who ran sudo: {strerror(error)}; unset SUDO_UID to make the"
            " files root's"
        ) from None


@contextlib.contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """Handle files with the user's rights alone, in this thread; None: as it is."""
    if user is None:
        yield
        return
    prepare(user)
    before = libc.setfsgid(user.gid), libc.setfsuid(user.uid)
    try:
        if (libc.setfsgid(_NONE), libc.setfsuid(_NONE)) != (user.gid, user.uid):
            raise HostError(f"cannot act as user {user.uid}, who ran sudo: the kernel refuses")
        yield
    finally:
        libc.setfsuid(before[1])
        libc.setfsgid(before[0])


def only_root_changes(directory: int, *, sticky: bool = False) -> bool:
    """Whether nobody but root can put another thing under a name, from / down to this open directory.

    ``sticky``: others may add names to it, but not touch ours (/tmp). Root of a user namespace has no rights
    over anybody else, so there is nobody to fear.
    """
    if _alone():
        return True
    with contextlib.ExitStack() as opened:
        while True:
            status = os.fstat(directory)
            if not _kept(status, sticky=sticky):
                return False
            above = os.open("..", _DIRECTORY, dir_fd=directory)
            opened.callback(os.close, above)
            if os.path.samestat(status, os.fstat(above)):
                return True
            directory, sticky = (
                above,
                True,
            )  # a name of root's cannot be changed in a sticky directory


def open_led_by_root(path: Path, *, through_others: bool = False) -> int | None:
    """A directory's descriptor (O_PATH), if nobody but root can change where the path leads; else None.

    Every name in it is looked up by itself, in a directory that only root can change, or in a sticky one
    where the name is root's. A link has to be root's. Where we are already is taken as it is, and so is the
    directory in the end: see `only_root_changes`. Without root's rights there is nothing to be led to: the
    path is opened as it is. ``through_others``: directories of others may be on the way, but none of
    their links: they lead no further than to directories of their own. Raises OSError, and `HostError` for root
    elsewhere than on Linux.
    """
    if os.geteuid() != 0 or _alone():
        return os.open(path, _DIRECTORY)
    if not descriptors.protects_root():
        raise HostError("root's files are protected on Linux alone: run iptrec as a user")
    names = collections.deque(path.parts)
    links = 0
    with contextlib.ExitStack() as opened:
        at = os.open(".", _DIRECTORY)
        opened.callback(os.close, at)
        while names:
            name = names.popleft()
            found = os.open(name, _NAME, dir_fd=at)
            opened.callback(os.close, found)
            status = os.fstat(found)
            taken = name == "/" or (
                through_others and name != ".." and stat.S_ISDIR(status.st_mode)
            )
            if not (taken or _leads(at, name, status)):
                return None
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                names.extendleft(reversed(Path(os.readlink("", dir_fd=found)).parts))
            elif stat.S_ISDIR(status.st_mode):
                at = found
            else:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return os.dup(at)


def _leads(directory: int, name: str, found: os.stat_result) -> bool:
    """Whether only root decides what this name leads to, which is looked up in an open directory."""
    if name == "..":
        return only_root_changes(directory, sticky=True)
    status = os.fstat(directory)
    foreign = stat.S_ISLNK(found.st_mode) or status.st_mode & _SHARED
    return _kept(status, sticky=True) and not (foreign and found.st_uid != 0)


def _kept(directory: os.stat_result, *, sticky: bool) -> bool:
    """Whether the names in a directory are root's, judged by itself."""
    shared = directory.st_mode & _SHARED and not (sticky and directory.st_mode & _STICKY)
    return directory.st_uid == 0 and not shared


def _alone() -> bool:
    """Whether we are in a user namespace, whose root has rights over nobody else."""
    return not _mapped(_NONE - 1, "uid_map")


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
