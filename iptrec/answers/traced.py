"""Whether anything was traced at all: every command asks, also where nobody asks why not (`nothing`)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode.nftrace import NFT_MSG_NEWGEN
from iptrec.recording.kinds import STREAMS

if TYPE_CHECKING:
    from iptrec.recording.rows import Chunk, Recording

_KIND: Final = 4  # where the kind of a netlink message is
_NUMBER: Final = struct.pack("=H", NFT_MSG_NEWGEN)


def traced(recording: Recording) -> bool:
    """Whether there is any event."""
    return any(
        _has_events(chunk)
        for stream in recording.streams
        if stream.kind in STREAMS and STREAMS[stream.kind].events
        for chunk in recording.chunks(stream.id)
    )


def _has_events(chunk: Chunk) -> bool:
    """Whether more is in it than numbers of rulesets, which nf_tables tells among the traces."""
    starts = chunk.lengths.cumsum(dtype=np.int64) - chunk.lengths
    return any(chunk.data[at + _KIND : at + _KIND + 2] != _NUMBER for at in starts.tolist())
