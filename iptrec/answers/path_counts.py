"""How many packets took which path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.event_columns import begun_ns
from iptrec.answers.packets import Counted, Packets
from iptrec.packets.identity import lengths
from iptrec.packets.model import LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.answers.index import Index
    from iptrec.answers.packets import Batch, Read
    from iptrec.answers.paths import Path, PathBook
    from iptrec.answers.selection import Selection
    from iptrec.packets.ends import End
    from iptrec.packets.model import Arrival
    from iptrec.recording.rows import Recording


@dataclass(slots=True)
class Count:
    """Packets, their bytes (IP length), and when the first and the last of them came (epoch, ns)."""

    packets: int = 0
    bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    example: int = 0  # the first packet's number

    def add(self, packets: int, size: int, first_ns: int, last_ns: int, example: int) -> None:
        """More of them."""
        if not self.packets:
            self.first_ns, self.example = first_ns, example
        self.packets += packets
        self.bytes += size
        self.first_ns = min(self.first_ns, first_ns)
        self.example = min(self.example, example)
        self.last_ns = max(self.last_ns, last_ns)


@dataclass(frozen=True, slots=True)
class PathCount:
    """A path, its number in the recording (from 1), and the packets that took it.

    ``first``: the first of them as it came; ``end``: its own, in all its words.
    """

    number: int
    path: Path
    count: Count
    first: Arrival
    end: End | None = None


# What `sorted` takes; the most packets come first in all but the last
ORDERS: Final[dict[str, Callable[[PathCount], tuple[int, ...]]]] = {
    "verdict": lambda one: (one.path.verdict not in LOST, -one.count.packets, one.number),
    "packets": lambda one: (-one.count.packets, one.number),
    "bytes": lambda one: (-one.count.bytes, one.number),
    "first": lambda one: (one.first.number,),
}


class PathCounter:
    """Counts the packets of a recording by their paths, batch by batch."""

    def __init__(self) -> None:
        self._counts: dict[int, Count] = {}
        self._firsts: dict[int, tuple[Arrival, End | None]] = {}

    def add(self, batch: Batch) -> None:
        """Count those of a batch that are selected."""
        window, positions = batch.window, batch.positions
        assembly = window.assembly
        rows = assembly.rows[assembly.first[positions]]
        times, sizes = begun_ns(window, positions), lengths(window.events.take(rows))
        chosen = batch.paths[positions]
        for number in np.flatnonzero(np.bincount(chosen)).tolist():
            here = np.flatnonzero(chosen == number)
            if number not in self._firsts:
                first = int(positions[here[0]])
                self._firsts[number] = batch.arrival(first), batch.ended(first).end
            self._counts.setdefault(number, Count()).add(
                len(here),
                int(sizes[here].sum()),
                int(times[here].min()),
                int(times[here].max()),
                window.number + int(positions[here[0]]),
            )

    def counts(self, book: PathBook) -> list[PathCount]:
        """All paths that were met, the most taken first; ``book`` has numbered them."""
        paths = {number: path for path, number in book.paths.items()}
        found = [
            PathCount(number, paths[number], count, *self._firsts[number])
            for number, count in self._counts.items()
        ]
        return sorted(found, key=ORDERS["packets"])


def count_paths(
    recording: Recording, selection: Selection, index: Index | None = None, read: Read | None = None
) -> Counted[PathCount]:
    """The paths of the selected packets, the most taken first; ``read``: as `Packets` has it.

    An ``index`` is made if all packets are selected: paths are numbered from the first packet on.
    """
    packets = Packets(recording, selection, index if selection.everything else None, read=read)
    counter = PathCounter()
    for batch in packets.batches(objects=False, paths=True):
        counter.add(batch)
    return Counted(counter.counts(packets.book), packets.unjudged)
