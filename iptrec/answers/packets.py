"""The packets of a recording as objects, those that were asked for, in order of their first event."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from iptrec.answers.builder import Builder
from iptrec.answers.index import Index, Span
from iptrec.answers.paths import PathBook
from iptrec.answers.selection import Selection
from iptrec.context.interfaces import Interfaces
from iptrec.packets.model import Arrival, Traversal
from iptrec.packets.window import Window, follow, windows
from iptrec.recording.hosts import name_of, of_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from iptrec.answers.lookalikes import Shape
    from iptrec.names import I64
    from iptrec.packets.ends import Ending
    from iptrec.packets.window import Bookmark
    from iptrec.recording.rows import Recording, Stream

    Read = Callable[[Recording], Iterator[Window]]

T = TypeVar("T")


class Packets:
    """The packets of a recording that are selected.

    ``book``: the paths met so far; ``count``: how many packets the windows so far have; ``unjudged``: of how
    many more the filter does not know, see `Selection.unjudged`. ``index``: where one is known, only what the
    selection needs is read, and paths are numbered from there; where not, it is made. Not for recordings with
    connections: these are known from the beginning. ``make``: a packet's class. ``read``: gives all windows.
    """

    def __init__(
        self,
        recording: Recording,
        selection: Selection | None = None,
        index: Index | None = None,
        make: type[Traversal] = Traversal,
        read: Read | None = None,
    ) -> None:
        self._recording, self._read = recording, read or windows
        self.selection, self._make = selection or Selection(), make
        self.book = PathBook()
        self.count = self.unjudged = 0
        self._index = index or Index()
        self._span = self._index.span(self.selection)
        self._notes: list[Bookmark] | None = None
        if index is not None and self._span == Span(None, None):
            self._notes = []
        self._known: dict[int, Interfaces] = {}
        self._builders: dict[int, Builder] = {}

    def __iter__(self) -> Iterator[Traversal]:
        """All of the recording."""
        return _one_by_one(self.batches())

    def last(self, number: int) -> Iterator[Traversal]:
        """As many of the last; the recording is gone through twice, for an object of each costs more."""
        before = Packets(self._recording, self.selection, self._index)
        self._notes = None  # `before` has them
        for _ in before.batches(objects=False):
            pass
        return _one_by_one(self.batches(), max(0, before.count - number))

    def follow(self, ticks: Iterable[int]) -> Iterator[Traversal]:
        """The recording while it grows; see `window.follow`."""
        return _one_by_one(self.growing(ticks, objects=True))

    def growing(
        self, ticks: Iterable[int], *, objects: bool = False, paths: bool = False
    ) -> Iterator[Batch]:
        """The same, window by window; ``objects``, ``paths``: see `batches`."""
        self._notes = None  # its windows are cut where the ticks fall
        paths = paths or self.selection.path is not None
        return self._batches(follow(self._recording, ticks), objects=objects, paths=paths)

    def batches(self, *, objects: bool = True, paths: bool = False) -> Iterator[Batch]:
        """All of the recording, window by window. Without ``objects`` no packet can be made of it.

        ``paths``: tell those of packets by their ends, too, as `PathBook` has them.
        """
        paths = paths or self.selection.path is not None
        since, most = self._span
        source = self._read(self._recording) if since is None else windows(self._recording, since)
        return self._batches(islice(source, most), objects=objects, paths=paths)

    def interfaces_of(self, namespace: int) -> Interfaces:
        """The names of a namespace's interfaces."""
        if namespace not in self._known:
            self._known[namespace] = Interfaces(of_namespace(self._recording, namespace), namespace)
        return self._known[namespace]

    def _batches(self, source: Iterable[Window], *, objects: bool, paths: bool) -> Iterator[Batch]:
        last = self.selection.number
        ends = paths or bool(self.selection.reasons) or self._notes is not None
        for window in source:
            build = self._builder(window.stream)
            build.next_window(window, objects=objects, ends=ends)
            odd_ends = build.odd_ends() if paths else {}
            place = build.host, build.netns
            numbers = self.book.numbers(window, place, odd_ends)
            positions = self.selection.positions(window, build.interfaces, place)
            positions = build.chosen(self.selection, positions)
            if self.selection.path is not None:
                positions = positions[numbers[positions] == self.selection.path]
            self.count += len(positions)
            unjudged = self.selection.unjudged(window, build.interfaces, place)
            self.unjudged += len(build.chosen(self.selection, unjudged))
            if self._notes is not None:
                self._notes.append(build.bookmark())
            yield Batch(window, positions, numbers, odd_ends, build)
            if last is not None and window.number + window.decided > last:
                self._learn(whole=False)
                return
        self._learn(whole=True)

    def _builder(self, stream: Stream) -> Builder:
        if stream.id not in self._builders:
            names, namespace = (
                {one.id: one.name for one in self._recording.namespaces},
                stream.namespace,
            )
            self._builders[stream.id] = Builder(
                of_namespace(self._recording, namespace),
                namespace,
                self.interfaces_of(namespace),
                (name_of(self._recording, namespace), names.get(namespace)),
                self._make,
            )
        return self._builders[stream.id]

    def _learn(self, *, whole: bool) -> None:
        if self._notes is not None:
            self._index.learn(self._notes, whole=whole)


class Counted(list[T]):
    """An answer about the selected packets; ``unjudged``: as of `Packets`; ``untold``: as of `Untold`."""

    def __init__(self, found: Iterable[T], unjudged: int, untold: int = 0) -> None:
        super().__init__(found)
        self.unjudged, self.untold = unjudged, untold


class Batch:
    """The selected packets of one window; to be used before the next one comes.

    ``positions``: theirs in the window's assembly, ascending. ``paths``: the path of every decided traversal
    of the window; ``odd_ends``: what is told of those of them that may differ in that from others on their way,
    by their positions: see `Packets.batches`. ``interfaces``, ``netns``, ``host``: of its namespace.
    """

    def __init__(
        self,
        window: Window,
        positions: I64,
        paths: I64,
        odd_ends: Mapping[int, Ending],
        build: Builder,
    ) -> None:
        self.window = window
        self.positions = positions
        self.paths = paths
        self.odd_ends = odd_ends
        self.interfaces, self.netns, self.host = build.interfaces, build.netns, build.host
        self._build = build

    def chosen(self, selection: Selection, positions: I64) -> I64:
        """Of some packets those whose owners and ends are selected; by ends only with objects."""
        return self._build.chosen(selection, positions)

    def ended(self, position: int) -> Ending:
        """What is told of one of the packets."""
        return self._build.ended(position)

    def traversal(self, position: int) -> Traversal:
        """One of the packets."""
        return self._build.traversal(position)

    def arrival(self, position: int) -> Arrival:
        """One of the packets as it came, also where the batches are without objects."""
        return self._build.arrival(position)

    def shapes(self) -> list[Shape]:
        """Those that read alike; the rest is to be made one by one."""
        return self._build.shapes(self.positions)


def _one_by_one(batches: Iterable[Batch], skipped: int = 0) -> Iterator[Traversal]:
    """The packets, but for the first ones."""
    for batch in batches:
        positions = batch.positions.tolist()
        for position in positions[skipped:]:
            yield batch.traversal(position)
        skipped = max(0, skipped - len(positions))
