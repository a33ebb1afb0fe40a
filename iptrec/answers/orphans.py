"""Events that belong to no packet: they name no rule, or cannot be read. Counted, shown, never dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iptrec.names import HOOKS
from iptrec.packets.window import windows
from iptrec.recording.hosts import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording


@dataclass(frozen=True, slots=True)
class Orphan:
    """One event: of somebody's NFLOG rule in the same group, say.

    ``header`` (see `decode.packet.header`) is None where a datagram holds no event that can be read.
    ``indev``, ``outdev`` are interface indexes. ``host``: of several recordings read as one.
    """

    time_ns: int
    hook: str | None
    prefix: str | None
    mark: int
    indev: int | None
    outdev: int | None
    header: dict[str, Any] | None
    host: str | None = None


def orphans(recording: Recording) -> Iterator[Orphan]:
    """All of a recording; in order of receipt, but for what cannot be read, which comes after its window."""
    for window in windows(recording):
        host = name_of(recording, window.stream.namespace)
        for row in window.unplaced.tolist():
            yield _event(window, row, host)
        for received_ns in window.unread.tolist():
            yield Orphan(received_ns, None, None, 0, None, None, None, host)


def _event(window: Window, row: int, host: str | None) -> Orphan:
    events = window.events
    number = int(events.site[row])
    site = events.sites[number] if number >= 0 else None
    hook = int(events.hook[row])
    return Orphan(
        time_ns=int(events.stamp_ns[row] or events.sent_ns[row]),
        hook=HOOKS[hook] if hook < len(HOOKS) else None,
        prefix=site.decode("utf-8", "backslashreplace") if isinstance(site, bytes) else None,
        mark=int(events.mark[row]),
        indev=int(events.indev[row]) or None,
        outdev=int(events.outdev[row]) or None,
        header=events.header(row),
        host=host,
    )
