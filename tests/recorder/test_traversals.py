"""How many packets events of nf_tables tell of, by what the kernel sends at the ends of our chains."""

from __future__ import annotations

import struct

import pytest

from iptrec.kernel.nft.bases import Base
from iptrec.kernel.nft.table import Own
from iptrec.recorder.traversals import Traversals

LO = Base("netdev", "fw", "c", 0, 0, ("lo",))
BRIDGE = Base("bridge", "fw", "c", 0, 0)
IP = Base("inet", "fw", "c", 0, -450)


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def end(number, chain, table="iptrec-1"):
    """What tells a policy; before and behind it there may be anything."""
    names = attribute(2, chain.encode() + b"\0") + attribute(1, table.encode() + b"\0")
    return (
        b"...."
        + attribute(6, struct.pack("=I", number))
        + names
        + attribute(16, bytes(4))
        + b"...."
    )


@pytest.mark.parametrize(
    ("early", "alone", "events", "packets"),
    [
        (
            (),
            False,
            [(1, "PREROUTING", "raw"), (2, "OUTPUT", "raw"), (3, "PREROUTING", "mangle")],
            2,
        ),
        ((), True, [(1, "prerouting"), (1, "output"), (2, "INPUT", "raw")], 2),
        ((IP,), False, [(1, "early_prerouting"), (1, "PREROUTING", "raw"), (2, "early_output")], 2),
        ((LO,), False, [(1, "ingress"), (1, "early_prerouting"), (2, "early_prerouting")], 2),
        (
            (LO,),
            False,
            [(1, "ingress"), (1, "ingress"), (1, "early_prerouting")],
            2,
        ),  # one was dropped
        ((LO, BRIDGE), False, [(1, "ingress"), (1, "bridged"), (1, "early_prerouting")], 1),
        ((BRIDGE,), False, [(1, "bridged"), (1, "bridged"), (1, "early_prerouting")], 2),
        ((IP,), False, [(1, "early_prerouting_of_the_user", "fw"), (1, "c", "fw")], 0),
    ],
)
def test_each_packet_is_counted_once(early, alone, events, packets):
    """Wherever it came first, and however the events are divided."""
    own = Own("iptrec:1", (), (), {}, alone, early)
    assert Traversals(own).of(b"".join(end(*one) for one in events)) == packets
    counted = Traversals(own)
    assert sum(counted.of(end(*one)) for one in events) == packets
