"""The version of IP of packets whose headers no line has: a table of ip or ip6 that they pass tells it."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.pasted.nft_events import Event

_OF_FAMILY: Final = {"ip": 4, "ip6": 6}
_EITHER: Final = "inet"
_MOST_TRACES: Final = 1 << 14  # ids that are remembered
_MOST_WAITING: Final = 1 << 11  # events


class Versions:
    """Gives the events of tables of inet the version that other events of their ids tell, in order."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, int] = OrderedDict()
        self._waiting: deque[Event] = deque()

    def feed(self, event: Event) -> Iterator[Event]:
        """Take an event; those that are done."""
        if version := event.version or _OF_FAMILY.get(event.family):
            self._known[event.trace] = version
            self._known.move_to_end(event.trace)
            if len(self._known) > _MOST_TRACES:
                self._known.popitem(last=False)
        self._waiting.append(event)
        while self._waiting and (self._is_done() or len(self._waiting) > _MOST_WAITING):
            yield self._next()

    def finish(self) -> Iterator[Event]:
        """Those that are left."""
        while self._waiting:
            yield self._next()

    def _is_done(self) -> bool:
        first = self._waiting[0]
        return first.family != _EITHER or first.version is not None or first.trace in self._known

    def _next(self) -> Event:
        event = self._waiting.popleft()
        if event.family != _EITHER or event.version is not None:
            return event
        return replace(event, version=self._known.get(event.trace))
