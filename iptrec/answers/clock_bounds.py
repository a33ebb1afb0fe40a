"""How far one clock can be ahead of another one, by packets that went from the one host to the other one.

Packets of a way are each a bound: one took less than no time if its times are further apart. Two of them may
be other packets than they are taken for (`MISTAKEN`), so the least difference that counts is the third one.

Clocks drift. The offset is taken as a line whose slope is `DRIFT_PPM` at most, and what is told holds for every
line that no packet contradicts, over all of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.names import I64, Mask

DRIFT_PPM: Final = 50  # a common crystal, not disciplined; of one clock against the other one
MISTAKEN: Final = 2
_GROUPS, _GROUP = 256, 8  # so many groups of packets at most, and of so many packets at least
_STEPS: Final = 80  # each takes a third: beyond what a float tells apart


class Crossings(NamedTuple):
    """Packets that were seen on both hosts of a pair, shape (n,) each.

    ``there``: whether it went from the first to the second one. ``apart_ns``: how much later it came than it
    left, each by its host's clock. ``time_ns``: on the first one (epoch).
    """

    there: Mask
    apart_ns: I64
    time_ns: I64

    def only(self, chosen: Mask) -> Crossings:
        """Some of them."""
        return Crossings(self.there[chosen], self.apart_ns[chosen], self.time_ns[chosen])


class Bounds(NamedTuple):
    """Of how far one clock is ahead of another one (ns), as far as packets tell; None: not on that side.

    ``from_ns``, ``to_ns``: between these times (epoch, of the other clock), and in all of that time. ``there``,
    ``back``: how many packets went from the other host to this one, and how many the other way.
    """

    from_ns: int
    to_ns: int
    at_least_ns: int | None
    at_most_ns: int | None
    there: int
    back: int

    @property
    def offset_ns(self) -> int | None:
        """The estimate; None where packets went one way alone, or the bounds contradict each other."""
        if self.at_least_ns is None or self.at_most_ns is None or self.contradictory:
            return None
        return (self.at_least_ns + self.at_most_ns) // 2

    @property
    def within_ns(self) -> int | None:
        """How wrong it can be."""
        if self.at_least_ns is None or self.at_most_ns is None or self.contradictory:
            return None
        return (self.at_most_ns - self.at_least_ns + 1) // 2

    @property
    def contradictory(self) -> bool:
        """Whether no offset can be all the time."""
        if self.at_least_ns is None or self.at_most_ns is None:
            return False
        return self.at_least_ns > self.at_most_ns

    @property
    def nothing(self) -> bool:
        """Whether there is none."""
        return self.at_least_ns is None and self.at_most_ns is None


def bounds(crossings: Crossings) -> Bounds:
    """Those that crossings set, of which there is one at least.

    Contradictory ones are as they are for clocks that do not drift.
    """
    there = crossings.only(crossings.there)
    back = crossings.only(~crossings.there)
    begin, end = int(crossings.time_ns.min()), int(crossings.time_ns.max())
    # About where they are, for a float tells no nanoseconds of a clock that is wrong by years.
    about = int(crossings.apart_ns[0]) * (1 if crossings.there[0] else -1)
    above = _Side(there.time_ns - begin, there.apart_ns - about)
    below = _Side(back.time_ns - begin, back.apart_ns + about)
    known = Bounds(begin, end, None, None, len(there.there), len(back.there))
    if above.known and below.known and above.least(0.0) + below.least(0.0) < 0:
        return known._replace(
            at_least_ns=about - round(below.least(0.0)),
            at_most_ns=about + round(above.least(0.0)),
        )
    slopes = _slopes(above, below)
    if above.known:
        most = max(above.furthest(at, slopes) for at in (0, end - begin))
        known = known._replace(at_most_ns=about + int(np.ceil(most)))
    if below.known:
        mirrored = -slopes[1], -slopes[0]
        least = max(below.furthest(at, mirrored) for at in (0, end - begin))
        known = known._replace(at_least_ns=about - int(np.ceil(least)))
    return known


class _Side:
    """Packets of one way: how much an offset can be at most, of what they leave to it at their times."""

    def __init__(self, time_ns: I64, apart_ns: I64) -> None:
        order = np.argsort(time_ns, kind="stable")
        count = len(order)
        groups = [order, *np.array_split(order, min(_GROUPS, max(1, count // _GROUP)))]
        chosen = [
            one[np.argpartition(apart_ns[one], MISTAKEN)[MISTAKEN]]
            for one in groups
            if len(one) > MISTAKEN
        ]
        self.known = bool(chosen)
        self._time, self._apart = time_ns[chosen].astype(float), apart_ns[chosen]

    def least(self, slope: float, at: float = 0.0) -> float:
        """The highest offset at a time that a line of this slope can have."""
        return float(np.min(self._apart + slope * (at - self._time)))

    def furthest(self, at: float, slopes: tuple[float, float]) -> float:
        """The highest offset at a time of all lines of such slopes: a maximum of a concave function."""
        low, high = slopes
        for _ in range(_STEPS):
            third = (high - low) / 3
            if self.least(low + third, at) < self.least(high - third, at):
                low += third
            else:
                high -= third
        return max(self.least(one, at) for one in (*slopes, low, high))


def _slopes(above: _Side, below: _Side) -> tuple[float, float]:
    """Between which slopes some line contradicts no packet; one that does not drift contradicts none."""
    most = DRIFT_PPM * 1e-6

    def fits(slope: float) -> bool:
        if not (above.known and below.known):
            return True
        return above.least(slope) + below.least(-slope) >= 0

    return -_last(lambda one: fits(-one), most), _last(fits, most)


def _last(fits: Callable[[float], bool], most: float) -> float:
    """Up to where it does, from 0 on; a little more rather than less."""
    if fits(most):
        return most
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return high


def cut(crossings: Crossings, whole: Bounds, number: int) -> Iterator[Bounds]:
    """The bounds of so many pieces of equal length, but for those without enough packets."""
    length = (whole.to_ns - whole.from_ns) // number + 1
    piece = (crossings.time_ns - whole.from_ns) // length
    for one in range(number):
        here = piece == one
        if here.any() and not (told := bounds(crossings.only(here))).nothing:
            yield told
