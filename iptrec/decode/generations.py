"""Which generations of the rules events may have met, by what the kernel told between them.

nf_tables numbers its rulesets. A commit puts a new one in force at one moment, and tells its number a little
later (net/netfilter/nf_tables_api.c, nf_tables_commit), into the socket that the events come through: what is
after the number there met it, but for what was under way then; what is before it has not, but for the last
moment. The recorder notes the number again when it is still the same, so that this moment is short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from iptrec.names import I64, Mask

BEFORE_ALL: Final = -1
LAST_OF_ALL: Final = 2**32
_UNDER_WAY_NS: Final = 5_000_000  # a packet passes a base chain in microseconds
_NOTHING: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Generations:
    """Numbers of rulesets that were told among datagrams, in order; all have shape (n,).

    ``datagram``: the index of the one that told it. ``sent_ns``: when it was sent (epoch), as events have it.
    ``finished``: the last one up to there of which the kernel told unasked, as it does when a commit is done;
    `BEFORE_ALL` if none was.
    """

    number: I64
    datagram: I64
    sent_ns: I64
    finished: I64

    def __len__(self) -> int:
        """Return how many were told."""
        return len(self.number)

    def then(self, other: Generations, datagrams: int) -> Generations:
        """With those of other datagrams behind these; ``datagrams``: how many these are."""
        return Generations(
            np.concatenate([self.number, other.number]),
            np.concatenate([self.datagram, other.datagram + datagrams]),
            np.concatenate([self.sent_ns, other.sent_ns]),
            np.maximum.accumulate(np.concatenate([self.finished, other.finished])),
        )

    def bounds(self, head: I64, sent_ns: I64) -> tuple[I64, I64]:
        """The oldest and the newest that each event can have met; all of shape (n,), see `TraceEvents`.

        A packet reads which one is in force when it enters a base chain. So the newest one is told by the first
        event there, and the oldest one shortly before it: see `told_before` for who knows the packet.
        """
        follows = np.searchsorted(self.datagram, head)
        long_since = np.searchsorted(self.sent_ns, sent_ns - _UNDER_WAY_NS)
        number = np.concatenate([[BEFORE_ALL], self.number, [LAST_OF_ALL]])
        return number[np.minimum(follows, long_since)], number[follows + 1]

    def told_before(self, datagram: int) -> int:
        """The last one that was told before a datagram; `BEFORE_ALL` if none was."""
        return self._before(self.number, datagram)

    def finished_before(self, datagram: int) -> int:
        """The last one of which the kernel told unasked before a datagram: what it deleted is detached."""
        return self._before(self.finished, datagram)

    def looked_up(self, before: int | None, datagram: int, sent_ns: int) -> tuple[int, int]:
        """The oldest and the newest of which elements of sets can have been found before an event.

        Some sets get the elements of a commit while it is under way, after its rules are in force
        (nft_set_commit_update). ``datagram``: the event's; ``before``: that of the event before it of the same
        packet, None where there is none.
        """
        follows = int(np.searchsorted(self.datagram, datagram))
        newest = int(self.number[follows]) if follows < len(self) else LAST_OF_ALL
        if before is not None:
            return self.finished_before(before), newest
        long_since = int(np.searchsorted(self.sent_ns, sent_ns - _UNDER_WAY_NS))
        follows = min(follows, long_since)
        return int(self.finished[follows - 1]) if follows else BEFORE_ALL, newest

    def _before(self, numbers: I64, datagram: int) -> int:
        follows = int(np.searchsorted(self.datagram, datagram))
        return int(numbers[follows - 1]) if follows else BEFORE_ALL

    def needed(self, datagrams: Mask) -> I64:
        """The datagrams of those that some datagrams are judged by: the one before, and all after the first."""
        first = int(np.argmax(datagrams)) if datagrams.any() else len(datagrams)
        return self.datagram[max(int(np.searchsorted(self.datagram, first)) - 1, 0) :]


NONE: Final = Generations(_NOTHING, _NOTHING, _NOTHING, _NOTHING)
