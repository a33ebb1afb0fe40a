"""A ring that a program in the kernel writes records to, all of one size, read without a call.

kernel/bpf/ringbuf.c. Its pages are there from the beginning, and are mapped once here: a record across its end
goes on in pages that the kernel has behind it, the first ones once more.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.kernel.bpf import bpf

if TYPE_CHECKING:
    import numpy.typing as npt

_BUSY, _TAKEN_BACK = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_HEADER: Final = 8  # bytes of the ring's own before each record
_ALL: Final = 1 << 30


class Ring:
    """``descriptor``: of the map, for programs and poll: ready where a record is there.

    ``size``: bytes, a power of two of whole pages. ``record``: bytes of each, a multiple of 8. ``bytes``: all
    that is mapped of it, each record ``stride`` bytes behind the one before. Raises OSError.
    """

    def __init__(self, size: int, record: int) -> None:
        self._size = size
        self.stride = _HEADER + record
        page = mmap.PAGESIZE
        with contextlib.ExitStack() as opened:
            self.descriptor = bpf.new_map(bpf.RINGBUF, entries=size)
            opened.callback(os.close, self.descriptor)
            ours = mmap.mmap(self.descriptor, page)
            mapped = page + size + -(-self.stride // page) * page
            theirs = mmap.mmap(self.descriptor, mapped, prot=mmap.PROT_READ, offset=page)
            # Views, not arrays: they are asked for a number in every round of a loop.
            self._read_to = memoryview(ours).cast("Q")
            self._written_to = memoryview(theirs)[:page].cast("Q")
            self.bytes = np.frombuffer(theirs, np.uint8, offset=page)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the map; it is mapped as long as somebody holds records."""
        self._opened.close()

    @property
    def empty(self) -> bool:
        """Whether there is nothing, not even a record that is being written."""
        return self._read_to[0] == self._written_to[0]

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
            self.free(1)
            return self.records(most)
        cut = words & (_BUSY | _TAKEN_BACK) != 0
        return rows[: int(np.argmax(cut)) if cut.any() else count, _HEADER:]

    def taken(self) -> npt.NDArray[np.uint8]:
        """A copy of all that are there; the kernel has their room again."""
        parts = []
        for _ in range(2):  # up to the end of the ring, and from its beginning on
            parts.append(self.records().copy())
            self.free(len(parts[-1]))
        return np.concatenate(parts)

    def free(self, count: int) -> None:
        """Let go of the first records."""
        self._read_to[0] += count * self.stride


def since_the_epoch() -> int:
    """What CLOCK_REALTIME has more than CLOCK_MONOTONIC, ns: of some looks the one that nothing interrupted.

    To be asked for with each look at records, whose times are monotonic: the first clock is set now and then.
    """
    looks = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(3)]
    before, between, after = min(looks, key=lambda one: one[2] - one[0])
    return between - (before + after) // 2
