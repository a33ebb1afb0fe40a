"""What a rule did to a packet: nf_tables tells the mark after the rule, legacy iptables before it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from iptrec.decode.rulesets.types import Rule
from iptrec.packets.effects import contradicted


def place(spec, target=None, arguments=None, syntax="nft"):
    rule = Rule(spec, target, arguments, goto=False, comment=None, conditional=True, syntax=syntax)
    return SimpleNamespace(rule=rule, pass_=("FORWARD", "filter"))


def mark(value, mask=0xFFFFFFFF):
    return place("-j MARK", "MARK", f"--set-xmark {value:#x}/{mask:#x}", "iptables")


SETS_5 = place("udp dport 53 meta mark set 0x00000005 accept", "ACCEPT")
CASES = {
    # places, marks of their events; whether they contradict where it is the mark after, and before
    "iptables-nft: it has its mark": ([mark(5), place("drop")], [5, 5], (False, False)),
    "iptables-nft: it has another one": ([mark(5), place("drop")], [6, 6], (True, True)),
    "two marks": ([mark(5), mark(6)], [5, 6], (False, True)),
    "two marks, legacy": ([mark(5), mark(6)], [0, 5], (True, False)),
    "bits of a mask": ([mark(5, 0xF), place("drop")], [0x15, 0x15], (False, False)),
    "toggled bits": ([mark(0x13, 0x3), place("drop")], [0x13, 0x13], (False, True)),
    "the last event": ([mark(5)], [6], (True, False)),
    "nft: it has its mark": ([SETS_5], [5], (False, False)),
    "nft: it has another one": ([SETS_5], [6], (True, False)),
    "nft: in a comment": ([place('accept comment "meta mark set 0x00000005"')], [6], (False, False)),
    "nft: of bits": ([place("meta mark set mark and 0x00000005")], [6], (False, False)),
    "nft: twice": ([place("meta mark set 0x00000005 meta mark set 0x00000006")], [6], (False, False)),
}  # fmt: skip


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_marks(case, after):
    places, marks, expected = CASES[case]
    events = SimpleNamespace(mark=np.array(marks, np.uint32))
    found = contradicted(events, range(len(places)), places, mark_after=after)
    assert found is expected[0 if after else 1]
