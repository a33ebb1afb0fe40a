"""Room for the datagrams of one `recvmmsg`: hundreds in one call (recvmmsg(2)).

The kernel traces every event in a datagram of its own: one call for each would cost a syscall an event.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.errors import HostError
from iptrec.libc import libc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

SLOTS: Final = 512
RECEIVE_BUFFER: Final = 512 << 20
PROMPT_NS: Final = 10_000_000

LARGEST_BATCH: Final = 16 * SLOTS
_MSG_TRUNC: Final = 0x20
_MMSGHDR: Final = np.dtype(
    {
        "names": ["iov", "iovlen", "flags", "len"],
        "formats": ["u8", "u8", "i4", "u4"],
        "offsets": [16, 24, 48, 56],
        "itemsize": 64,
    }
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Datagrams of one call, back to back: received together at ``received_ns`` (epoch).

    ``beside``: how many of them tell of no packet. ``there``: so many, counted from the first, are known to
    have been there already at an earlier time (epoch); both ascend. ``emptied``: whether nothing was left.
    """

    received_ns: int
    lengths: npt.NDArray[np.uint32]
    data: bytes
    lost: int  # events missing before or among these, by their sequence numbers
    truncated: int  # datagrams longer than a slot
    beside: int = 0
    there: Sequence[tuple[int, int]] = ()
    emptied: bool = False

    def parts(self) -> Iterator[tuple[int, npt.NDArray[np.uint32], bytes]]:
        """The datagrams by the times at which they were there: times, lengths, and data."""
        first = begin = 0
        for until, time_ns in (*self.there, (len(self.lengths), self.received_ns)):
            lengths = self.lengths[first:until]
            end = begin + int(lengths.sum())
            yield time_ns, lengths, self.data[begin:end]
            first, begin = until, end


class Overrun(Exception):  # noqa: N818 - not an error: a fact about the stream
    """ENOBUFS: the kernel dropped events; ``events``: how many, None where a later batch will say."""

    def __init__(self, events: int | None = None) -> None:
        super().__init__()
        self.events = events


class Slots:
    """`SLOTS` slots of ``size`` bytes, for the datagrams of one socket; ``what``: its name for errors."""

    def __init__(self, size: int, what: str) -> None:
        self._what = what
        self._size = -(-size // 64) * 64
        self._buffer = np.zeros(SLOTS * self._size, np.uint8)
        vectors = np.zeros((SLOTS, 2), "u8")
        vectors[:, 0] = self._buffer.ctypes.data + np.arange(SLOTS) * self._size
        vectors[:, 1] = self._size
        self._vectors = vectors
        self._messages = np.zeros(SLOTS, _MMSGHDR)
        self._messages["iov"] = vectors.ctypes.data + np.arange(SLOTS) * 16
        self._messages["iovlen"] = 1
        self._pieces = vectors.copy()  # the same slots, as long as what is in them
        self._gathered = os.memfd_create("iptrec-datagrams")
        self._untold = False  # an overrun after datagrams

    def close(self) -> None:
        """Give the memory back."""
        os.close(self._gathered)

    def receive(self, descriptor: int) -> Batch | None:
        """What is there now; None if nothing is. Raises `Overrun`.

        Less than `SLOTS` datagrams say that nothing more was there at most `PROMPT_NS` before
        ``received_ns``: a call after which the process had to wait for its processor is followed by another
        one, and what both bring is one batch.
        """
        untold, self._untold = self._untold, False
        if untold:
            raise Overrun
        batch, prompt, overrun = self._call(descriptor)
        while not prompt and not overrun and len(batch.lengths) < LARGEST_BATCH:
            more, prompt, overrun = self._call(descriptor)
            batch = joined([batch, more])
        if overrun and len(batch.lengths):
            self._untold = overrun
        elif overrun:
            raise Overrun
        return batch if len(batch.lengths) else None

    def put_off(self) -> None:
        """Let the next call raise the `Overrun` that this one has raised."""
        self._untold = True

    def _call(self, descriptor: int) -> tuple[Batch, bool, bool]:
        """One call, which may bring nothing; whether the clock was read at once, and events were dropped."""
        begun = time.time_ns()
        count = libc.recvmmsg(
            descriptor,
            ctypes.c_void_p(self._messages.ctypes.data),
            SLOTS,
            socket.MSG_DONTWAIT,
            None,
        )
        number = ctypes.get_errno() if count < 0 else 0
        now = time.time_ns()
        if number not in (0, errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
            raise HostError(f"cannot read {self._what}: {os.strerror(number)}")
        lengths = self._messages["len"][: max(count, 0)].copy()
        truncated = int(np.count_nonzero(self._messages["flags"][: len(lengths)] & _MSG_TRUNC))
        emptied = len(lengths) < SLOTS
        batch = Batch(now, lengths, self._gather(lengths), 0, truncated, emptied=emptied)
        return batch, now - begun < PROMPT_NS, number == errno.ENOBUFS

    def _gather(self, lengths: npt.NDArray[np.uint32]) -> bytes:
        """The first slots' datagrams back to back.

        The kernel does it in one call, in a fifth of the time that joining slices takes, unless
        the limit of a file's size (RLIMIT_FSIZE, which counts for files in memory too) forbids it.
        """
        count, size = len(lengths), int(lengths.sum())
        self._pieces[:count, 1] = lengths
        pieces = ctypes.c_void_p(self._pieces.ctypes.data)
        if libc.pwritev(self._gathered, pieces, count, ctypes.c_long(0)) == size:
            return os.pread(self._gathered, size, 0)
        starts = (np.arange(count) * self._size).tolist()
        view = memoryview(self._buffer.data)
        return b"".join([view[at : at + n] for at, n in zip(starts, lengths.tolist(), strict=True)])


def joined(batches: Sequence[Batch]) -> Batch:
    """One of several that follow each other."""
    return Batch(
        batches[-1].received_ns,
        np.concatenate([one.lengths for one in batches]),
        b"".join(one.data for one in batches),
        sum(one.lost for one in batches),
        sum(one.truncated for one in batches),
        sum(one.beside for one in batches),
        emptied=batches[-1].emptied,
    )
