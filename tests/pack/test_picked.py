"""Which records of drops are packed with some packets."""

from __future__ import annotations

import pytest
from handmade import drop, udp, udp6

from iptrec.pack.picked import _Dropped, _mark_of

CASES = {
    "its own": (drop(5, 3, udp(ident=7)), True),
    "behind NAT": (drop(5, 3, udp(ident=7, src="192.0.2.9", sport=9)), True),
    "when another one was dropped": (drop(9, 3, udp(ident=7)), False),
    "of another packet": (drop(5, 3, udp(ident=8)), False),
    "of IPv6, of another packet": (drop(5, 3, udp6()), False),
    "cut": (drop(5, 3, udp(ident=8), captured=10), True),
}


@pytest.mark.parametrize("case", CASES)
def test_records_of_drops(case):
    """What may be of a packet that is packed stays."""
    record, stays = CASES[case]
    dropped = _Dropped(packed={5}, others={5, 9})
    dropped.marks.add(_mark_of(udp(ident=7)))
    assert dropped.keeps(record) is stays
