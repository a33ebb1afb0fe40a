"""Lines of a text that may be of any size: one at a time, each of a bounded length.

A quote's "> " at its beginning, a carriage return at its end, NULs and what colours it are not part of a line.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST: Final = 1 << 16  # bytes; what is behind them is no part of an event
_COLOURS: Final = re.compile(
    rb"\x1b\[[0-9;:]{0,40}[mK]"
)  # SGR of dmesg -L, and EL of grep beside it


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines, without their ends; of a longer one the first `LONGEST` bytes."""
    whole = True
    while line := file.readline(LONGEST):
        begins, whole = whole, line.endswith(b"\n")
        if begins:
            yield unquoted(_COLOURS.sub(b"", line.rstrip(b"\r\n").replace(b"\0", b"")))


def unquoted(line: bytes) -> bytes:
    """Without the marks of a mail that quotes it."""
    while line[:1] == b">":
        line = line[1:].removeprefix(b" ")
    return line
