"""Events of one trace id, found among those of others: most come one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from iptrec.names import I64, Mask


class Traces:
    """Events by their ids, shape (n,), in order of arrival."""

    def __init__(self, trace: I64) -> None:
        self._position = np.arange(len(trace))
        begins = np.ones(len(trace), np.bool_)
        begins[1:] = trace[1:] != trace[:-1]
        self._run = np.cumsum(begins) - 1
        self._begin = np.flatnonzero(begins)
        of_runs = trace[self._begin]
        self._order = np.argsort(of_runs, kind="stable")
        new = np.ones(len(self._order), np.bool_)
        new[1:] = np.diff(of_runs[self._order]) != 0
        self._first = np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))

    def latest(self, chosen: Mask) -> I64:
        """For each event the last chosen one of its id up to it, -1: none; shape (n,)."""
        if not len(chosen):
            return self._position
        found = np.maximum.accumulate(np.where(chosen, self._position, -1))
        ends = np.append(self._begin[1:], len(chosen)) - 1
        last = np.where(found[ends] >= self._begin, found[ends], -1)[self._order]
        # Of the runs of its id before: positions grow, but where an id begins nothing was before.
        at = np.maximum.accumulate(np.where(last >= 0, np.arange(len(last)), -1))
        before = np.concatenate([[-1], at[:-1]])
        carried = np.empty(len(last), np.int64)
        carried[self._order] = np.where(before >= self._first, last[before], -1)
        return np.where(found >= self._begin[self._run], found, carried[self._run])
