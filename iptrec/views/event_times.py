"""Whose times the events of a recording have: the kernel's, where a tap noted them, or its recorder's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Recording


def event_times(recording: Recording) -> Iterator[str]:
    """In words, by the streams that say so."""
    told = [one for one in recording.streams if one.detail.keys() & {"tap", "untapped"}]
    for one in told:
        whose = f"{one.kind}: " if len(told) > 1 else ""
        if "untapped" in one.detail:
            yield f"{whose}as the recorder received them ({one.detail['untapped']})"
            continue
        beside = sum(
            loss.events or 0
            for loss in recording.losses
            if (loss.stream, loss.how) == (one.id, "overflow")
        )
        but = f", but for {counted(beside, 'event')} that found no room in the tap, and have none"
        yield f"{whose}as the kernel sent them{but if beside else ''}"
