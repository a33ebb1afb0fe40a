"""The last row of a column before another one that has some value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from iptrec.names import I64, U64


class Index:
    """Finds values of a column, but for 0."""

    def __init__(self, column: U64) -> None:
        rows = np.flatnonzero(column)
        order = rows[np.argsort(column[rows], kind="stable")]
        ordered = column[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = ordered[1:] != ordered[:-1]
        self._values = ordered[new]
        self._rows = len(column)
        # Each place in the order as one number: which value, which row.
        self._places = (np.cumsum(new) - 1) * self._rows + order
        self._ends = np.append(np.flatnonzero(new)[1:], len(order))

    def __len__(self) -> int:
        """How many distinct values."""
        return len(self._values)

    def latest(self, values: U64, before: I64) -> I64:
        """For each value the last row before another one that has it; -1: none."""
        which = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        found = np.full(len(values), -1)
        at = np.flatnonzero(self._values[which] == values)
        which, before = which[at], before[at]
        if (before >= self._rows).all():
            last = self._ends[which] - 1
        else:
            places = which * self._rows + np.clip(before, 0, self._rows)
            last = np.searchsorted(self._places, places) - 1
        place = self._places[last]
        found[at] = np.where((last >= 0) & (place // self._rows == which), place % self._rows, -1)
        return found
