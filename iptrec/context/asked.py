"""What the kernel answered about packets like this one, nearest in time to it."""

from __future__ import annotations

import bisect
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.context.datagrams import datagrams
from iptrec.decode import snapshots
from iptrec.decode.route_answers import Answers, Changed, Exchange, Unasked

if TYPE_CHECKING:
    from iptrec.decode.route_answers import Ports, Way
    from iptrec.recording.rows import Recording

STREAM: Final = "route-answers"
_SLACK_NS: Final = 100_000_000  # what the kernel tells is noted a moment later
_MOST: Final = 1_000_000  # that are read at a time
_BY_PORTS: Final = ("ip_proto", "sport_range", "dport_range")


def _time(one: Exchange) -> int:
    return one.time_ns


class Told(NamedTuple):
    """``unchanged``: whether nothing of routing is known to have changed between packet and answer."""

    exchange: Exchange
    unchanged: bool


class Asked:
    """The answers of one namespace of a recording, which may still grow.

    ``questions``, ``unasked``: how many kinds of packets there are answers about, and how many there was no
    time to ask about. ``unseen``: at how many events there was no time to look.
    """

    def __init__(self, recording: Recording, namespace: int) -> None:
        self.questions = self.unasked = self.unseen = 0
        self._tells = False
        self._changes: list[int] = []
        self._known: dict[tuple[Way, Ports | None], list[Exchange]] = {}
        self._recording = recording
        self._namespace = namespace
        self._by_ports = _by_ports(recording, namespace)
        self._answers = Answers()
        self._seen: dict[int, int] = {}
        self.update()

    def update(self) -> None:
        """Read on."""
        told = datagrams(self._recording, STREAM, self._namespace, self._seen)
        found = list(islice(self._answers.read(told), _MOST))
        for one in found:
            match one:
                case Changed():
                    self._changes.append(one.time_ns)
                case Unasked():
                    self.unasked += one.questions
                    self.unseen += one.events
                case Exchange():
                    self.questions += 1
                    self._tells |= one.tells
                    self._known.setdefault(self._key(one.way, one.ports), []).append(one)
        if found:
            self._changes.sort()
            for some in self._known.values():
                some.sort(key=_time)

    def __bool__(self) -> bool:
        """Whether any answer may be the end of a packet."""
        return self._tells

    def about(self, way: Way, ports: Ports, time_ns: int) -> Told | None:
        """The answer about such a packet of that time (epoch), None if there is none.

        The nearest one, but rather one without a change in between.
        """
        some = self._known.get(self._key(way, ports), [])
        at = bisect.bisect(some, time_ns, key=_time)
        found = [
            Told(one, self._unchanged(time_ns, one.time_ns))
            for one in some[max(at - 1, 0) : at + 1]
        ]
        return min(
            found,
            key=lambda one: (not one.unchanged, abs(one.exchange.time_ns - time_ns)),
            default=None,
        )

    def _key(self, way: Way, ports: Ports) -> tuple[Way, Ports | None]:
        return way, ports if self._by_ports else None

    def _unchanged(self, time_ns: int, other_ns: int) -> bool:
        first, last = sorted((time_ns, other_ns))
        at = bisect.bisect_left(self._changes, first)
        return at == len(self._changes) or self._changes[at] - _SLACK_NS > last


def _by_ports(recording: Recording, namespace: int) -> bool:
    """Whether any rule of routing asks for protocols or ports."""
    return any(
        name in row
        for one in recording.snapshots("ip-rules")
        if one.namespace == namespace and one.media == snapshots.NETLINK
        for row in snapshots.routing(one.kind, one.content)
        for name in _BY_PORTS
    )
