"""When events of the packets of a namespace may have been lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.recording.kinds import STREAMS

if TYPE_CHECKING:
    from iptrec.recording.rows import Recording, Stream

_SLACK_NS: Final = 100_000_000  # between the events of a packet, and its end


def event_streams(recording: Recording, namespace: int) -> list[Stream]:
    """The streams of a namespace that tell which rules packets met."""
    return [
        one
        for one in recording.streams
        if one.namespace == namespace and one.kind in STREAMS and STREAMS[one.kind].events
    ]


def spans(recording: Recording, namespace: int) -> list[tuple[int, int]]:
    """Between which times (epoch, ns) some were; packets of these times may lack theirs."""
    streams = {one.id for one in event_streams(recording, namespace)}
    return [
        (one.first_ns - _SLACK_NS, one.last_ns + _SLACK_NS)
        for one in recording.losses
        if one.stream in streams and one.of_events
    ]
