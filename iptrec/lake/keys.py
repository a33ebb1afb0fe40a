"""What is the same of a packet on every host, whatever was translated on the way.

Addresses and ports are no part of it: a source address is translated after the last rule that is traced.
Both of the kernel's ways to trace give the same key: it is made of what nf_tables dumps, which is less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.packets.identity import Packets

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask

_TCP: Final = 6
_IDENTIFICATION: Final = 4  # where IPv4 has it, two bytes


def keys(events: TraceEvents, rows: I64) -> tuple[I64, Mask]:
    """One key for the packet of each of these events, and which hardly another packet has, both shape (n,).

    Sure are those with numbers of their sender's, an IPv4 id other than 0 or TCP's, captured as far as the
    key goes. Others are equal wherever packets look alike. Of what is not IP the key means nothing.
    """
    packets = Packets.of(events, rows)
    begin = np.maximum(events.payload[rows], 0)
    whole = events.payload_length[rows] >= np.minimum(packets.rooms(), packets.lengths())
    there = events.ip[rows] & (events.payload[rows] >= 0) & whole
    buffer = events.buffer
    number = buffer[begin + _IDENTIFICATION] | buffer[begin + _IDENTIFICATION + 1]
    _, later, _ = packets.transports()
    tcp = (packets.protocols() == _TCP) & ~later
    sure: Mask = there & ((~events.ipv6[rows] & (number != 0)) | tcp)
    return packets.dumped().keys().view(np.int64), sure
