"""What a program behind NFQUEUE gives back changed."""

from __future__ import annotations

import pytest
from handmade import UUID, HandMade, udp, udp6

from iptrec.answers.packets import Packets

OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RULES = (
    f"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {OWN}\nCOMMIT\n"
    "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
    "-A FORWARD -j NFQUEUE --queue-num 3\nCOMMIT\n"
    "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
)
LONGER = b"longer and longer"


def handed(packet):
    first = [("raw:PREROUTING:policy:2", packet, {}), ("mangle:PREROUTING:policy:1", packet, {})]
    return [*first, ("mangle:FORWARD:rule:1", packet, {})]


def given(packet):
    return [("filter:FORWARD:policy:1", packet, {}), ("mangle:POSTROUTING:policy:1", packet, {})]


ONE, OTHER = udp(ident=1), udp(ident=2)
CASES = {  # events; by packet: its verdict and how many steps it has
    "changed": ([*handed(ONE), *given(udp(LONGER, ident=1))], [("ACCEPT", 5)]),
    "out_of_order": (
        [*handed(ONE), *handed(OTHER), *given(udp(LONGER, ident=2)), *given(udp(LONGER, ident=1))],
        [("ACCEPT", 5)] * 2,
    ),
    "another": (
        [*handed(ONE), *given(udp(LONGER, ident=1, sport=7))],
        [("QUEUE", 3), ("ACCEPT", 2)],
    ),
    "before": ([*given(udp(LONGER, ident=1)), *handed(ONE)], [("ACCEPT", 2), ("QUEUE", 3)]),
    "of_two": (
        [*handed(udp6()), *handed(udp6(b"y")), *given(udp6(LONGER))],
        [("QUEUE", 3), ("QUEUE", 3), ("ACCEPT", 2)],
    ),
    "of_one": ([*handed(udp6()), *given(udp6(LONGER))], [("ACCEPT", 5)]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_given_back(case):
    """It is the packet that was handed over if it can be no other; else it is a packet without a beginning."""
    events, expected = CASES[case]
    recording = HandMade().ruleset(RULES).ruleset(RULES, kind="ip6tables-save").events(events)
    found = list(Packets(recording))
    assert [(one.verdict, len(one.steps)) for one in found] == expected
    assert [one.complete for one in found] == [steps == 5 for _, steps in expected]
