"""How packets ended over time: counts in at most so many intervals of one length, whatever the times are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from iptrec.answers.packets import Batch
    from iptrec.views.timestamps import Clock

_MOST: Final = 100  # intervals
_SHORTEST_NS: Final = 1_000_000
_FACTORS: Final = (1, 2, 5, 10, 20)


class Times:
    """Counts packets by verdict and time, batch by batch. Intervals are ten times finer than need be."""

    def __init__(self) -> None:
        self._length = _SHORTEST_NS
        self._counts: dict[int, dict[str, int]] = {}

    def add(self, batch: Batch) -> None:
        """Count those of a batch that are selected."""
        assembly = batch.window.assembly
        positions = batch.positions
        if not len(positions):
            return
        times = batch.window.moment_ns[assembly.rows[assembly.first[positions]]]
        ends = [min([int(times.min()), *self._edges()]), max([int(times.max()), *self._edges()])]
        while ends[1] // self._length - ends[0] // self._length >= 10 * _MOST:
            self._length *= 10
            self._counts = _merged(self._counts, 10)
        outcomes, of = np.unique(assembly.outcome[positions], return_inverse=True)
        slots, at = np.unique(times // self._length, return_inverse=True)
        counts = np.bincount(at * len(outcomes) + of, minlength=len(slots) * len(outcomes))
        for pair in np.flatnonzero(counts).tolist():
            slot, outcome = divmod(pair, len(outcomes))
            verdict = assembly.outcomes[outcomes[outcome]].verdict
            found = self._counts.setdefault(int(slots[slot]), {})
            found[verdict] = found.get(verdict, 0) + int(counts[pair])

    def _edges(self) -> list[int]:
        return (
            [one * self._length for one in (min(self._counts), max(self._counts))]
            if self._counts
            else []
        )

    def as_object(self, clock: Clock) -> dict[str, Any]:
        """As values of JSON; ``bars`` are [number from the first one, its time, {verdict: packets}]."""
        if not self._counts:
            return {"first_ns": 0, "length_ns": 0, "bars": []}
        low, high = min(self._counts), max(self._counts)
        factor = next(one for one in _FACTORS if high // one - low // one < _MOST)
        counts, length = _merged(self._counts, factor), self._length * factor
        first = min(counts)
        return {
            "first_ns": first * length,
            "length_ns": length,
            "bars": [
                [slot - first, clock.full(slot * length), counts[slot]] for slot in sorted(counts)
            ],
        }


def _merged(counts: dict[int, dict[str, int]], factor: int) -> dict[int, dict[str, int]]:
    """The same in intervals so many times as long."""
    found: dict[int, dict[str, int]] = {}
    for slot, some in counts.items():
        into = found.setdefault(slot // factor, {})
        for verdict, packets in some.items():
            into[verdict] = into.get(verdict, 0) + packets
    return found
