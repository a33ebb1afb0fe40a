"""The packets of a recording as objects, those that were asked for, in order of their first event."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from iptrec.answers.index import Bookmarks, Span, bookmark
from iptrec.answers.lookalikes import shapes
from iptrec.answers.paths import PathBook, step_type
from iptrec.answers.selection import Selection
from iptrec.context.connections import Connections
from iptrec.context.interfaces import Interfaces
from iptrec.decode import packet
from iptrec.names import AF_INET, AF_INET6
from iptrec.packets.model import RulePlace, Step, Traversal
from iptrec.packets.relations import Relations
from iptrec.packets.rule_changes import Fates
from iptrec.packets.window import Window, follow, windows
from iptrec.rulesets.backends import backend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.answers.lookalikes import Shape
    from iptrec.names import I64, Backend
    from iptrec.packets.window import Bookmark
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.places import Place


class Replay:
    """The traversals of a recording that are selected.

    ``book``: the paths that were met so far; ``count``: the traversals that were given out as objects.
    ``bookmarks``: where they are known, only what the selection needs is read, and paths are numbered from
    there; where not, they are noted. Not for recordings with connections: these are known from the beginning.
    """

    def __init__(
        self,
        reader: Recording,
        selection: Selection | None = None,
        bookmarks: Bookmarks | None = None,
    ) -> None:
        self._reader = reader
        self._selection = selection or Selection()
        self.book = PathBook()
        self.count = 0
        self._bookmarks = bookmarks or Bookmarks()
        self._span = self._bookmarks.span(self._selection)
        self._notes: list[Bookmark] | None = None
        if bookmarks is not None and self._span == Span(None, None):
            self._notes = []
        self._known: dict[int, Interfaces] = {}
        self._numbered: Window | None = None

    def __iter__(self) -> Iterator[Traversal]:
        """All of the recording."""
        return (traversal for *_, traversal in self.in_windows())

    def in_windows(self) -> Iterator[tuple[Window, int, Traversal]]:
        """The same, each with its window and its position there."""
        return self._traversals(self._windows())

    def follow(self, ticks: Iterable[int]) -> Iterator[Traversal]:
        """The recording while it grows; see `window.follow`."""
        self._notes = None  # its windows are cut where the ticks fall
        found = self._traversals(follow(self._reader, ticks))
        return (traversal for *_, traversal in found)

    def windows_with_paths(self) -> Iterator[tuple[Window, I64, I64]]:
        """Each window with the positions that are selected, and the path of every decided traversal."""
        related: dict[int, Relations] = {}
        for window in self._windows():
            namespace = window.stream.namespace
            interfaces = self.interfaces_of(namespace)
            interfaces.update()
            netns = self.netns(namespace)
            numbers = self.book.numbers(window, netns)
            positions = self._selection.positions(window, interfaces, netns)
            if self._selection.path is not None:
                positions = positions[numbers[positions] == self._selection.path]
            if self._notes is not None:
                relations = related.setdefault(window.stream.id, Relations())
                relations.turn(window)
                self._notes.append(bookmark(window, relations))
            yield window, positions, numbers
        self._learn(whole=True)

    def path(self, window: Window, position: int) -> int:
        """The number of the path that a traversal of `in_windows` took."""
        if self._numbered is not window:
            self._numbered = window
            self._numbers = self.book.numbers(window, self.netns(window.stream.namespace))
        return int(self._numbers[position])

    def in_batches(self) -> Iterator[Batch]:
        """All of the recording, window by window, packets that read alike together."""
        return self._batches(self._windows())

    def _windows(self) -> Iterator[Window]:
        return islice(windows(self._reader, self._span.since), self._span.windows)

    def _traversals(self, source: Iterable[Window]) -> Iterator[tuple[Window, int, Traversal]]:
        for batch in self._batches(source):
            self.count -= len(batch.positions)  # a caller may stop in between
            for position in batch.positions.tolist():
                self.count += 1
                yield batch.window, position, batch.traversal(position)

    def _batches(self, source: Iterable[Window]) -> Iterator[Batch]:
        builders: dict[int, _Builder] = {}
        for window in source:
            stream = window.stream
            interfaces = self.interfaces_of(stream.namespace)
            interfaces.update()
            netns = self.netns(stream.namespace)
            if stream.id not in builders:
                builders[stream.id] = _Builder(
                    interfaces,
                    Connections(self._reader, stream.namespace),
                    netns,
                    backend(self._reader, stream),
                )
            build = builders[stream.id]
            build.turn(window)
            numbers = self.book.numbers(window, netns)
            positions = self._selection.positions(window, interfaces, netns)
            if self._selection.path is not None:
                positions = positions[numbers[positions] == self._selection.path]
            self.count += len(positions)
            if self._notes is not None:
                self._notes.append(build.bookmark())
            yield Batch(window, positions, build)
            last = self._selection.number
            if last is not None and window.number + window.decided > last:
                break
        else:
            self._learn(whole=True)
            return
        self._learn(whole=False)

    def _learn(self, *, whole: bool) -> None:
        if self._notes is not None:
            self._bookmarks.learn(self._notes, whole=whole)

    def interfaces_of(self, namespace: int) -> Interfaces:
        """The names of a namespace's interfaces."""
        if namespace not in self._known:
            self._known[namespace] = Interfaces(self._reader, namespace)
        return self._known[namespace]

    def netns(self, namespace: int) -> str | None:
        """The name of a namespace."""
        return next((one.name for one in self._reader.namespaces if one.id == namespace), None)


