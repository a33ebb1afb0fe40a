"""What the events of one packet tell, out of a window's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.paths import shown
from iptrec.decode.conntrack import OTHER_STATUS
from iptrec.packets.model import CtInfo

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64
    from iptrec.packets.window import Window

_TEMPLATE: Final = OTHER_STATUS["template"]
_NO_CT: Final = (-1, -1, -1, 0)


def connection(events: TraceEvents, rows: I64) -> int:
    """The number of a packet's connection; -1: not known. A template, which sets its zone, is none."""
    numbers, status = events.conntrack[rows], events.ct_status[rows]
    return int(np.where((status >= 0) & (status & _TEMPLATE > 0), -1, numbers).max())


def known(column: I64) -> int | None:
    """What any event of a packet tells; -1: that one does not."""
    most = int(column.max())
    return None if most < 0 else most


def begun_ns(window: Window, positions: I64) -> I64:
    """When packets were there, epoch, as `Columns.time_ns` has it of the first event that is shown of each.

    ``positions``: of the assembly, shape (n,), as the result.
    """
    assembly, events = window.assembly, window.events
    outcome = assembly.outcome[positions]
    skipped = np.zeros(len(assembly.outcomes), np.int64)
    for number in np.flatnonzero(np.bincount(outcome)).tolist():  # np.unique loads numpy.ma
        places = [window.resolver.places[one] for one in assembly.outcomes[number].path]
        skipped[number] = next(iter(shown(places)), 0)
    rows = assembly.rows[assembly.first[positions] + skipped[outcome]]
    stamps = events.stamp_ns[rows]
    found: I64 = np.where(stamps != 0, stamps, events.sent_ns[rows])
    return found


class Columns:
    """What the steps of one packet need, as lists; ``rows``: its events."""

    def __init__(self, window: Window, rows: I64) -> None:
        events = window.events
        whole = np.flatnonzero(events.trace[rows] < 0)
        self._whole: list[int] = whole.tolist() if len(whole) < len(rows) else []
        self._memory = events.buffer.data
        self._start = events.payload[rows].tolist()
        self._size = events.payload_length[rows].tolist()
        self.moment_ns: list[int] = window.moment_ns[rows].tolist()
        self.stamp_ns: list[int] = events.stamp_ns[rows].tolist()
        self.sent_ns: list[int] = events.sent_ns[rows].tolist()
        self.estimated: list[bool] = events.estimated[rows].tolist()
        self.mark: list[int] = events.mark[rows].tolist()
        self.indev: list[int] = events.indev[rows].tolist()
        self.outdev: list[int] = events.outdev[rows].tolist()
        self.physindev: list[int] = events.physindev[rows].tolist()
        self.physoutdev: list[int] = events.physoutdev[rows].tolist()
        ct = (events.conntrack, events.ct_direction, events.ct_status, events.ct_state)
        self._ct = list(zip(*(one[rows].tolist() for one in ct), strict=True))

    def time_ns(self, at: int) -> int:
        """When the packet was there."""
        return self.stamp_ns[at] or self.sent_ns[at]

    def packet(self, at: int) -> bytes:
        """The packet, as far as it was captured: nf_tables dumps headers, legacy iptables may tell the rest."""
        captured = self._captured(at)
        told = map(self._captured, sorted(self._whole, key=lambda one: abs(one - at)))
        return next((one for one in told if one.startswith(captured)), captured)

    def _captured(self, at: int) -> bytes:
        """As `TraceEvents.packet`."""
        start = self._start[at]
        return bytes(self._memory[start : start + self._size[at]]) if start >= 0 else b""

    def ct(self, at: int) -> CtInfo | None:
        """What conntrack knew, None if that is nothing."""
        if self._ct[at] == _NO_CT:
            return None
        identity, direction, status, state = self._ct[at]
        known = (None if one < 0 else one for one in (identity, direction, status))
        return CtInfo(next(known), next(known), next(known), state or None)
