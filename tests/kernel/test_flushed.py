"""Where rules go back that --flush took out, judged by what is in their chains."""

from __future__ import annotations

import pytest

from iptrec.kernel.undo import flushed

OURS = None
CASES = {
    "ours in place": ([OURS], [OURS], {"PREROUTING": 0, "OUTPUT": 0}),
    "one of ours deleted": ([OURS], [], {"PREROUTING": 0, "OUTPUT": 0}),
    "never taken out": (["a", "b"], ["c"], {}),
    "loaded again beside ours": ([OURS, "a", "b"], [OURS], {"OUTPUT": 0}),
    "in another order": ([OURS, "b", "a"], [OURS], {"PREROUTING": 0, "OUTPUT": 0}),
    "somebody's before and behind": (["x", OURS, "y"], [OURS], {"PREROUTING": 1, "OUTPUT": 0}),
    "one chain replaced": (["x"], [OURS], {"PREROUTING": None, "OUTPUT": 0}),
    "one chain replaced, the other emptied": (["x"], [], {"PREROUTING": None, "OUTPUT": None}),
    "both emptied": ([], [], {"PREROUTING": 0, "OUTPUT": 0}),
    "one chain gone": (None, [OURS], {"PREROUTING": None, "OUTPUT": 0}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_chain_is_judged_by_what_is_there(case):
    """Nothing is lost, nothing comes twice, nobody's rules change places."""
    first, second, expected = CASES[case]
    now = {"PREROUTING": first, "OUTPUT": second}
    there = {chain: rules for chain, rules in now.items() if rules is not None}
    assert flushed.places(there, {"PREROUTING": ["a", "b"], "OUTPUT": ["c"]}) == expected


PRINTED = {
    "-A OUTPUT -m recent --rcheck --name bad --mask 255.255.255.255 --rsource -j DROP": {"recent"},
    '-A OUTPUT -p tcp -m tcp --dport 5 -m comment --comment "a -m recent b" -j DROP': {
        "tcp",
        "comment",
    },
    '-A OUTPUT -m string --string "x \\" -m recent " --algo bm -m limit --limit 5/sec': {
        "string",
        "limit",
    },
    '-A OUTPUT -m string --string "x\\" --algo bm -m limit --limit 5/sec': {
        "string"
    },  # as 1.8.9 prints x\
    "-A OUTPUT -j DROP": set(),
}


@pytest.mark.parametrize("line", PRINTED)
def test_extensions_are_those_that_stand_outside_of_quotes(line):
    """A comment names none, and what iptables-save itself prints wrongly is no reason to fail."""
    assert flushed.extensions(line) >= PRINTED[line]
    assert ("recent" in flushed.extensions(line)) == ("recent" in PRINTED[line])