class Batch:
    """The selected packets of one window; to be used before the next one comes.

    ``positions``: theirs in the window's assembly, ascending.
    """

    def __init__(self, window: Window, positions: I64, build: _Builder) -> None:
        self.window = window
        self.positions = positions
        self._build = build

    def traversal(self, position: int) -> Traversal:
        """One of the packets."""
        return self._build.traversal(position)

    def shapes(self) -> list[Shape]:
        """Those that read alike; the rest is to be made one by one."""
        return self._build.shapes(self.positions)


class _Builder:
    """Makes the objects of one stream's traversals, window by window."""

    def __init__(
        self,
        interfaces: Interfaces,
        connections: Connections,
        netns: str | None,
        backend: Backend | None,
    ) -> None:
        self._backend = backend
        self._interfaces = interfaces
        self._connections = connections
        self._netns = netns
        self._relations = Relations()
        self._fates = Fates(self._relations)

    def turn(self, window: Window) -> None:
        """Go on to the next window."""
        self._window = window
        self._events = window.events
        self._relations.turn(window)
        if len(window.moment_ns):
            self._connections.advance(int(window.moment_ns.min()), int(window.moment_ns.max()))

    def bookmark(self) -> Bookmark:
        """Note the window."""
        return bookmark(self._window, self._relations)

    def shapes(self, positions: I64) -> list[Shape]:
        """The traversals at some positions that read alike."""
        if self._connections.known:  # each is of a flow of its own
            return []
        return shapes(self._window, positions, self._interfaces, self._relations, self._fates)

    def traversal(self, position: int) -> Traversal:
        """The traversal at a position of the assembly."""
        window = self._window
        rows = window.assembly.events(position)
        outcome = window.assembly.outcomes[window.assembly.outcome[position]]
        places = [window.resolver.places[number] for number in outcome.way]
        family = window.resolver.families[outcome.way[0]]
        steps = self._steps(rows, places, AF_INET6 if family == "ipv6" else AF_INET)
        decider = None if outcome.decider is None else places[outcome.decider]
        first = steps[0]
        return Traversal(
            number=window.number + position,
            time_ns=first.time_ns,
            family=family,
            netns=self._netns,
            in_=first.in_,
            out=first.out,
            header=first.header,
            link=next((link for row in rows.tolist() if (link := self._link(row))), None),
            verdict=outcome.verdict,
            decided_by=None if decider is None else RulePlace.of(decider),
            complete=outcome.complete,
            ambiguous=outcome.doubt is not None,
            reason="; ".join(filter(None, (outcome.reason, outcome.doubt))) or None,
            related=self._relations.of(position),
            connection=self._connections.of(
                first.header,
                int(window.moment_ns[rows[0]]),
                int(window.events.conntrack[rows].max()),
            ),
            altered_by=self._fates.altered_by(window, position),
            steps=tuple(steps),
        )

    def _steps(self, rows: I64, places: list[Place], family: int) -> list[Step]:
        steps: list[Step] = []
        told = [at for at, place in enumerate(places) if not place.own] or range(len(places))
        before: Step | None = None
        last = b""
        columns = _Columns(self._window, rows)
        for at in told:
            payload = columns.packet(at)
            same = before is not None and payload == last
            header = before.header if same and before else packet.header(payload, family)
            before = self._step(columns, at, places[at], header, before)
            last = payload
            steps.append(before)
        return steps

    def _step(
        self, columns: _Columns, at: int, place: Place, header: dict[str, Any], before: Step | None
    ) -> Step:
        rule = place.rule
        moment = columns.moment_ns[at]
        mark = columns.mark[at]
        in_ = self._interface(columns.indev[at], moment)
        out = self._interface(columns.outdev[at], moment)
        changed: dict[str, tuple[Any, Any]] = {}
        if before is not None:
            if mark != before.mark:
                changed["mark"] = before.mark, mark
            if in_ != before.in_:
                changed["in"] = before.in_, in_
            if out != before.out:
                changed["out"] = before.out, out
            if header is not before.header:
                changed |= {
                    name: (before.header.get(name), header.get(name))
                    for name in (before.header | header)
                    if before.header.get(name) != header.get(name)
                }
        return Step(
            time_ns=columns.stamp_ns[at] or columns.received_ns[at],
            table=place.table,
            chain=place.chain,
            type=step_type(place),
            rule=place.number,
            spec=rule.spec if rule else None,
            comment=rule.comment if rule else None,
            target=place.target,
            target_args=rule.target_args if rule else None,
            mark=mark,
            in_=in_,
            out=out,
            physin=self._interface(columns.physindev[at], moment),
            physout=self._interface(columns.physoutdev[at], moment),
            header=header,
            changed=changed,
            backend=self._backend,
        )

    def _link(self, row: int) -> dict[str, Any] | None:
        start = int(self._events.link[row])
        if start < 0:
            return None
        end = start + int(self._events.link_length[row])
        return packet.link(self._events.buffer[start:end].tobytes())

    def _interface(self, index: int, time_ns: int) -> str | None:
        return self._interfaces.name(index, time_ns) if index else None


class _Columns:
    """What the steps of one packet need, as lists; ``rows``: its events."""

    def __init__(self, window: Window, rows: I64) -> None:
        events = window.events
        self._memory = events.buffer.data
        self._start = events.payload[rows].tolist()
        self._size = events.payload_length[rows].tolist()
        self.moment_ns: list[int] = window.moment_ns[rows].tolist()
        self.stamp_ns: list[int] = events.stamp_ns[rows].tolist()
        self.received_ns: list[int] = events.received_ns[rows].tolist()
        self.mark: list[int] = events.mark[rows].tolist()
        self.indev: list[int] = events.indev[rows].tolist()
        self.outdev: list[int] = events.outdev[rows].tolist()
        self.physindev: list[int] = events.physindev[rows].tolist()
        self.physoutdev: list[int] = events.physoutdev[rows].tolist()

    def packet(self, at: int) -> bytes:
        """As `TraceEvents.packet`."""
        start = self._start[at]
        return bytes(self._memory[start : start + self._size[at]]) if start >= 0 else b""
