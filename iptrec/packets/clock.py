"""When an event was logged, as far as that can be known.

A recorder with a tap notes when the kernel sent each datagram. Of others receive times tell: the kernel
stamps packets in PREROUTING, INPUT and FORWARD with their arrival, at most; what is received was logged
before, under load seconds before. But events come in the order in which they were logged: an event was
logged after the stamps of those before it, and after the last time that the socket was found empty before. The
recorder's loop is one thread: a call that came back after the first lists of the network were kept began after
that, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask


# The clock is read after the call; in between the recorder may have been off its processor, but for half
# of this only (`kernel.batches`).
_SLACK_NS: Final = 20_000_000


_NEVER: Final = int(np.iinfo(np.int64).max)


class Receipt(NamedTuple):
    """What the times of datagrams alone tell; shape (n,) each, epoch, ns.

    ``floor``: the datagram was logged after this time. ``guess``: when it was logged, most likely. ``sent``:
    not after this. ``missed``: it has no time of its own, though the ones beside it have. ``cpu``: the
    processor that it was logged on, -1 where nobody noted it. ``own``: ``sent`` is its own time.
    """

    floor: I64
    guess: I64
    sent: I64
    missed: Mask
    cpu: I64
    own: Mask

    def take(self, index: I64) -> Receipt:
        """Those of some datagrams."""
        floor, guess, sent, missed, cpu, own = self
        return Receipt(
            floor[index], guess[index], sent[index], missed[index], cpu[index], own[index]
        )


_NO_TIMES: Final = np.zeros(0, np.int64)
_NONE: Final = np.zeros(0, np.bool_)
NOTHING: Final = Receipt(_NO_TIMES, _NO_TIMES, _NO_TIMES, _NONE, _NO_TIMES, _NONE)


def noted(
    earliest_ns: I64, latest_ns: I64, known: Mask, before_ns: int, under_way_ns: int
) -> Receipt:
    """Judge datagrams by when the kernel sent them, as far as a tap noted it: see `packing.Sent`.

    What found no room in its ring was sent soon after the one before, as far as one can guess: the ring was
    full already. ``before_ns``: the floor of the datagram before the first one. ``under_way_ns``: see
    `RulesetBackend`.
    """
    floor = earliest_ns - under_way_ns
    floor = np.where(known, floor, np.maximum(floor, before_ns))
    return Receipt(floor, earliest_ns, latest_ns, ~known, np.full(len(known), -1), known)


def receipt(received_ns: I64, before_ns: int, slots: int, listed_ns: int = 0) -> Receipt:
    """Judge datagrams by the calls that received them: those of one call have the same time.

    A call that brought fewer than ``slots`` found the socket empty: what the next one brought was
    logged after it, and woke it. ``before_ns``: the floor of the datagram before the first one.
    ``listed_ns``: when the recorder's loop kept the first lists of the network; 0: not known.
    """
    if not len(received_ns):
        return NOTHING
    starts = np.flatnonzero(np.diff(received_ns, prepend=received_ns[0] - 1))
    sizes = np.diff(starts, append=len(received_ns))
    emptied = np.concatenate([[True], sizes[:-1] < slots])
    times = received_ns[starts]
    begun = np.maximum(times - _SLACK_NS, np.where(times >= listed_ns, listed_ns, 0))
    after = np.where(sizes < slots, begun, before_ns)
    floor = np.maximum.accumulate(np.concatenate([[before_ns], after[:-1]]))
    guess = np.where(emptied, times, floor)
    no, cpu = np.zeros(len(received_ns), np.bool_), np.full(len(received_ns), -1)
    return Receipt(np.repeat(floor, sizes), np.repeat(guess, sizes), received_ns, no, cpu, no)


def floor_after(received_ns: I64, before_ns: int, slots: int, listed_ns: int = 0) -> int:
    """After which time (epoch, ns) the datagrams of the next call were logged; see `receipt`."""
    last = int(received_ns[-1])
    if len(received_ns) - int(np.searchsorted(received_ns, last)) >= slots:
        return before_ns
    return max(before_ns, last - _SLACK_NS, listed_ns if last >= listed_ns else 0)


def bounds(events: TraceEvents, receipt: Receipt) -> tuple[I64, I64]:
    """The earliest and the latest moment at which each event can have been logged, shape (n,).

    ``receipt``: of the events' datagrams.
    """
    earliest = np.maximum(_stamps_before(events), receipt.floor)
    return np.minimum(earliest, events.sent_ns), events.sent_ns


def moments(events: TraceEvents, receipt: Receipt) -> I64:
    """When each event was logged, as well as one can tell (epoch, ns), shape (n,).

    What is guessed of one is between the own times of those before it and behind it.
    """
    guess = np.minimum(np.maximum(_stamps_before(events), receipt.guess), events.sent_ns)
    if receipt.missed.any():
        before = np.maximum.accumulate(np.where(receipt.missed, 0, guess))
        behind = np.minimum.accumulate(np.where(receipt.missed, _NEVER, guess)[::-1])[::-1]
        guess = np.where(receipt.missed, np.minimum(np.maximum(guess, before), behind), guess)
    return np.where(_stamped(events), events.stamp_ns, guess)


def estimated(events: TraceEvents, receipt: Receipt) -> Mask:
    """Of which events that is not their own time, though others have theirs; shape (n,)."""
    return receipt.missed & ~_stamped(events)


def latest_stamp(events: TraceEvents) -> int:
    """The latest stamp of all, 0 if none has one."""
    return int(_stamps_before(events).max(initial=0))


def _stamps_before(events: TraceEvents) -> I64:
    """The latest stamp up to each event."""
    stamped = np.where(events.stamp_ns <= events.sent_ns, events.stamp_ns, 0)
    return np.maximum.accumulate(stamped) if len(stamped) else stamped


def _stamped(events: TraceEvents) -> Mask:
    return (events.stamp_ns > 0) & (events.stamp_ns <= events.sent_ns)
