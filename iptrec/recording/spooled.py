"""What comes by a pipe, in a file of our own: SQLite reads a recording from everywhere in it."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from iptrec.errors import RecordingError, strerror
from iptrec.recording import compressed, private

if TYPE_CHECKING:
    from collections.abc import Iterator

STDIN: Final = Path("/dev/stdin")
_PIECE: Final = 1 << 20
_LARGEST: Final = 16 << 30  # bytes
_MAGIC: Final = b"SQLite format 3\0"


def is_pipe(path: Path) -> bool:
    """Whether a file is one; False where there is none."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


@contextmanager
def spooled(path: Path, *, recording: bool = True) -> Iterator[Path]:
    """All that comes by a pipe, in a file that is gone afterwards, at most half of what is free there.

    A named pipe that nobody has opened to write yet is not waited for: it is empty. Raises `RecordingError`:
    what comes is too much, or not a ``recording``.
    """
    with _opened(path) as source, private.nameless() as file:
        try:
            _copy(path, source, file, min(_LARGEST, private.room(file)), recording=recording)
        except OSError as error:
            raise RecordingError(f"cannot keep what comes by {path}: {strerror(error)}") from None
        yield private.path_of(file)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if path == STDIN:  # it may be another user's, who gave it to us open
            descriptor = os.dup(0)
        else:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(descriptor, True)
    except OSError as error:
        raise RecordingError(f"cannot open {path}: {strerror(error)}") from None
    with os.fdopen(descriptor, "rb", buffering=0) as source:
        yield source


def _copy(path: Path, source: BinaryIO, file: BinaryIO, most: int, *, recording: bool) -> None:
    count, head = 0, b""
    while piece := source.read(_PIECE):
        count += len(piece)
        head = head or piece[:16]
        if count > most:
            raise RecordingError(
                f"more than {most:,} bytes come by {path}: set TMPDIR to a directory with more than twice"
                " that free"
            )
        file.write(piece)
        if recording and count >= len(_MAGIC) and not _may_be_recording(head):
            break  # `yes` writes for ever
    file.flush()
    if recording and not _may_be_recording(head):
        raise RecordingError(f"{path} is not an iptrec recording")


def _may_be_recording(head: bytes) -> bool:
    return head.startswith(_MAGIC) or compressed.begins(head)
