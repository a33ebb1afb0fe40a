"""When an event was logged, as far as that can be known.

The kernel stamps packets in PREROUTING, INPUT and FORWARD with their arrival, at most; what is received
was logged before, under load seconds before. But events come in the order in which they were logged:
an event was logged after the stamps of those before it, and after the last time that the socket was
found empty before. The recorder's loop is one thread: a call that came back after the first lists of the
network were kept began after that, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64


# The clock is read after the call; in between the recorder may have been off its processor, but for half
# of this only (`kernel.batches`).
_SLACK_NS: Final = 20_000_000


class Receipt(NamedTuple):
    """What the receive times of datagrams alone tell; shape (n,) each, epoch, ns.

    ``floor``: the datagram was logged after this time. ``guess``: when it was logged, most likely.
    """

    floor: I64
    guess: I64

    def take(self, index: I64) -> Receipt:
        """Those of some datagrams."""
        return Receipt(self.floor[index], self.guess[index])


def receipt(received_ns: I64, before_ns: int, slots: int, listed_ns: int = 0) -> Receipt:
    """Judge datagrams by the calls that received them: those of one call have the same time.

    A call that brought fewer than ``slots`` found the socket empty: what the next one brought was
    logged after it, and woke it. ``before_ns``: the floor of the datagram before the first one.
    ``listed_ns``: when the recorder's loop kept the first lists of the network; 0: not known.
    """
    if not len(received_ns):
        return Receipt(received_ns, received_ns)
    starts = np.flatnonzero(np.diff(received_ns, prepend=received_ns[0] - 1))
    sizes = np.diff(starts, append=len(received_ns))
    emptied = np.concatenate([[True], sizes[:-1] < slots])
    times = received_ns[starts]
    begun = np.maximum(times - _SLACK_NS, np.where(times >= listed_ns, listed_ns, 0))
    after = np.where(sizes < slots, begun, before_ns)
    floor = np.maximum.accumulate(np.concatenate([[before_ns], after[:-1]]))
    guess = np.where(emptied, times, floor)
    return Receipt(np.repeat(floor, sizes), np.repeat(guess, sizes))


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
    return np.minimum(earliest, events.received_ns), events.received_ns


def moments(events: TraceEvents, receipt: Receipt) -> I64:
    """When each event was logged, as well as one can tell (epoch, ns), shape (n,)."""
    guess = np.maximum(_stamps_before(events), receipt.guess)
    stamped = (events.stamp_ns > 0) & (events.stamp_ns <= events.received_ns)
    return np.where(stamped, events.stamp_ns, np.minimum(guess, events.received_ns))


def latest_stamp(events: TraceEvents) -> int:
    """The latest stamp of all, 0 if none has one."""
    return int(_stamps_before(events).max(initial=0))


def _stamps_before(events: TraceEvents) -> I64:
    """The latest stamp up to each event."""
    stamped = np.where(events.stamp_ns <= events.received_ns, events.stamp_ns, 0)
    return np.maximum.accumulate(stamped) if len(stamped) else stamped
