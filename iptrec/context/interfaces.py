"""The names of interfaces over time: containers come and go, and the kernel gives an index again.

An interface that is gone keeps its name until its index is given to another one: packets of its last
moments are received later.
"""

from __future__ import annotations

import bisect
import heapq
import operator
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.context.datagrams import datagrams
from iptrec.decode.rtnetlink import link_changes
from iptrec.decode.snapshots import links
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from iptrec.names import I64, Mask
    from iptrec.recording.rows import Recording


_EVER: Final = np.iinfo(np.int64)
_SMALL: Final = 1 << 16
_MOST: Final = 1_000_000  # names over time


class Interfaces:
    """The interfaces of one namespace of a recording, which may still grow."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace
        self._names: dict[int, list[str]] = {}
        self._since: dict[int, list[int]] = {}
        self._size = 0
        self._seen: dict[int, int] = {}
        for found in heapq.merge(self._listed(), self._changes(), key=operator.itemgetter(0)):
            self._add(*found)

    def update(self) -> None:
        """Read on in the streams of changes."""
        for found in self._changes():
            self._add(*found)

    def _listed(self) -> Iterator[tuple[int, int, str]]:
        """Time, index and name of the interfaces of each list; those of the first one were there before."""
        lists = (
            one for one in self._recording.snapshots("links") if one.namespace == self._namespace
        )
        for number, snapshot in enumerate(lists):
            for index, name in links(snapshot.content, snapshot.media):
                yield snapshot.time_ns if number else _EVER.min, index, name

    def _changes(self) -> Iterator[tuple[int, int, str]]:
        """The same of what the streams tell, from where they were read up to."""
        told = datagrams(self._recording, "rtnetlink", self._namespace, self._seen)
        for time_ns, datagram in told:
            for change in link_changes(datagram):
                if not change.gone:
                    yield time_ns, change.index, change.name

    def name(self, index: int, time_ns: int) -> str:
        """The interface's name at a time (epoch); "if7" for an index that nobody named."""
        if index not in self._names:
            return f"if{index}"
        at = bisect.bisect_right(self._since[index], time_ns) - 1
        return self._names[index][max(at, 0)]

    def names(self, index: npt.NDArray[np.uint32], time_ns: I64) -> tuple[list[str], I64]:
        """The names of many (index, time): distinct ones, and the number of each one's, shape (n,)."""
        known: dict[str, int] = {}
        found = np.zeros(len(index), np.int64)
        for number in _distinct(index):
            here = index == number
            spans = self._spans(number) or [("", _EVER.min)]
            if len(spans) == 1:
                found[here] = known.setdefault(spans[0][0], len(known))
                continue
            numbers = np.array([known.setdefault(name, len(known)) for name, _ in spans])
            since = np.array([first for _, first in spans])
            at = np.searchsorted(since, time_ns[here], side="right") - 1
            found[here] = numbers[np.maximum(at, 0)]
        return list(known), found

    def named(self, names: frozenset[str], index: npt.NDArray[np.uint32], time_ns: I64) -> Mask:
        """Which of many (index, time) had one of these names, shape (n,); "eth+": those that begin so."""
        begin = tuple(one[:-1] for one in names if one.endswith("+"))
        found = np.zeros(len(index), np.bool_)
        for number in _distinct(index):
            here = index == number
            for i, (name, first) in enumerate(self._spans(number)):
                if name in names or (begin and name.startswith(begin)):
                    until = self._until(number, i)
                    found |= here & ((time_ns >= first) | (i == 0)) & (time_ns < until)
        return found

    def _spans(self, index: int) -> list[tuple[str, int]]:
        if not index:
            return []
        if index not in self._names:
            return [(f"if{index}", _EVER.min)]
        return list(zip(self._names[index], self._since[index], strict=True))

    def _until(self, index: int, position: int) -> int:
        since = self._since.get(index, [])
        return since[position + 1] if position + 1 < len(since) else _EVER.max

    def _add(self, time_ns: int, index: int, name: str) -> None:
        names, since = self._names.setdefault(index, []), self._since.setdefault(index, [])
        if names and names[-1] == name:
            return
        names.append(name)
        since.append(max([time_ns, *since[-1:]]))
        self._size += 1
        if self._size > _MOST:
            raise RecordingError(
                f"the recording has more than {_MOST:,} names of interfaces; damaged?"
            )


def _distinct(index: npt.NDArray[np.uint32]) -> list[int]:
    """The different ones, ascending; most are small."""
    small = len(index) and int(index.max()) < _SMALL
    found: list[int] = (np.flatnonzero(np.bincount(index)) if small else np.unique(index)).tolist()
    return found
