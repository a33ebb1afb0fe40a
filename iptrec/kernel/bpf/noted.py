"""A table of when the last messages of a socket were sent, by their numbers: a program writes it, see `tap`."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from iptrec.names import I64

NOTES: Final = 1 << 18  # a power of two
SIZE: Final = 8 * (1 + NOTES)  # bytes: how many messages there were, and when each was sent
_PAGE: Final = mmap.PAGESIZE


def times(table: int, first: int, count: int) -> I64:
    """When messages were sent, from the ``first`` one on (monotonic, ns); 0: that is not noted (any more).

    ``table``: its descriptor. No more of it is mapped than is asked for: that counts as this process's memory.
    """
    begin = 1 + first % NOTES
    parts = [_words(table, begin, min(count, NOTES + 1 - begin))]
    if (rest := count - len(parts[0])) > 0:
        parts.append(_words(table, 1, rest))
    found = np.concatenate(parts)
    # Another one may have been noted in the same place meanwhile.
    there = _words(table, 0, 1)[0] - np.arange(first, first + count) <= NOTES
    return np.where(there, found, 0)


def _words(table: int, begin: int, count: int) -> I64:
    offset = 8 * begin // _PAGE * _PAGE
    with mmap.mmap(table, 8 * (begin + count) - offset, prot=mmap.PROT_READ, offset=offset) as page:
        return np.frombuffer(page[8 * begin - offset :], np.int64)
