"""Lines that are in a log twice: kern.log beside syslog, or a buffer that was read again.

Two lines of one number (/dev/kmsg), or of one microsecond with equal words, are one event. Where times are less
exact, equal packets may have made equal lines, and nobody can tell; unless times go back to a line that was
there, and lines come again from there on: that is the log once more.
"""

from __future__ import annotations

from typing import Final

from iptrec.pasted.prefixes import exact

_REMEMBERED: Final = (
    1 << 17
)  # hashes, twice: a line that comes again after more lines is taken for another one


class Repeated:
    """Looks for them. ``left_out``: how many there were; ``alike``: of how many it cannot be told."""

    def __init__(self) -> None:
        self.left_out = 0
        self.alike = 0
        self._once_more = False
        self._new: set[int] = set()
        self._old: set[int] = set()

    def is_one(self, before: bytes, place: bytes, rest: bytes, *, goes_back: bool) -> bool:
        """Whether that event was there already, by what is before its line, its place and its words.

        ``goes_back``: its time is before that of the previous line.
        """
        stamp, alone = exact(before)
        key = hash(stamp if alone else (stamp or before, place, rest.rstrip()))
        known = key in self._new or key in self._old
        self._remember(key)
        self._once_more = known and (self._once_more or goes_back)
        certain = known and (bool(stamp) or self._once_more)
        self.left_out += certain
        self.alike += known and not certain
        return certain

    def _remember(self, key: int) -> None:
        if len(self._new) >= _REMEMBERED:
            self._old, self._new = self._new, set()
        self._new.add(key)
