"""What may have become of packets that came to this host, where the kernel counted some as lost there."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from iptrec.answers.checksums import Checksums
from iptrec.answers.crowded import Crowded
from iptrec.answers.policed import Policed
from iptrec.context.counters import Counts
from iptrec.packets.drop_records import told_all

if TYPE_CHECKING:
    from iptrec.context.counters import Rise
    from iptrec.context.interfaces import Interfaces
    from iptrec.context.sockets import Sockets
    from iptrec.packets.ends import End
    from iptrec.packets.model import Traversal
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording


class Received:
    """Follows the windows of one stream, and answers for the latest."""

    def __init__(
        self, recording: Recording, namespace: int, interfaces: Interfaces, sockets: Sockets
    ) -> None:
        self._recording = recording
        self._namespace = namespace
        self._interfaces = interfaces
        self._sockets = sockets

    def next_window(self, window: Window) -> None:
        """Go on to the next window."""
        self._window = window
        self._blocked = set() if self._told else self._policed.positions(window)
        self._wrong: dict[int, End] = {} if self._told else self._checksums.ends(window)
        self._crowd = self._crowded.positions(window)

    @property
    def positions(self) -> list[int]:
        """Of whom something may be told."""
        return [*self._wrong, *self._crowd, *self._blocked]

    def end(self, position: int, packet: Traversal) -> End | None:
        """What may have become of the packet there."""
        wrong = self._wrong.get(position)
        if position in self._blocked:
            blocked = self._policed.end(self._window, position, packet)
            if blocked is not None:  # TCP looks at its checksum first
                return blocked if wrong is None else replace(blocked, sure=False)
        if wrong is not None:
            return wrong
        return self._crowded.end(packet.steps[-1].header) if position in self._crowd else None

    @cached_property
    def _rose(self) -> dict[str, Rise]:
        counts = Counts(self._recording, self._namespace)
        return {one.counter.name: one for one in counts.rose()}

    @cached_property
    def _checksums(self) -> Checksums:
        return Checksums(self._rose)

    @cached_property
    def _policed(self) -> Policed:
        return Policed(self._recording, self._namespace, self._interfaces)

    @cached_property
    def _crowded(self) -> Crowded:
        filtered = self._recording.facts.filter is not None
        return Crowded(self._sockets, self._rose, filtered=filtered, told=self._told)

    @cached_property
    def _told(self) -> bool:
        """Whether the kernel told of all that it dropped."""
        return told_all(self._recording, self._namespace)
