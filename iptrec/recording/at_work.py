"""Whether the recorder of a file is still at work, and whether somebody follows it: each holds a lock.

Locks end with who holds them, however that ends. They are of an open file description (F_OFD_SETLK, fcntl(2)),
of one byte each, far behind those that SQLite locks: nobody is in another's way, and who asks locks nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Beside a recording; SQLite never opens it, so that anybody may open and close it.
COMPANION: Final = "-journal"
_BYTE: Final = 1 << 62
_FOLLOWED: Final = _BYTE + 1  # shared by all who follow
_FLOCK: Final = "hhqqi0q"  # struct flock: type, whence, start, length, process


def hold(descriptor: int) -> None:
    """Take the lock, until the descriptor is closed; a file system that has none is left without."""
    import fcntl  # noqa: PLC0415 - not where recordings are only read

    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))


def is_held(descriptor: int, byte: int = _BYTE) -> bool | None:
    """Whether somebody else has the lock, or one of another byte; None where that cannot be told."""
    try:
        import fcntl  # noqa: PLC0415 - not everywhere

        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, byte))
    except (ImportError, AttributeError, OSError):
        return None
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)


@contextlib.contextmanager
def following(path: Path) -> Iterator[None]:
    """Let a recording's recorder know that somebody waits for what it writes, where that can be told."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl  # noqa: PLC0415 - not everywhere

            found = _open(path)
            stack.callback(os.close, found)
            if stat.S_ISREG(os.fstat(found).st_mode):
                fcntl.fcntl(found, fcntl.F_OFD_SETLK, _lock(fcntl.F_RDLCK, _FOLLOWED))
        yield


def is_followed(descriptor: int) -> bool:
    """Whether somebody does; ``descriptor``: of what the recorder keeps beside it."""
    return bool(is_held(descriptor, _FOLLOWED))


def is_recording(path: Path) -> bool | None:
    """Whether a recording's recorder is at work, by what it keeps beside; None where that cannot be told."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return is_held(descriptor) if regular else None
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """What is kept beside a recording."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path.with_name(path.name + COMPANION), flags)


def _lock(kind: int, byte: int = _BYTE) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
