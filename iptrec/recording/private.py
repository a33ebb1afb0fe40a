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

from iptrec.errors import RecordingError, strerror
from iptrec.identity import only_root_changes, open_led_by_root

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def directory() -> Iterator[Path]:
    """A new directory that nobody else may enter, gone afterwards.

    Raises `RecordingError` where root would make it in one whose names others can change.
    """
    made = tempfile.TemporaryDirectory(prefix="iptrec-", dir=place(), ignore_cleanup_errors=True)
    with made as name:
        yield Path(name)


def place() -> Path | None:
    """Where temporary files go if they are root's, which are opened by their names again; else None.

    Raises `RecordingError` for a TMPDIR where others can change names.
    """
    if os.geteuid() != 0:
        return None
    chosen = tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - it is checked
    path = Path(chosen).absolute()
    try:
        found = open_led_by_root(path)
    except OSError as error:
        raise RecordingError(f"cannot use TMPDIR {path}: {strerror(error)}; unset it") from None
    kept = found is not None and only_root_changes(found, sticky=True)
    if found is not None:
        os.close(found)
    if kept:
        return path
    raise RecordingError(
        f"cannot use TMPDIR {path}: others than root can put other files there; unset it, or set it to a"
        " directory that only root can change"
    )


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


def made(path: Path) -> BinaryIO:
    """A new file that nobody else may read, to be written. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


@contextmanager
def copied(path: Path, wal: Path) -> Iterator[Path]:
    """A recording and its write-ahead log, with which SQLite may do as it likes. Raises OSError."""
    with directory() as place:
        target = place / "recording.db"
        for source, name in ((path, target), (wal, Path(f"{target}-wal"))):
            with opened(source) as file, made(name) as copy:
                check_room(source, os.fstat(file.fileno()).st_size, place)
                shutil.copyfileobj(file, copy)
        yield target
