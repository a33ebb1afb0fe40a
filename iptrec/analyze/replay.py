"""The packets of a recording as objects, those that were asked for, in order of their first event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from iptrec.analyze.connections import Connections
from iptrec.analyze.fate import Fates
from iptrec.analyze.interfaces import Interfaces
from iptrec.analyze.relations import Relations
from iptrec.analyze.traversal import RulePlace, Step, StepType, Traversal
from iptrec.analyze.window import Window, follow, windows
from iptrec.decode import packet
from iptrec.decode.nflog import AF_INET, AF_INET6

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import numpy.typing as npt

    from iptrec.analyze.grammar import Place
    from iptrec.decode.pcapfilter import PacketFilter
    from iptrec.recording.rows import Recording

    I64 = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]


class Replay:
    """The traversals of a recording that fit the given selection.

    ``packet_filter``: any stage of the packet matches; ``interfaces``: any stage came in or went out
    by one of them; ``verdicts``: upper case; ``number``: that traversal alone.
    """

    def __init__(
        self,
        reader: Recording,
        *,
        packet_filter: PacketFilter | None = None,
        interfaces: Collection[str] = (),
        verdicts: Collection[str] = (),
        number: int | None = None,
    ) -> None:
        self._reader = reader
        self._filter = packet_filter
        self._interfaces = frozenset(interfaces)
        self._verdicts = frozenset(verdicts)
        self._number = number
        self._known: dict[int, Interfaces] = {}

    def __iter__(self) -> Iterator[Traversal]:
        """All of the recording."""
        return self._traversals(windows(self._reader))

    def follow(self, ticks: Iterable[int]) -> Iterator[Traversal]:
        """The recording while it grows; see `window.follow`."""
        return self._traversals(follow(self._reader, ticks))

    def _traversals(self, source: Iterable[Window]) -> Iterator[Traversal]:
        builders: dict[int, _Builder] = {}
        for window in source:
            stream = window.stream
            interfaces = self._interfaces_of(stream.namespace)
            interfaces.update()
            if stream.id not in builders:
                builders[stream.id] = _Builder(
                    interfaces,
                    Connections(self._reader, stream.namespace),
                    self._netns(stream.namespace),
                )
            build = builders[stream.id]
            build.turn(window)
            for position in self._select(window, interfaces).tolist():
                yield build.traversal(position)
            if self._number is not None and window.number + window.decided > self._number:
                return

    def _select(self, window: Window, interfaces: Interfaces) -> I64:
        """The positions of the decided traversals that fit."""
        chosen = np.ones(window.decided, np.bool_)
        assembly = window.assembly
        if self._number is not None:
            chosen &= np.arange(window.number, window.number + window.decided) == self._number
        if self._verdicts:
            fits = np.array([one.verdict in self._verdicts for one in assembly.outcomes], np.bool_)
            chosen &= fits[assembly.outcome[: window.decided]]
        if self._interfaces and chosen.any():
            events, times = window.events, window.moment_ns
            chosen &= _any_event(
                window,
                lambda rows: (
                    interfaces.named(self._interfaces, events.indev[rows], times[rows])
                    | interfaces.named(self._interfaces, events.outdev[rows], times[rows])
                ),
            )
        if self._filter is not None and chosen.any():
            matches = self._filter.match_many
            chosen &= _any_event(
                window,
                lambda rows: matches(
                    window.events.buffer,
                    window.events.payload[rows],
                    window.events.payload_length[rows],
                ),
            )
        return np.flatnonzero(chosen)

    def _interfaces_of(self, namespace: int) -> Interfaces:
        if namespace not in self._known:
            self._known[namespace] = Interfaces(self._reader, namespace)
        return self._known[namespace]

    def _netns(self, namespace: int) -> str | None:
        return next((one.name for one in self._reader.namespaces if one.id == namespace), None)


def _any_event(window: Window, test: Any) -> Mask:  # noqa: ANN401 - a function over event numbers
    """For each decided traversal whether ``test`` holds for any of its events."""
    rows = window.rows()
    if not len(rows):
        return np.zeros(window.decided, np.bool_)
    return np.logical_or.reduceat(test(rows), window.assembly.first[: window.decided])


class _Builder:
    """Makes the objects of one stream's traversals, window by window."""

    def __init__(self, interfaces: Interfaces, connections: Connections, netns: str | None) -> None:
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

    def traversal(self, position: int) -> Traversal:
        """The traversal at a position of the assembly."""
        window = self._window
        rows = window.assembly.events(position).tolist()
        outcome = window.assembly.outcomes[window.assembly.outcome[position]]
        places = [window.rulebook.places[number] for number in outcome.way]
        events = list(zip(rows, places, strict=True))
        family = window.rulebook.families[outcome.way[0]]
        shown = [one for one in events if not one[1].own] or events
        steps = self._steps(shown, AF_INET6 if family == "ipv6" else AF_INET)
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
            link=next((link for row in rows if (link := self._link(row))), None),
            verdict=outcome.verdict,
            decided_by=None
            if decider is None
            else RulePlace(decider.table, decider.chain, decider.number),
            complete=outcome.complete,
            ambiguous=outcome.doubt is not None,
            reason="; ".join(filter(None, (outcome.reason, outcome.doubt))) or None,
            related=self._relations.of(position, first.header),
            connection=self._connections.of(
                first.header,
                int(window.moment_ns[rows[0]]),
                int(window.events.conntrack[rows].max()),
            ),
            altered_by=self._fates.altered_by(window, position),
            steps=tuple(steps),
        )

    def _steps(self, events: list[tuple[int, Place]], family: int) -> list[Step]:
        steps: list[Step] = []
        before: Step | None = None
        last = b""
        for row, place in events:
            payload = self._events.packet(row)
            same = before is not None and payload == last
            header = before.header if same and before else packet.header(payload, family)
            before = self._step(row, place, header, before)
            last = payload
            steps.append(before)
        return steps

    def _step(self, row: int, place: Place, header: dict[str, Any], before: Step | None) -> Step:
        events, rule = self._events, place.rule
        moment = int(self._window.moment_ns[row])
        now: dict[str, Any] = {
            "mark": int(events.mark[row]),
            "in": self._interface(events.indev[row], moment),
            "out": self._interface(events.outdev[row], moment),
        }
        changed: dict[str, tuple[Any, Any]] = {}
        if before is not None:
            then = {"mark": before.mark, "in": before.in_, "out": before.out}
            if header is not before.header:
                then |= before.header
                now |= header
            changed = {
                name: (then.get(name), now.get(name))
                for name in (then | now)
                if then.get(name) != now.get(name)
            }
        return Step(
            time_ns=int(events.stamp_ns[row] or events.received_ns[row]),
            table=place.table,
            chain=place.chain,
            type=_type(place),
            rule=place.number,
            spec=rule.spec if rule else None,
            comment=rule.comment if rule else None,
            target=place.target,
            target_args=rule.target_args if rule else None,
            mark=now["mark"],
            in_=now["in"],
            out=now["out"],
            physin=self._interface(events.physindev[row], moment),
            physout=self._interface(events.physoutdev[row], moment),
            header=header,
            changed=changed,
        )

    def _link(self, row: int) -> dict[str, Any] | None:
        start = int(self._events.link[row])
        if start < 0:
            return None
        end = start + int(self._events.link_length[row])
        return packet.link(self._events.buffer[start:end].tobytes())

    def _interface(self, index: np.uint32, time_ns: int) -> str | None:
        return self._interfaces.name(int(index), time_ns) if index else None


def _type(place: Place) -> StepType:
    if place.end:
        return "policy" if place.builtin else "return"
    return "rule"
