"""The packets of a recording as objects, those that were asked for, in order of their first event."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from iptrec.answers.behind import Behind
from iptrec.answers.event_columns import Columns, connection, known
from iptrec.answers.index import Index, Span, bookmark
from iptrec.answers.lookalikes import shapes
from iptrec.answers.owners import Owners
from iptrec.answers.paths import PathBook, shown, step_type
from iptrec.answers.selection import Selection
from iptrec.context.connections import Connections
from iptrec.context.interfaces import Interfaces
from iptrec.context.sockets import Sockets
from iptrec.decode import packet
from iptrec.packets.model import Arrival, RulePlace, Step, Traversal
from iptrec.packets.relations import Relations
from iptrec.packets.rule_changes import RuleChanges
from iptrec.packets.window import Window, follow, windows
from iptrec.recording.hosts import name_of, of_namespace
from iptrec.rulesets.backends import is_single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from iptrec.answers.lookalikes import Shape
    from iptrec.answers.paths import Whose
    from iptrec.names import I64, Backend
    from iptrec.packets.ends import Ending
    from iptrec.packets.window import Bookmark
    from iptrec.recording.rows import Recording, Stream
    from iptrec.rulesets.places import Place

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
        self._builders: dict[int, _Builder] = {}

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
        self._notes = None  # its windows are cut where the ticks fall
        paths = self.selection.path is not None
        source = follow(self._recording, ticks)
        return _one_by_one(self._batches(source, objects=True, paths=paths))

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

    def _builder(self, stream: Stream) -> _Builder:
        if stream.id not in self._builders:
            names, namespace = (
                {one.id: one.name for one in self._recording.namespaces},
                stream.namespace,
            )
            self._builders[stream.id] = _Builder(
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
        build: _Builder,
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


class _Builder:
    """Makes the objects of one stream's traversals, window by window."""

    def __init__(
        self,
        recording: Recording,
        namespace: int,
        interfaces: Interfaces,
        whose: Whose,
        make: type[Traversal],
    ) -> None:
        self._single = is_single(recording)
        self.interfaces, (self.host, self.netns) = interfaces, whose
        self._connections = Connections(recording, namespace)
        self._make = make
        self._relations = Relations()
        sockets = Sockets(recording, namespace)
        self._behind = Behind(recording, namespace, interfaces, sockets)
        self.owners = Owners(recording, namespace, sockets)
        self._fates = RuleChanges(self._relations)

    def next_window(self, window: Window, *, objects: bool, ends: bool) -> None:
        """Go on to the next window, to make ``objects`` of its packets, or to tell their ``ends`` alone."""
        self._window, self._whole = window, objects
        self._told: dict[int, tuple[Traversal, Ending]] = {}
        self._events = window.events
        self.interfaces.update()
        self.owners.next_window(window)
        if not (objects or ends):
            return
        self._relations.next_window(window)
        self._behind.next_window(window, self._relations)
        if len(window.moment_ns):
            self._connections.advance(int(window.moment_ns.min()), int(window.moment_ns.max()))

    def chosen(self, selection: Selection, positions: I64) -> I64:
        """Of some positions those of packets whose owners and ends are selected."""
        owned = self.owners.chosen(selection, positions)
        return self._behind.chosen(selection, owned, self.ended)

    def odd_ends(self) -> dict[int, Ending]:
        """What is told of the decided traversals whose ends may differ from those of others on their way."""
        every = np.arange(self._window.decided)
        odd = every[self._behind.odd(every)].tolist()
        return {position: self.ended(position) for position in odd}

    def bookmark(self) -> Bookmark:
        """Note the window."""
        return bookmark(self._window, self._relations)

    def shapes(self, positions: I64) -> list[Shape]:
        """The traversals at some positions that read alike."""
        if self._connections.known:  # each is of a flow of its own
            return []
        return shapes(
            self._window,
            positions[~self._behind.odd(positions)],
            self.interfaces,
            self._relations,
            self._fates,
            self.owners.numbers(),
        )

    def arrival(self, position: int) -> Arrival:
        """As the traversal at a position of the assembly begins."""
        window = self._window
        rows = window.assembly.events(position)
        path = window.assembly.outcomes[window.assembly.outcome[position]].path
        at = _told([window.resolver.places[number] for number in path])[0]
        columns = Columns(window, rows)
        moment = columns.moment_ns[at]
        return Arrival(
            number=window.number + position,
            time_ns=columns.time_ns(at),
            family=window.resolver.families[path[0]],
            in_=self._interface(columns.indev[at], moment),
            out=self._interface(columns.outdev[at], moment),
            header=packet.header(columns.packet(at), *self._kind(rows)),
        )

    def ended(self, position: int) -> Ending:
        """What is told of the traversal at a position of the assembly, without all of it."""
        if position not in self._told:
            self._told[position] = self._ended(position)
        return self._told[position][1]

    def _ended(self, position: int) -> tuple[Traversal, Ending]:
        """A traversal by its events, all of them where objects are made, and what is told of it."""
        made = self._bare(position, ends_alone=not self._whole)
        return made, self._behind.ended(position, made)

    def traversal(self, position: int) -> Traversal:
        """The traversal at a position of the assembly."""
        window = self._window
        rows = window.assembly.events(position)
        made, told = self._told.get(position) or self._ended(position)
        path = window.assembly.outcomes[window.assembly.outcome[position]].path
        return replace(
            made,
            link=next(
                filter(None, map(packet.link, map(window.events.frame, rows.tolist()))), None
            ),
            related=self._relations.of(position),
            altered_by=self._fates.altered_by(window, position),
            end=told.end,
            reason=told.reason,
            steps=made.steps if shown([window.resolver.places[one] for one in path]) else (),
            owner=self.owners.of(position),
        )

    def _bare(self, position: int, *, ends_alone: bool) -> Traversal:
        """A traversal by its events alone; of its steps with ``ends_alone`` the first and the last one."""
        window = self._window
        rows = window.assembly.events(position)
        outcome = window.assembly.outcomes[window.assembly.outcome[position]]
        places = [window.resolver.places[number] for number in outcome.path]
        backends = [
            None if self._single else window.resolver.backends[one].name for one in outcome.path
        ]
        steps = self._steps(rows, places, backends, ends_alone=ends_alone)
        decider = None if outcome.decider is None else places[outcome.decider]
        first = steps[0]
        return self._make(
            number=window.number + position,
            time_ns=first.time_ns,
            family=window.resolver.families[outcome.path[0]],
            netns=self.netns,
            host=self.host,
            in_=first.in_,
            out=first.out,
            header=first.header,
            link=None,
            verdict=outcome.verdict,
            decided_by=None if decider is None else RulePlace.of(decider),
            complete=outcome.complete,
            ambiguous=outcome.doubt is not None,
            reason="; ".join(filter(None, (outcome.reason, outcome.doubt))) or None,
            connection=self._connections.of(
                first.header,
                int(window.moment_ns[rows[0]]),
                connection(window.events, rows),
            ),
            end=outcome.death and outcome.death.end(int(window.ended_ns[position])),
            steps=tuple(steps),
            uid=known(window.events.uid[rows]),
            gid=known(window.events.gid[rows]),
            unordered=outcome.unordered,
        )

    def _steps(
        self,
        rows: I64,
        places: list[Place],
        backends: list[Backend | None],
        *,
        ends_alone: bool,
    ) -> list[Step]:
        steps: list[Step] = []
        before: Step | None = None
        last = b""
        columns = Columns(self._window, rows)
        kind = self._kind(rows)
        told = _told(places)
        for at in sorted({told[0], told[-1]}) if ends_alone else told:
            payload = columns.packet(at)
            same = before is not None and payload == last
            header = before.header if same and before else packet.header(payload, *kind)
            before = self._step(columns, at, places[at], backends[at], header, before)
            last = payload
            steps.append(before)
        return steps

    def _step(
        self,
        columns: Columns,
        at: int,
        place: Place,
        backend: Backend | None,
        header: dict[str, Any],
        before: Step | None,
    ) -> Step:
        rule = place.rule
        moment = columns.moment_ns[at]
        mark = self._window.stream.told(columns.mark[at], policy=place.end and place.builtin)
        in_ = self._interface(columns.indev[at], moment)
        out = self._interface(columns.outdev[at], moment)
        changed: dict[str, tuple[Any, Any]] = {}
        if before is not None:
            if None not in (mark, before.mark) and mark != before.mark:
                changed["mark"] = before.mark, mark
            if in_ != before.in_:
                changed["in"] = before.in_, in_
            if out != before.out:
                changed["out"] = before.out, out
            if header is not before.header:
                known = before.header | header
                if backend != before.backend:  # nf_tables dumps less of a packet
                    known = {name: None for name in before.header if name in header}
                changed |= {
                    name: (before.header.get(name), header.get(name))
                    for name in known
                    if before.header.get(name) != header.get(name)
                }
        return Step(
            time_ns=columns.time_ns(at),
            time_estimated=columns.estimated[at],
            table=place.table,
            chain=place.chain,
            type=step_type(place),
            rule=place.number,
            spec=rule.spec if rule else place.told,
            comment=rule.comment if rule else None,
            target=place.target,
            target_args=rule.target_args if rule and not place.by_match else None,
            mark=mark,
            in_=in_,
            out=out,
            physin=self._interface(columns.physindev[at], moment),
            physout=self._interface(columns.physoutdev[at], moment),
            header=header,
            changed=changed,
            backend=backend,
            ct=columns.ct(at),
        )

    def _kind(self, rows: I64) -> tuple[int, int, frozenset[str]]:
        """As what the headers of a packet are read."""
        first, events = int(rows[0]), self._events
        return events.address_family(first), int(events.protocol[first]), self._window.stream.untold

    def _interface(self, index: int, time_ns: int) -> str | None:
        return self.interfaces.name(index, time_ns) if index else None


def _told(places: list[Place]) -> Sequence[int]:
    """Which events tell of a packet: those that are shown, or all where none is."""
    return shown(places) or range(len(places))
