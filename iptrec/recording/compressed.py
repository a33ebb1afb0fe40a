"""Recordings as they come out of a bug tracker: .gz, .zst, .zip with one recording inside.

They are told by their first bytes, not by their names. What is unpacked has to be a recording from its
first page on, and is never more than that page says the file has: a bomb is noticed at once.
"""

from __future__ import annotations

import gzip
import struct
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import zstandard

from iptrec.errors import RecordingError
from iptrec.recording.schema import APPLICATION_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
_PIECE: Final = 1 << 20
_WINDOW: Final = 128 << 20  # bytes of memory that a zstd frame may ask for
_LARGEST: Final = 16 << 30
_MAGIC: Final = b"SQLite format 3\0"
_HEADER: Final = 100  # bytes, https://www.sqlite.org/fileformat.html#the_database_header


def is_compressed(path: str | Path) -> bool:
    """Whether a file begins like one of them. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(4).startswith((_GZIP, _ZSTD, _ZIP))


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The recording inside, in a file that is gone afterwards. Raises `RecordingError` if there is none."""
    with tempfile.TemporaryDirectory(prefix="iptrec-") as directory:
        target = Path(directory) / "recording.db"
        try:
            with _opened(path) as source, target.open("xb") as file:
                _copy(path, source, file)
        except (zipfile.BadZipFile, zlib.error, zstandard.ZstdError, EOFError) as error:
            raise RecordingError(f"{path} cannot be unpacked: {error}") from None
        except (NotImplementedError, RuntimeError) as error:  # zip: a method, a password
            raise RecordingError(f"{path} cannot be unpacked: {error}; unpack it first") from None
        except OSError as error:
            raise RecordingError(f"cannot unpack {path}: {error.strerror or error}") from None
        yield target


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head.startswith(_GZIP):
            with gzip.open(file) as inside:
                yield inside  # type: ignore[misc]  # all that is needed of an IO it has
        elif head.startswith(_ZSTD):
            with zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(file) as inside:
                yield inside
        else:
            with zipfile.ZipFile(file) as archive:
                members = [one for one in archive.infolist() if not one.is_dir()]
                if len(members) != 1:
                    raise RecordingError(
                        f"{path} holds {len(members)} files: unpack it and give the recording"
                    )
                with archive.open(members[0]) as inside:
                    yield inside


def _copy(path: Path, source: IO[bytes], target: IO[bytes]) -> None:
    head = b""
    while len(head) < _HEADER and (piece := source.read(_HEADER - len(head))):
        head += piece
    if len(head) < _HEADER or not head.startswith(_MAGIC):
        raise RecordingError(f"{path} holds no iptrec recording")
    (application,) = struct.unpack_from(">I", head, 68)
    (page,) = struct.unpack_from(">H", head, 16)
    (pages,) = struct.unpack_from(">I", head, 28)
    if application != APPLICATION_ID:
        raise RecordingError(f"{path} holds no iptrec recording")
    room = min((65536 if page == 1 else page) * pages, _LARGEST) - len(head)
    target.write(head)
    while piece := source.read(min(_PIECE, room + 1)):
        room -= len(piece)
        if room < 0:
            raise RecordingError(f"{path} holds more than a recording: unpack it first")
        target.write(piece)
