"""A place of our own on the disk, for a recording that cannot be read where it lies."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def directory() -> Iterator[Path]:
    """A new directory that nobody else may enter, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="iptrec-") as name:
        yield Path(name)


def check_room(path: Path, size: int, place: Path) -> None:
    """Raise `RecordingError` where ``size`` bytes of ``path`` would be more than half of what is free."""
    status = os.statvfs(place)
    if size > status.f_bavail * status.f_frsize // 2:
        raise RecordingError(
            f"{path} takes {size:,} bytes to be unpacked or copied, and {place.parent} has not twice that"
            " free: set TMPDIR to a directory with more"
        )


def opened(path: Path, *, follow: bool = False) -> BinaryIO:
    """A regular file, to be read; ``follow``: through a link, too. Raises OSError for anything else."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe without a writer is not waited for
    file = os.fdopen(os.open(path, flags if follow else flags | os.O_NOFOLLOW), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


@contextmanager
def copied(path: Path, wal: Path) -> Iterator[Path]:
    """A recording and its write-ahead log, with which SQLite may do as it likes. Raises OSError."""
    with directory() as place:
        target = place / "recording.db"
        for source, name in ((path, target), (wal, Path(f"{target}-wal"))):
            with opened(source) as file, name.open("xb") as copy:
                check_room(source, os.fstat(file.fileno()).st_size, place)
                shutil.copyfileobj(file, copy)
        yield target
