"""A ring of records of one size (BPF_MAP_TYPE_RINGBUF), read without a call; and the time of its records.

kernel/bpf/ringbuf.c. A record across the end of the ring goes on in pages that the kernel has behind it: the
first ones once more.
"""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.names import Mask

_BUSY, _TAKEN_BACK = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_HEADER: Final = 8  # bytes of the ring's own before each record
_ALL: Final = 1 << 30
_LOOKS: Final = 10
_SHORT_NS: Final = (
    300  # half of it is the most by which both clocks may be looked at too early or too late
)


class Ring:
    """The ring with this descriptor; ``size``, ``record``: bytes of it and of each record, which 8 divides.

    ``bytes``: all that is mapped of it, each record ``stride`` bytes behind the one before. It stays mapped as
    long as somebody holds records.
    """

    def __init__(self, descriptor: int, size: int, record: int) -> None:
        self._size = size
        self.stride = _HEADER + record
        page = mmap.PAGESIZE
        # Where we are, where the kernel is, and the bytes, with the first ones once more: no record is cut.
        ours = mmap.mmap(descriptor, page)
        mapped = page + size + -(-self.stride // page) * page
        theirs = mmap.mmap(descriptor, mapped, prot=mmap.PROT_READ, offset=page)
        # Views, not arrays: they are asked for a number in every round of the loop.
        self._read_to = memoryview(ours).cast("Q")
        self._written_to = memoryview(theirs)[:page].cast("Q")
        self.bytes = np.frombuffer(theirs, np.uint8, offset=page)

    @property
    def empty(self) -> bool:
        """Whether there is nothing, not even a record that is being written."""
        return self._read_to[0] == self._written_to[0]

    @property
    def filled(self) -> float:
        """Which part of it is not read yet."""
        return (self._written_to[0] - self._read_to[0]) / self._size

    @property
    def written(self) -> int:
        """How many records the kernel has begun to write so far."""
        return self._written_to[0] // self.stride

    @property
    def first(self) -> int:
        """Where in ``bytes`` the first one of `records` begins."""
        return self._read_to[0] % self._size + _HEADER

    def records(self, most: int = _ALL) -> npt.NDArray[np.uint8]:
        """Those that are there, up to the end of the ring, one a row: `free` lets the kernel have their room.

        A record that is being written is waited for: those behind it are not given either.
        """
        begin = self._read_to[0]
        start = begin % self._size
        whole = -((start - self._size) // self.stride)
        count = min((self._written_to[0] - begin) // self.stride, whole, most)
        rows = self.bytes[start : start + count * self.stride].reshape(count, self.stride)
        words = rows.view(np.uint32)[:, 0]
        if count and words[0] & (_BUSY | _TAKEN_BACK) == _TAKEN_BACK:
            self.free(before_first(words & (_BUSY | _TAKEN_BACK) != _TAKEN_BACK))
            return self.records(most)
        return rows[: before_first(words & (_BUSY | _TAKEN_BACK) != 0), _HEADER:]

    def rows(self) -> npt.NDArray[np.uint8]:
        """A copy of all that are there; the ring has their room again."""
        parts = []
        for _ in range(2):  # up to the end of the ring, and from its beginning on
            parts.append(self.records().copy())
            self.free(len(parts[-1]))
        return np.concatenate(parts)

    def free(self, count: int) -> None:
        """Let go of the first records."""
        self._read_to[0] += count * self.stride


def before_first(found: Mask) -> int:
    """How many are before the first that is found; all of them if none is."""
    return int(np.argmax(found)) if found.any() else len(found)


def since_the_epoch() -> int:
    """What CLOCK_REALTIME has more than CLOCK_MONOTONIC, ns: of some looks the one that nothing interrupted.

    To be asked for with each look at records, whose times are monotonic: the first clock is set now and then.
    """
    best = _look()
    for _ in range(_LOOKS - 1):
        if best[2] - best[0] <= _SHORT_NS:
            break
        best = min(best, _look(), key=lambda one: one[2] - one[0])
    before, between, after = best
    return between - (before + after) // 2


def _look() -> tuple[int, int, int]:
    return time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
