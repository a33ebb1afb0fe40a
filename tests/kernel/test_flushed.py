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
