"""Records of drops that were read ahead of the packets: those of a window's time are looked at first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from iptrec.packets.drop_records import Records

if TYPE_CHECKING:
    from iptrec.names import I64, Mask


class _Part(NamedTuple):
    """Some records that came together. ``late``: which may come seconds after the last rule, shape (n,)."""

    records: Records
    late: Mask

    def take(self, index: I64 | Mask) -> _Part:
        return _Part(self.records.take(index), self.late[index])


class Ahead:
    """Records in the order in which they came; ``len()``: how many."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._given: list[tuple[int, I64]] = []  # of which part what was given last

    def __len__(self) -> int:
        return sum(len(one.late) for one in self._parts)

    def add(self, records: Records, late: Mask) -> None:
        """Take records that came after all others."""
        self._parts.append(_Part(records, late))

    def leave_behind(self, since_ns: int) -> None:
        """Forget those of the time before."""
        kept = []
        for one in self._parts:
            early = one.records.time_ns < since_ns
            part = one.take(~early) if early.any() else one
            if len(part.late):
                kept.append(part)
        self._parts = kept

    def until(self, until_ns: int) -> Records:
        """Those of the time up to then (epoch), and all that may come late."""
        given, found = [], [Records.none()]
        for number, one in enumerate(self._parts):
            near = np.flatnonzero((one.records.time_ns <= until_ns) | one.late)
            if len(near):
                given.append((number, near))
                found.append(one.records.take(near))
        self._given = given
        return Records(*(np.concatenate(some) for some in zip(*found, strict=True)))

    def forget(self, used: Mask) -> None:
        """Some of those that `until` gave last are not needed any more."""
        begin = 0
        for number, near in self._given:
            gone = near[used[begin : begin + len(near)]]
            begin += len(near)
            if len(gone):
                kept = np.ones(len(self._parts[number].late), np.bool_)
                kept[gone] = False
                self._parts[number] = self._parts[number].take(kept)
        self._given = []
