"""Copies what a netlink socket is sent into a ring, on the packet's processor: nothing is queued for it.

The kernel runs a socket's filter before it queues a message (netlink_unicast and do_one_broadcast in
net/netlink/af_netlink.c). This one copies the message, and when and where it was sent, into a ring, and refuses
it: nobody is woken for it, and nobody has to receive it. What finds no room in the ring, or is too long for a
record, goes to the socket whole, as without a tap; the messages are counted, so it is known between which ones
it was. When it was sent is noted beside the ring, in a table of the last messages (`noted`): so it has its own
time, too, unless more than that were sent before it is received.

Where the socket has no room either, the kernel drops messages, and goes on to do so until the socket was
emptied (NETLINK_S_CONGESTED): what is queued was sent before the first one that was dropped. So no more is
received at a time, then, than is sure to be in the queue.

A record is reserved before the clock is read: in the order of the ring no time is later than that of one
behind it but for what another processor does between the two.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
import select
import socket
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from iptrec.errors import HostError
from iptrec.kernel import batches, netlink
from iptrec.kernel.batches import NO_RULESET, NOTE, SLOTS, Batch, Gathering, Overrun
from iptrec.kernel.bpf import bpf, noted
from iptrec.kernel.bpf.bpf import HALF, LONG, WORD, load, move, number, store, store_value
from iptrec.kernel.bpf.programs import Programs
from iptrec.kernel.bpf.ring import Ring, before_first, since_the_epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import numpy.typing as npt

    from iptrec.kernel.batches import Slots
    from iptrec.names import I64, U32

RING_BYTES: Final = 16 << 20
MOST: Final = 16 * SLOTS  # records at a time: a quarter of the ring
_PRESSING: Final = 0.25  # of the ring
OFF: Final = "IPTREC_NO_TAP"  # in the environment

LICENCE: Final = b"Dual MIT/GPL"  # the kernel asks for it of what reads its memory
_KIND_AT: Final = 4  # struct nlmsghdr
# What is before the message in a record.
_HEAD: Final = np.dtype(
    [("time", "<i8"), ("length", "<u4"), ("number", "<u4"), ("cpu", "<u4"), ("ruleset", "<u4")]
)
_OFFSETS: Final = {name: offset for name, (_, offset, *_) in (_HEAD.fields or {}).items()}
_WHOLE: Final = -1
_R0, _R1, _R2, _R3, _R4, _CTX, _LENGTH, _NUMBER, _RECORD, _STACK = 0, 1, 2, 3, 4, 6, 7, 8, 9, 10
NOTED_AT: Final = -8  # in the stack: where ``ruleset`` of `Tap` leaves its answer

_FEW: Final = 64  # tell whether some were sent before the first one: more than there are processors
_ALL_NUMBERS: Final = 1 << 32
_LATE_S, _LOOK_S = (
    0.002,
    0.0001,
)  # how long a message is waited for that is counted and not queued yet
ADVICE: Final = {
    # Before 5.11 the limit of locked memory refuses it to root, too.
    errno.EPERM: "it needs Linux 5.12, and CAP_BPF of the host itself, not of a container",
    errno.EINVAL: "it needs Linux 5.12",
}


def require_on() -> None:
    """Raise `HostError` where somebody switched taps off."""
    if os.environ.get(OFF, "0") not in ("", "0"):
        raise HostError(f"switched off by {OFF}")


class Tap(Programs):
    """The messages of some kinds that a socket is sent, out of the ring and what went beside it.

    ``slots``: for what goes beside it. ``largest``: bytes of a message that has room in a record.
    ``others``: whether messages of other kinds are let in; they are not received here. ``sequence``: gives the
    number of a message, modulo 2^32, where the kernel numbers them. ``ruleset``: gives instructions that leave
    a number for `NOTE` in the stack, at `NOTED_AT`; register 6 has the context. Nothing is noted where it
    raises `HostError` or LookupError, or the kernel refuses them. ``ring_bytes``: of the ring. Raises
    `HostError` where the kernel does not allow a tap: it is asked by trying.
    """

    untapped = ""

    def __init__(
        self,
        opened: socket.socket,
        slots: Slots,
        kinds: Collection[int],
        *,
        largest: int,
        others: bool,
        sequence: Callable[[memoryview], int | None] | None = None,
        ruleset: Callable[[], bpf.Code] | None = None,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        require_on()
        self._socket, self._slots = opened, slots
        self._next = 0  # so many messages were received, or given up
        self._dropped = netlink.drops(opened)  # which of them were found missing
        # Those before the socket was emptied for the last time, and before anything was sent.
        self._dropped_before = self._dropped_at_first = self._dropped
        self._received = 0  # from the socket
        self._left: int | None = None  # in the socket, before those that were dropped
        self._caught_up = False  # with all that was in the ring
        self._overrun: Overrun | None = None  # untold, after messages
        self._sequence = sequence
        self._later: Batch | None = None  # of the socket, sent after some that are in the ring
        self._room = -(-largest // 8) * 8
        self._ring_bytes = ring_bytes
        self._code = partial(_code, kinds=kinds, others=others)
        self._ruleset = ruleset
        super().__init__(ADVICE)

    def _make(self) -> None:
        kept, record = self._kept, _HEAD.itemsize + self._room
        ring = kept(bpf.new_map(bpf.RINGBUF, entries=self._ring_bytes))
        self._noted_by, self._counted = self._noted(noted.SIZE)
        self._ring = Ring(ring, self._ring_bytes, record)
        self._gathering = Gathering(self._ring.bytes)
        self._making.callback(self._gathering.close)
        self._ready = self._making.enter_context(select.epoll())
        for descriptor in (ring, self._socket.fileno()):
            self._ready.register(descriptor, select.EPOLLIN)
        program = kept(self._loaded(partial(self._code, ring, self._noted_by, self._room)))
        bpf.filtered(self._socket, program)

    def _loaded(self, code: Callable[[bpf.Code], bytes]) -> int:
        """The program, with what notes the ruleset if that can be had."""
        if self._ruleset is not None:
            with contextlib.suppress(HostError, LookupError, ValueError, OSError):
                return bpf.socket_filter(code(self._ruleset()), LICENCE, b"iptrec_tap")
        return bpf.socket_filter(code([]), LICENCE, b"iptrec_tap")

    def fileno(self) -> int:
        """For poll: ready where a message is in the ring or beside it."""
        return self._ready.fileno()

    @property
    def pressing(self) -> bool:
        """Whether so much is in the ring that it is to be taken out now."""
        return self._ring.filled > _PRESSING

    def receive(self) -> Batch | None:
        """What is there now, in the order in which it was sent; None if nothing is. Raises `Overrun`."""
        untold, self._overrun = self._overrun, None
        if untold is not None:
            raise untold
        parts: list[Batch] = []
        try:
            while sum(len(one.lengths) for one in parts) < MOST and (part := self._part()):
                parts.append(part)
                if self._caught_up and not part.overflowing:
                    break  # what comes meanwhile comes a few at a time: better a little later
        except Overrun as overrun:
            if not parts:
                raise
            self._overrun = overrun
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else batches.joined(parts)

    def _part(self) -> Batch | None:
        """Messages that follow each other in the ring, or beside it."""
        self._slots.tell()  # before what the ring has from behind it
        end = time.monotonic() + _LATE_S
        while True:
            head = self._heads(_FEW)
            missing = self._missing(head["number"])
            if len(head) and missing[0] <= 0:
                head = self._heads(MOST)
                return self._out_of_ring(head, before_first(self._missing(head["number"]) > 0))
            wanted = int(missing[0]) if len(head) else SLOTS
            # Where the kernel numbers them it is seen which are missing: a small socket is full again soon.
            if len(head) and not self._sequence and (gone := min(self._gone_before, wanted)):
                self._dropped = (self._dropped + gone) % _ALL_NUMBERS
                self._next += gone
                continue
            sure = not self._gone_before  # else some may be missing before these
            batch = self._beside(wanted)
            if batch is not None and len(batch.lengths):
                count = len(batch.lengths)
                notes = self._notes_beside(batch) if sure else batches.nothing_noted(count)
                self._next += count
                emptied = self._counted[0] <= self._next
                return replace(batch, overflowing=count, notes=notes, emptied=emptied)
            if not len(head):
                if batch is None:
                    return None
                continue  # what came into the ring meanwhile was sent before
            if self._gone(wanted) or batch is not None or time.monotonic() > end:
                self._next += wanted
            else:
                time.sleep(_LOOK_S)

    def _heads(self, most: int) -> batches.Notes:
        """What is before the messages in the first records."""
        return self._ring.records(most)[:, : _HEAD.itemsize].copy().view(_HEAD)[:, 0]

    def _beside(self, most: int) -> Batch | None:
        """Messages of the socket that were sent before the first one in the ring; None if it has none."""
        batch, self._later = self._later, None
        if batch is None:
            batch = self._queued(min(most, SLOTS))
        records = self._ring.records(1)  # one may have come since they were looked at
        if batch is None or not len(records):
            return batch
        batch, later = batches.parted(batch, self._before(batch, records[0]))
        self._later = later if len(later.lengths) else None
        return batch

    def _queued(self, most: int) -> Batch | None:
        """Messages of the socket, the first ones; None if it has none. Raises `Overrun` behind the last one."""
        dropped = netlink.drops(self._socket)
        if dropped == self._dropped_before:
            self._left = None
        elif self._left is None:  # what comes later is to be told apart from what is there
            self._left = max(1, self._waiting(dropped))
        try:
            batch = self._slots.receive(
                self._socket.fileno(), most if self._left is None else min(most, self._left)
            )
        except Overrun:
            self._dropped_before, self._left = netlink.drops(self._socket), None
            raise
        count = 0 if batch is None else len(batch.lengths)
        self._received += count
        if self._left is not None:
            self._left -= count
            if not self._left:
                self._dropped_before, self._left = netlink.drops(self._socket), None
                self._slots.end_of_queue()
        return batch

    def _waiting(self, dropped: int) -> int:
        """How many messages are in the socket: those that were counted and are nowhere else."""
        elsewhere = self._ring.written + (dropped - self._dropped_at_first) % _ALL_NUMBERS
        return self._counted[0] - elsewhere - self._received

    @property
    def _gone_before(self) -> int:
        """How many were dropped, before the socket was emptied, that were not found missing yet."""
        return (self._dropped_before - self._dropped) % _ALL_NUMBERS

    def _notes_beside(self, batch: Batch) -> batches.Notes:
        """When messages of the socket were sent, which come next, as far as that is noted."""
        count = len(batch.lengths)
        notes = batches.nothing_noted(count)
        times = noted.times(self._noted_by, self._next, count)
        own = np.minimum(times + since_the_epoch(), batch.received_ns)
        notes["time"] = np.where(times > 0, own, 0)
        return notes

    def _before(self, batch: Batch, record: npt.NDArray[np.uint8]) -> int:
        """How many messages of the socket were sent before one in the ring.

        Where some found no room in either, later ones may have been queued meanwhile: without numbers of the
        kernel's that cannot be seen.
        """
        head, message = record[: _HEAD.itemsize].view(_HEAD)[0], record[_HEAD.itemsize :]
        if self._sequence is None:
            missing = int(self._missing(head["number"].reshape(1))[0])
            return min(max(missing, 0), len(batch.lengths))
        sequence, ends = self._sequence, np.cumsum(batch.lengths).tolist()
        first = sequence(message[: int(head["length"])].data) or 0
        data, starts = memoryview(batch.data), [0, *ends]

        def later(index: int) -> bool:
            number = sequence(data[starts[index] : ends[index]]) or 0
            return (number - first) % _ALL_NUMBERS < _ALL_NUMBERS // 2

        return bisect.bisect_left(range(len(ends)), True, key=later)  # they are in their order

    def _missing(self, numbers: U32) -> I64:
        """How many messages were sent before each one that are neither here nor were received; shape (n,).

        Two processors that count at once may write into the ring, or queue, the other way round.
        """
        ahead = (numbers - np.uint32(self._next % _ALL_NUMBERS)).view(np.int32).astype(np.int64)
        missing: I64 = ahead - np.arange(len(ahead))
        if missing.any():
            rank = np.empty(len(ahead), np.int64)
            rank[np.argsort(ahead, kind="stable")] = np.arange(len(ahead))
            missing = ahead - rank
            if missing.max() < 0:  # one came after it had been waited for long enough
                self._next += int(missing.max())
        return missing

    def _gone(self, missing: int) -> bool:
        """Whether so many messages found no room in the socket either."""
        dropped = (netlink.drops(self._socket) - self._dropped) % _ALL_NUMBERS
        if dropped < missing:
            return False
        self._dropped = (self._dropped + missing) % _ALL_NUMBERS
        return True

    def _out_of_ring(self, head: batches.Notes, count: int) -> Batch:
        """The first ``count`` messages of those that are there up to the end of the ring."""
        all_of_them, head = count == len(head), head[:count]
        now = time.time_ns()
        lengths: U32 = head["length"].copy()
        first = self._ring.first
        data = self._gathering.gather(first + _HEAD.itemsize, self._ring.stride, lengths)
        self._ring.free(count)
        self._next += count
        self._caught_up = all_of_them and self._ring.first > first
        emptied = self._caught_up and self._counted[0] <= self._next
        notes = np.empty(len(head), NOTE)
        notes["time"] = np.minimum(head["time"] + since_the_epoch(), now)
        notes["cpu"], notes["ruleset"] = head["cpu"], head["ruleset"]
        return Batch(now, lengths, data, 0, 0, notes=notes, emptied=emptied)


class Untapped:
    """A socket that is received from, without a tap; ``untapped``: why."""

    pressing = False  # what is in a socket is received whenever there is time

    def __init__(self, opened: socket.socket, slots: Slots, why: str) -> None:
        self.untapped = why
        self._socket, self._slots = opened, slots

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def receive(self) -> Batch | None:
        """See `Slots`."""
        return self._slots.receive(self._socket.fileno())


class Tapped:
    """A socket whose messages come through a tap where that is allowed; a context manager.

    ``untapped``: why there is none, "" where there is one.
    """

    _source: Tap | Untapped
    _opened: contextlib.ExitStack  # closed in the end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def untapped(self) -> str:
        """See the class."""
        return self._source.untapped

    @property
    def pressing(self) -> bool:
        """Whether so many events wait in a tap that they are to be received now."""
        return self._source.pressing

    def fileno(self) -> int:
        """For poll."""
        return self._source.fileno()


def _code(
    ring: int, table: int, room: int, ruleset: bpf.Code, *, kinds: Collection[int], others: bool
) -> bytes:
    """The program. ``ring``, ``table``: maps.

    Verifiers differ: two plain comparisons of 64 bits are understood by all.
    """
    refused = _WHOLE if others else 0
    return bpf.assembled(
        [
            move(_CTX, _R1),
            bpf.load_packet(HALF, _KIND_AT),
            *((bpf.EQUAL, _R0, socket.htons(kind), "tapped") for kind in kinds),
            number(_R0, refused),
            bpf.EXIT,
            "tapped",
            store_value(LONG, _STACK, NOTED_AT, NO_RULESET),
            *ruleset,
            number(_NUMBER, 1),
            bpf.map_value(_R1, table),
            bpf.count_in_memory(_R1, _NUMBER),
            load(WORD, _LENGTH, _CTX),  # struct __sk_buff, len
            (bpf.ABOVE, _LENGTH, room, "whole"),
            (bpf.BELOW, _LENGTH, 1, "whole"),
            bpf.map_itself(_R1, ring),
            number(_R2, _HEAD.itemsize + room),
            number(_R3, 0),
            bpf.call(bpf.RESERVE),
            (bpf.EQUAL, _R0, 0, "whole"),
            move(_RECORD, _R0),
            bpf.call(bpf.KTIME),
            _kept("time", _R0, LONG),
            bpf.call(bpf.CPU),
            _kept("cpu", _R0),
            _kept("length", _LENGTH),
            _kept("number", _NUMBER),
            load(LONG, _R1, _STACK, NOTED_AT),
            _kept("ruleset", _R1),
            move(_R1, _CTX),
            number(_R2, 0),
            move(_R3, _RECORD),
            bpf.add(_R3, _HEAD.itemsize),
            move(_R4, _LENGTH),
            bpf.call(bpf.LOAD_BYTES),
            move(_LENGTH, _R0),
            move(_R1, _RECORD),
            number(_R2, 0),  # whoever waits is woken by the first record after all were taken
            (bpf.NOT_EQUAL, _LENGTH, 0, "taken back"),
            bpf.call(bpf.SUBMIT),
            number(_R0, 0),
            bpf.EXIT,
            "taken back",
            bpf.call(bpf.DISCARD),
            "whole",
            bpf.call(bpf.KTIME),
            bpf.map_value(_R1, table),
            bpf.and_(_NUMBER, noted.NOTES - 1),
            bpf.shift(_NUMBER, 3),
            bpf.add_register(_R1, _NUMBER),
            store(LONG, _R1, 8, _R0),
            number(_R0, _WHOLE),
            bpf.EXIT,
        ]
    )


def _kept(field: str, by: int, size: int = WORD) -> bytes:
    """Store a register in a field of the record."""
    return store(size, _RECORD, _OFFSETS[field], by)
