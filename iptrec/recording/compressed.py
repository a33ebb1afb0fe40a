"""Recordings as they come out of a bug tracker: .gz, .zst, .zip with one recording inside.

A zip of `iptrec pack` has other files beside it: of these the recording alone is named .db. They are
recognised by their first bytes, not by their names. What is unpacked has to be a recording from its first
page on. The size that this page declares is a stranger's word: it must be possible for what was packed by so
little (`_most`), and half of what is free in the directory for temporary files must hold it; else nothing is
unpacked. What turns out longer than declared is refused there.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final

from iptrec.errors import RecordingError, strerror
from iptrec.recording import private, zstd
from iptrec.recording.schema import APPLICATION_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
RECORDING: Final = ".db"
_ENCRYPTED: Final = 1  # of a member's flags
PART: Final = ".part.db"  # of a recording that is to be compressed in the end
_PIECE: Final = 1 << 20
_LARGEST: Final = 16 << 30  # bytes unpacked
# Recordings hold chunks that are compressed already: zstd -19 leaves a sixth of the samples, nearly all of a
# recording of a million packets, and a hundredth of it where these are all equal.
_SMALL: Final = 64 << 20  # bytes unpacked that any file may have
_RATIO: Final = 128  # bytes unpacked for a byte beyond that
_MAGIC: Final = b"SQLite format 3\0"
_HEADER: Final = 100  # bytes, https://www.sqlite.org/fileformat.html#the_database_header


def is_compressed(path: str | Path) -> bool:
    """Whether a file begins like one of them. Raises OSError."""
    with Path(path).open("rb") as file:
        return begins(file.read(4))


def begins(head: bytes) -> bool:
    """Whether these bytes are the first ones of one of them."""
    return head.startswith((_GZIP, _ZSTD, _ZIP))


@contextmanager
def unpacked(path: Path, shown: Path) -> Iterator[Path]:
    """The recording inside, in a file that is gone afterwards; ``shown``: the name of the file for the user.

    Raises `RecordingError` if there is none.
    """
    with private.nameless() as file:
        try:
            with _opened(path) as source:
                _copy(path, source, file)
        except (zipfile.BadZipFile, zlib.error, zstd.ZstdError, EOFError, ValueError) as error:
            # The last one: a name of a zip's member that is no text, a place before its beginning.
            raise RecordingError(f"{shown} cannot be unpacked: {error}") from None
        except (NotImplementedError, RuntimeError) as error:  # zip: a method, a password
            raise RecordingError(f"{shown} cannot be unpacked: {error}; unpack it first") from None
        except OSError as error:
            raise RecordingError(f"cannot unpack {shown}: {strerror(error)}") from None
        yield private.path_of(file)


class _InPieces(io.FileIO):
    """A file that gives no more than a piece at a time: zipfile takes the list of members as a whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As many bytes, or all. Raises `BadZipFile` where that is too much."""
        if size is not None and size > _PIECE:
            raise zipfile.BadZipFile("its list of files is too long")
        return super().read(-1 if size is None else size)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head.startswith(_GZIP):
            import gzip  # noqa: PLC0415 - few recordings are so

            with gzip.open(file) as inside:
                yield inside  # type: ignore[misc]  # all that is needed of an IO it has
        elif head.startswith(_ZSTD):
            with zstd.opened(file) as inside:
                yield inside  # type: ignore[misc]  # the same
        else:
            with _InPieces(path) as pieces, _member(path, pieces) as inside:
                yield inside


@contextmanager
def _member(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The only file of a zip, or the only recording; no name in it is used for anything else."""
    with zipfile.ZipFile(file) as archive:
        # is_dir() fails for a member without a name.
        members = [one for one in archive.infolist() if not one.filename.endswith("/")]
        if len(members) != 1:
            members = _recordings(path, members)
        if members[0].flag_bits & _ENCRYPTED:
            raise NotImplementedError("it is encrypted")
        if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # lzma takes 4 GB if the header says so.
            raise NotImplementedError("a rare method of compression")
        with archive.open(members[0]) as inside:
            yield inside


def _recordings(path: Path, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The one recording among several files."""
    found = [one for one in members if one.filename.endswith(RECORDING)]
    if len(found) == 1:
        return found
    what = f"{len(found)} recordings" if found else f"{len(members)} files"
    raise RecordingError(f"{path} holds {what}: unpack it and give the recording")


def _copy(path: Path, source: IO[bytes], file: BinaryIO) -> None:
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
    size = (65536 if page == 1 else page) * pages
    _check_size(path, size)
    private.check_room(path, size, file)
    room = size - len(head)
    file.write(head)
    while piece := source.read(min(_PIECE, room + 1)):
        room -= len(piece)
        if room < 0:
            raise RecordingError(f"{path} holds more than a recording: unpack it first")
        file.write(piece)
    file.flush()


def _check_size(path: Path, size: int) -> None:
    """Whether a recording of ``size`` bytes may be in ``path``."""
    packed = path.stat().st_size
    if size > min(_LARGEST, _SMALL + _RATIO * packed):
        raise RecordingError(
            f"{path} has {packed:,} bytes and claims to hold a recording of {size:,}, more than so few bytes"
            " can: not opened; who trusts it unpacks it and gives the .db"
        )
