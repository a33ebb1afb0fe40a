"""Frames of Zstandard (RFC 8878) as a recording holds them: with their content size and a checksum.

By Python's own module, which before Python 3.14 is a package with the same names.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from typing import BinaryIO

ZstdError = zstd.ZstdError
# log2 of the bytes of memory that a frame may ask for: 128 MiB, more than `zstd -19` makes.
_WINDOW: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 27}


class Packer:
    """Makes frames, one after the other."""

    def __init__(self, level: int) -> None:
        self._compressor = zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: level,
                zstd.CompressionParameter.checksum_flag: 1,
            }
        )

    def pack(self, content: bytes) -> bytes:
        """One frame. Its size is known to zstd, since it comes in one piece, and is noted in the frame."""
        return self._compressor.compress(content, zstd.ZstdCompressor.FLUSH_FRAME)


def declared(frame: bytes) -> int | None:
    """How many bytes the content of a frame has, as its header says. Raises `ZstdError`."""
    return zstd.get_frame_info(frame).decompressed_size


def unpack(frame: bytes, size: int) -> bytes:
    """The content, of ``size`` bytes, of data that is one whole frame. Raises `ZstdError`."""
    unpacker = zstd.ZstdDecompressor(options=_WINDOW)
    content = unpacker.decompress(frame, max(size, 1))
    if not unpacker.eof or unpacker.unused_data:
        raise ZstdError("it is not one frame")
    return content


def opened(file: BinaryIO) -> zstd.ZstdFile:
    """The content of all frames of a file, to be read. Its reads raise `ZstdError`, EOFError."""
    return zstd.ZstdFile(file, options=_WINDOW)
