"""A ring of records of one size (BPF_MAP_TYPE_RINGBUF), read without a call; and the time of its records."""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_BUSY: Final = 1 << 31
_HEADER: Final = 8  # bytes of the ring's own before each record


class Ring:
    """The ring with this descriptor; ``size``, ``record``: bytes of it and of each record, which 8 divides."""

    def __init__(self, descriptor: int, size: int, record: int) -> None:
        self._size = size
        self._stride = _HEADER + record
        page = mmap.PAGESIZE
        # Where we are, where the kernel is, and twice the bytes, so that no record is cut.
        ours = mmap.mmap(descriptor, page)
        theirs = mmap.mmap(descriptor, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        # Views, not arrays: they are asked for a number in every round of the loop.
        self._read_to = memoryview(ours).cast("Q")
        self._written_to = memoryview(theirs)[:page].cast("Q")
        self._bytes = np.frombuffer(theirs, np.uint8, offset=page)

    @property
    def empty(self) -> bool:
        """Whether nothing is there."""
        return self._read_to[0] == self._written_to[0]

    def rows(self) -> npt.NDArray[np.uint8]:
        """A copy of the records that are whole, one a row; the ring has their room again."""
        begin = int(self._read_to[0])
        count = (int(self._written_to[0]) - begin) // self._stride
        start = begin % self._size
        rows = self._bytes[start : start + count * self._stride].reshape(count, self._stride)
        busy = rows[:, :4].copy().view(np.uint32)[:, 0] & _BUSY != 0
        if busy.any():
            count = int(np.argmax(busy))
        rows = rows[:count, _HEADER:].copy()
        self._read_to[0] = begin + count * self._stride
        return rows


def since_the_epoch() -> int:
    """What CLOCK_REALTIME has more than CLOCK_MONOTONIC, ns: of some looks the one that nothing interrupted."""
    looks = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(3)]
    before, between, after = min(looks, key=lambda one: one[2] - one[0])
    return between - (before + after) // 2
