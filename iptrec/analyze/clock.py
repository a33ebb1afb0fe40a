"""When an event was logged, as far as that can be known.

The kernel stamps packets in PREROUTING, INPUT and FORWARD with their arrival, at most; what is received
was logged before, under load seconds before. But events come in the order in which they were logged:
an event was logged after the stamps of those before it, and after the last time that the socket was
found empty before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.decode.nflog import NflogEvents

    I64 = npt.NDArray[np.int64]

# The clock is read after the call; in between the recorder may have been off its processor.
_SLACK_NS: Final = 20_000_000


def floors(received_ns: I64, before_ns: int, slots: int) -> I64:
    """For each datagram a time (epoch, ns) that it was logged after, from receive times alone.

    Datagrams of one call have the same receive time; a call that brought fewer than ``slots`` found the
    socket empty. ``before_ns``: what is known of the datagram before the first one.
    """
    if not len(received_ns):
        return received_ns
    starts = np.flatnonzero(np.diff(received_ns, prepend=received_ns[0] - 1))
    sizes = np.diff(starts, append=len(received_ns))
    emptied = np.where(sizes < slots, received_ns[starts] - _SLACK_NS, before_ns)
    floor = np.concatenate([[before_ns], emptied[:-1]])
    return np.repeat(np.maximum.accumulate(floor), sizes)


def bounds(events: NflogEvents, floor_ns: I64) -> tuple[I64, I64]:
    """The earliest and the latest moment at which each event can have been logged, shape (n,).

    ``floor_ns``: `floors` of the events' datagrams.
    """
    stamped = np.where(events.stamp_ns <= events.received_ns, events.stamp_ns, 0)
    earliest = np.maximum(np.maximum.accumulate(stamped), floor_ns) if len(stamped) else stamped
    return np.minimum(earliest, events.received_ns), events.received_ns
