"""A place of our own on the disk, for a recording that cannot be read where it lies.

What takes time to be written has no name meanwhile: nothing can stay behind, whatever ends us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from iptrec import descriptors
from iptrec.errors import RecordingError, strerror
from iptrec.identity import only_root_changes, open_led_by_root

if TYPE_CHECKING:
    from collections.abc import Iterator


_RECORDING: Final = "recording.db"
_NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)  # open(2)


@contextmanager
def directory() -> Iterator[Path]:
    """A new directory that nobody else may enter, gone afterwards.

    Raises `RecordingError` where root would make it in one whose names others can change.
    """
    made = tempfile.TemporaryDirectory(prefix="iptrec-", dir=place(), ignore_cleanup_errors=True)
    with made as name:
        yield Path(name)


@contextmanager
def nameless() -> Iterator[BinaryIO]:
    """A new file that nobody else may read, to be written and read, without a name where that can be.

    Raises OSError, and `RecordingError` as `directory` does.
    """
    where = _place()
    descriptor = _unnamed(where)
    if descriptor is not None:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(prefix="iptrec-", dir=where) as named_file:
        yield named_file  # type: ignore[misc]  # all that is needed of a BinaryIO it has


def _unnamed(where: Path) -> int | None:
    """None where there is no such file: it is Linux's, and not of each file system (open(2))."""
    if descriptors.UNNAMED is None:
        return None
    try:
        return os.open(where, os.O_RDWR | os.O_CLOEXEC | descriptors.UNNAMED, 0o600)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            return None
        raise


def path_of(file: BinaryIO) -> Path:
    """Under which path this process can open such a file."""
    return Path(file.name if isinstance(file.name, str) else f"/proc/self/fd/{file.fileno()}")


@contextmanager
def named(**files: Path) -> Iterator[Path]:
    """A directory with names for files of `path_of`, gone afterwards: SQLite opens no file without one."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(directory())
        for name, path in files.items():
            try:
                _link(path, made / name)
            except FileNotFoundError:  # it had one already, and gets no second one (open(2))
                _link(path_of(stack.enter_context(_copy(path, follow=True))), made / name)
        yield made


def _link(path: Path, name: Path) -> None:
    """As linkat(2), which follows the link that the path is; Python calls it where a directory is given."""
    os.link(path, name, src_dir_fd=0)


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


def _place() -> Path:
    """Where temporary files go, whoever's they are."""
    return place() or Path(tempfile.gettempdir())


def room(file: BinaryIO) -> int:
    """Half of the bytes that are free where a file is."""
    status = os.statvfs(file.fileno())
    return status.f_bavail * status.f_frsize // 2


def check_room(path: Path, size: int, file: BinaryIO) -> None:
    """Raise `RecordingError` where ``size`` bytes of ``path`` are more than there is `room` for in a file.

    ``file``: of `nameless`.
    """
    if size > room(file):
        raise RecordingError(
            f"{path} takes {size:,} bytes to be unpacked or copied, and {_place()} has not"
            " twice that free: set TMPDIR to a directory with more"
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
    with _copy(path) as recording, _copy(wal) as log:
        names = {_RECORDING: path_of(recording), f"{_RECORDING}-wal": path_of(log)}
        with named(**names) as made:
            yield made / _RECORDING


@contextmanager
def _copy(path: Path, *, follow: bool = False) -> Iterator[BinaryIO]:
    with opened(path, follow=follow) as source, nameless() as file:
        check_room(path, os.fstat(source.fileno()).st_size, file)
        shutil.copyfileobj(source, file)
        file.flush()
        yield file
