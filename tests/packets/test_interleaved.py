"""Whether an event can be of a packet that is in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iptrec.packets.branches import Walk
from iptrec.packets.in_flight import Packet
from iptrec.rulesets.places import Pass

FORWARD, POSTROUTING = Pass(2, "inet fw", "f"), Pass(4, "inet fw", "p")
PACKET = Packet(
    rows=[1], walk=Walk(()), addresses=b"", indev=1, outdev=2, conntrack=7, hook=2, stamp=0, trace=5,
    pass_=FORWARD, direction=0,
)  # fmt: skip
EVENTS = {  # what differs in an event at POSTROUTING; whether it can be the packet's
    "same": ({}, True),
    "another id of the trace, after NAT": ({"trace": 6}, True),
    "another id in the same base chain": ({"trace": 6, "pass_": FORWARD}, False),
    "another connection": ({"conntrack": 8}, False),
    "the other direction": ({"direction": 1}, False),
    "no connection told": ({"conntrack": -1, "direction": -1}, True),
    "no direction told": ({"direction": -1}, True),
}


@pytest.mark.parametrize("name", EVENTS)
def test_may_be(name):
    """The kernel's ids and the connection decide, as far as they were told."""
    more, expected = EVENTS[name]
    event = replace(PACKET, **({"rows": [2], "pass_": POSTROUTING, "hook": 4} | more))
    assert PACKET.may_be(event) == expected
