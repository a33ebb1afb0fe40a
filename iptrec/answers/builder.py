"""Packets as objects, made of the columns of a window when they are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from iptrec.answers.behind import Behind
from iptrec.answers.event_columns import Columns, connection, known
from iptrec.answers.index import bookmark
from iptrec.answers.lookalikes import shapes
from iptrec.answers.owners import Owners
from iptrec.answers.paths import shown, step_type
from iptrec.context.connections import Connections
from iptrec.context.sockets import Sockets
from iptrec.decode import packet
from iptrec.packets.model import Arrival, RulePlace, Step, Traversal
from iptrec.packets.relations import Relations
from iptrec.packets.rule_changes import RuleChanges
from iptrec.rulesets.backends import is_single

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.answers.lookalikes import Shape
    from iptrec.answers.paths import Whose
    from iptrec.answers.selection import Selection
    from iptrec.context.interfaces import Interfaces
    from iptrec.names import I64, Backend
    from iptrec.packets.ends import Ending
    from iptrec.packets.window import Bookmark, Window
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.places import Place


class Builder:
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
