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
    from iptrec.names import I64


# The clock is read after the call; in between the recorder may have been off its processor, but for half
# of this only (`kernel.batches`).
_SLACK_NS: Final = 20_000_000


_NEVER: Final = int(np.iinfo(np.int64).max)


class Receipt(NamedTuple):
    """What the times of datagrams alone tell; shape (n,) each, epoch, ns.

    ``floor``: the datagram was logged after this time. ``guess``: when it was logged, most likely. ``sent``:
    not after this. ``cpu``: the processor that it was logged on, -1 where nobody noted it.
    """

    floor: I64
    guess: I64
    sent: I64
    cpu: I64

    def take(self, index: I64) -> Receipt:
        """Those of some datagrams."""
        return Receipt(*(one[index] for one in self))


NOTHING: Final = Receipt(*[np.zeros(0, np.int64)] * 4)


def noted(received_ns: I64, sent_ns: I64, before_ns: int, under_way_ns: int) -> Receipt:
    """Judge datagrams by when the kernel sent them, as a tap noted it; 0: it did not.

    They are in the order in which they were sent: what came through the socket, as the ring was full,
    was sent before what follows. ``before_ns``: the floor of the datagram before the first one.
    ``under_way_ns``: see `RulesetBackend`.
    """
    known = sent_ns > 0
    before = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    floor = np.minimum(sent_ns, received_ns)[before] - under_way_ns
    latest = _sent(received_ns, sent_ns)
    nowhere = np.full(len(known), -1)
    return Receipt(np.where(before < 0, before_ns, floor), latest, latest, nowhere)


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
    nowhere = np.full(len(received_ns), -1)
    return Receipt(np.repeat(floor, sizes), np.repeat(guess, sizes), received_ns, nowhere)


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
    """When each event was logged, as well as one can tell (epoch, ns), shape (n,)."""
    guess = np.maximum(_stamps_before(events), receipt.guess)
    stamped = (events.stamp_ns > 0) & (events.stamp_ns <= events.sent_ns)
    return np.where(stamped, events.stamp_ns, np.minimum(guess, events.sent_ns))


def latest_stamp(events: TraceEvents) -> int:
    """The latest stamp of all, 0 if none has one."""
    return int(_stamps_before(events).max(initial=0))


def _stamps_before(events: TraceEvents) -> I64:
    """The latest stamp up to each event."""
    stamped = np.where(events.stamp_ns <= events.sent_ns, events.stamp_ns, 0)
    return np.maximum.accumulate(stamped) if len(stamped) else stamped


def _sent(received_ns: I64, sent_ns: I64) -> I64:
    """When datagrams were sent, at the latest; see `noted`."""
    known = sent_ns > 0
    noted = np.minimum(sent_ns, received_ns)
    if known.all() or not known.any():
        return noted if len(known) and known[0] else received_ns
    rows = np.arange(len(known))
    following = np.minimum.accumulate(np.where(known, rows, len(rows))[::-1])[::-1]
    before = np.maximum.accumulate(np.where(known, rows, -1))
    latest = np.append(noted, _NEVER)[following]
    earliest = np.where(before < 0, 0, noted[before])  # where the clock was set back
    return np.where(known, noted, np.minimum(received_ns, np.maximum(latest, earliest)))
