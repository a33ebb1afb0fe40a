"""Room for the datagrams of one `recvmmsg`: hundreds in one call (recvmmsg(2)).

The kernel traces every event in a datagram of its own: one call for each would cost a syscall an event.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

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
_IOV_MAX: Final = 1024  # of one call (limits.h)
_MSG_TRUNC: Final = 0x20
_MMSGHDR: Final = np.dtype(
    {
        "names": ["iov", "iovlen", "flags", "len"],
        "formats": ["u8", "u8", "i4", "u4"],
        "offsets": [16, 24, 48, 56],
        "itemsize": 64,
    }
)

# What a tap notes of a datagram: when the kernel sent it (epoch, ns), on which processor, and a bit of the
# ruleset of nf_tables that was in force (`NO_RULESET`: not noted).
NO_RULESET: Final = 2
NOTE: Final = np.dtype([("time", "<i8"), ("cpu", "<u2"), ("ruleset", "u1")])
_NOTHING_NOTED: Final = np.array((0, 0xFFFF, NO_RULESET), NOTE)

if TYPE_CHECKING:
    Notes = npt.NDArray[np.void]


class Gap(NamedTuple):
    """Where in a batch events are missing: before which datagrams for the first and for the last time.

    ``after_ns``: they were sent after this time (epoch), as far as what came before them tells; 0: it does not.
    """

    first: int
    last: int
    after_ns: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Datagrams of one call, back to back: received together at ``received_ns`` (epoch).

    ``beside``: how many of them tell of no packet. ``there``: so many, counted from the first, are known to
    have been there already at an earlier time (epoch); both ascend. ``emptied``: whether nothing was left.
    ``notes``: what a tap noted of each one (`NOTE`), if there is a tap; nothing of those that came
    ``overflowing`` it. No batch has both ``there`` and ``notes``: a socket has one filter.
    ``gap``: where those are missing that were ``lost``, if that is known.
    """

    received_ns: int
    lengths: npt.NDArray[np.uint32]
    data: bytes
    lost: int  # events missing before or among these, by their sequence numbers
    truncated: int  # datagrams longer than a slot
    beside: int = 0
    overflowing: int = 0
    notes: Notes | None = None
    there: Sequence[tuple[int, int]] = ()
    emptied: bool = False
    gap: Gap | None = None

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
    """`SLOTS` slots of ``size`` bytes, for the datagrams of one socket; ``what``: its name for errors.

    ``overran``: whether the kernel dropped some since it was opened.
    """

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
        self._gathering = Gathering(self._buffer)
        self.overran = False
        self._overrun = False  # behind what is still in the socket
        self._untold = False  # an overrun after datagrams

    def close(self) -> None:
        """Give the memory back."""
        self._gathering.close()

    def receive(self, descriptor: int, most: int = SLOTS) -> Batch | None:
        """What is there now, the first ones of it; None if nothing is. Raises `Overrun`, where it was.

        The kernel tells of it before what is in the socket, and queues nothing more until all of that was
        received (NETLINK_S_CONGESTED in net/netlink/af_netlink.c): what it dropped was sent after that.

        Less than `SLOTS` datagrams say that nothing more was there at most `PROMPT_NS` before
        ``received_ns``: a call after which the process had to wait for its processor is followed by another
        one, and what both bring is one batch.
        """
        self.tell()
        most = min(most, SLOTS)
        batch, prompt, overrun = self._call(descriptor, most)
        if overrun:
            self.overran = self._overrun = True
            batch, prompt, overrun = self._call(descriptor, most)
            if overrun:  # again: nothing was left in it, and it was full at once
                raise Overrun
        while not prompt and not overrun and len(batch.lengths) < LARGEST_BATCH and most >= SLOTS:
            more, prompt, overrun = self._call(descriptor, SLOTS)
            batch = joined([batch, more])
        self.overran |= overrun
        self._overrun |= overrun
        if self._overrun and batch.emptied:
            self._overrun = False
            if not len(batch.lengths):
                raise Overrun
            self._untold = True
        return batch if len(batch.lengths) else None

    def end_of_queue(self) -> None:
        """All that was in the socket when the kernel dropped some was received: the next call says so."""
        self._untold, self._overrun = self._untold or self._overrun, False

    def tell(self) -> None:
        """Raise an `Overrun` that is not told yet, behind what was received last."""
        untold, self._untold = self._untold, False
        if untold:
            raise Overrun

    def put_off(self) -> None:
        """Let the next call raise the `Overrun` that this one has raised."""
        self._untold = True

    def _call(self, descriptor: int, most: int) -> tuple[Batch, bool, bool]:
        """One call, which may bring nothing; whether the clock was read at once, and events were dropped."""
        begun = time.time_ns()
        count = libc.recvmmsg(
            descriptor,
            ctypes.c_void_p(self._messages.ctypes.data),
            most,
            socket.MSG_DONTWAIT,
            None,
        )
        number = ctypes.get_errno() if count < 0 else 0
        now = time.time_ns()
        if number not in (0, errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
            raise HostError(f"cannot read {self._what}: {os.strerror(number)}")
        lengths = self._messages["len"][: max(count, 0)].copy()
        truncated = int(np.count_nonzero(self._messages["flags"][: len(lengths)] & _MSG_TRUNC))
        data = self._gathering.gather(0, self._size, lengths)
        overrun = number == errno.ENOBUFS  # nothing was received then
        emptied = len(lengths) < most and not overrun
        batch = Batch(now, lengths, data, 0, truncated, emptied=emptied)
        return batch, now - begun < PROMPT_NS, overrun


class Gathering:
    """Puts pieces of one array of bytes back to back."""

    def __init__(self, pieces: npt.NDArray[np.uint8]) -> None:
        self._pieces = pieces
        self._gathered = os.memfd_create("iptrec-datagrams")

    def close(self) -> None:
        """Give the memory back."""
        os.close(self._gathered)

    def gather(self, start: int, stride: int, lengths: npt.NDArray[np.uint32]) -> bytes:
        """Those of some lengths, each so many bytes behind the beginning of the one before.

        The kernel does it in a few calls, in a fifth of the time that joining slices takes, unless
        the limit of a file's size (RLIMIT_FSIZE, which counts for files in memory too) forbids it.
        """
        starts = start + stride * np.arange(len(lengths))
        vectors = np.empty((len(lengths), 2), "u8")
        vectors[:, 0] = self._pieces.ctypes.data + starts
        vectors[:, 1] = lengths
        written, size = 0, int(lengths.sum())
        for some in range(0, len(vectors), _IOV_MAX):
            part = vectors[some : some + _IOV_MAX]
            where = ctypes.c_void_p(part.ctypes.data), len(part), ctypes.c_long(written)
            done = libc.pwritev(self._gathered, *where)
            if done != int(part[:, 1].sum()):
                break
            written += done
        if written == size:
            return os.pread(self._gathered, size, 0)
        view = memoryview(self._pieces.data)
        return b"".join(
            [view[at : at + n] for at, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """One of several that follow each other."""
    return Batch(
        batches[-1].received_ns,
        np.concatenate([one.lengths for one in batches]),
        b"".join(one.data for one in batches),
        sum(one.lost for one in batches),
        sum(one.truncated for one in batches),
        sum(one.beside for one in batches),
        sum(one.overflowing for one in batches),
        _joined([(one.notes, len(one.lengths)) for one in batches]),
        emptied=batches[-1].emptied,
    )


def parted(batch: Batch, count: int) -> tuple[Batch, Batch]:
    """The first datagrams of a batch without notes, and the others."""
    size = int(batch.lengths[:count].sum())
    return (
        replace(batch, lengths=batch.lengths[:count], data=batch.data[:size]),
        replace(batch, lengths=batch.lengths[count:], data=batch.data[size:], truncated=0),
    )


def nothing_noted(count: int) -> Notes:
    """Notes of datagrams of which nothing is known."""
    return np.full(count, _NOTHING_NOTED)


def _joined(parts: Sequence[tuple[Notes | None, int]]) -> Notes | None:
    if all(notes is None for notes, _ in parts):
        return None
    return np.concatenate(
        [nothing_noted(count) if notes is None else notes for notes, count in parts]
    )
