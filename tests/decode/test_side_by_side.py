"""The events of two chunks as those of one."""

from __future__ import annotations

import numpy as np
from handmade import udp
from nft_handmade import ACCEPT, NEW_GENERATION, event, message, u32

from iptrec.decode import nftrace
from iptrec.decode.events import side_by_side


def decoded(generation):
    """A generation that was told, and a packet in a base chain: three datagrams."""
    packet = udp(b"x")
    messages = [
        message(NEW_GENERATION, (1, u32(generation))),
        event(packet, 1, "f", 5, dumps=True),
        event(packet, 1, "f", policy=ACCEPT),
    ]
    lengths = np.array([len(one) for one in messages], np.uint32)
    return nftrace.decode(b"".join(messages), lengths, np.arange(3) + 100 * generation)


def test_numbers_of_datagrams_go_on():
    """Those that events are judged by, too."""
    events = side_by_side(decoded(7), decoded(8), 3)
    assert events.datagram.tolist() == [1, 2, 4, 5]
    assert events.head.tolist() == [1, 1, 4, 4]
    assert events.generations.number.tolist() == [7, 8]
    assert events.generations.datagram.tolist() == [0, 3]
    assert events.generations.sent_ns.tolist() == [700, 800]
    assert events.undecoded.tolist() == []
