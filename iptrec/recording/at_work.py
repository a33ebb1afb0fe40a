"""Whether the recorder of a file is still at work: it holds a lock, which ends with it, however that ends.

The lock is of its open file description (F_OFD_SETLK, fcntl(2)) and of one byte far behind those that SQLite
locks: neither is in the other's way, and who asks locks nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# Beside a recording; SQLite never opens it, so that anybody may open and close it.
COMPANION: Final = "-journal"
_BYTE: Final = 1 << 62
_FLOCK: Final = "hhqqi0q"  # struct flock: type, whence, start, length, process


def hold(descriptor: int) -> None:
    """Take the lock, until the descriptor is closed; a file system that has none is left without."""
    import fcntl  # noqa: PLC0415 - not where recordings are only read

    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))


def is_held(descriptor: int) -> bool | None:
    """Whether somebody has the lock; None where that cannot be told."""
    try:
        import fcntl  # noqa: PLC0415 - not everywhere

        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK))
    except (ImportError, AttributeError, OSError):
        return None
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)


def is_recording(path: Path) -> bool | None:
    """Whether a recording's recorder is at work, by what it keeps beside; None where that cannot be told."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path.with_name(path.name + COMPANION), flags)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return is_held(descriptor) if regular else None
    finally:
        os.close(descriptor)


def _lock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, _BYTE, 1, 0)
