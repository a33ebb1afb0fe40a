"""A lock that says who writes a recording, for as long as that process lives (fcntl(2), POSIX locks)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_BYTE: Final = 1 << 62  # beyond what SQLite locks, and whatever a file may hold
_FLOCK: Final = struct.Struct("@hhqqi0q")  # struct flock of 64-bit Linux


def hold(descriptor: int) -> None:
    """Say that this process writes the file; it goes when the process closes any descriptor of it, or ends."""
    with contextlib.suppress(OSError):  # not every file system has locks
        fcntl.fcntl(descriptor, fcntl.F_SETLK, _asked(fcntl.F_WRLCK))


def holder(path: str | Path) -> int | None:
    """The process that writes the file, 0 where it has no number here (another pid namespace); None: nobody.

    To be called while SQLite has not opened the file in this process: it would lose its locks.
    """
    if not Path(path).is_file():  # a pipe would lose its only reader
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _asked(fcntl.F_WRLCK))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def _asked(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _BYTE, 1, 0)
