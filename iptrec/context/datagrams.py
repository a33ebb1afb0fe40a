"""The datagrams of streams beside the events, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Recording


def datagrams(
    recording: Recording, kind: str, namespace: int, seen: dict[int, int] | None = None
) -> Iterator[tuple[int, bytes]]:
    """When each was received (epoch, ns), and its bytes, of the streams of a kind in a namespace.

    ``seen``: by the stream up to which chunk it was read already; what is read now is added.
    """
    seen = {} if seen is None else seen
    for stream in recording.streams:
        if (stream.kind, stream.namespace) != (kind, namespace):
            continue
        for chunk in recording.chunks(stream.id, after=seen.get(stream.id, 0)):
            seen[stream.id] = chunk.id
            yield from chunk.datagrams()
