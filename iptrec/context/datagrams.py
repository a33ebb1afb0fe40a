"""The datagrams of streams beside the events, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Recording


def datagrams(recording: Recording, kind: str, namespace: int) -> Iterator[tuple[int, bytes]]:
    """When each was received (epoch, ns), and its bytes, of the streams of a kind in a namespace."""
    for stream in recording.streams:
        if (stream.kind, stream.namespace) != (kind, namespace):
            continue
        for chunk in recording.chunks(stream.id):
            ends = np.cumsum(chunk.lengths, dtype=np.int64)
            starts = ends - chunk.lengths
            for start, end, time_ns in zip(
                starts.tolist(), ends.tolist(), chunk.received_ns.tolist(), strict=True
            ):
                yield time_ns, chunk.data[start:end]
