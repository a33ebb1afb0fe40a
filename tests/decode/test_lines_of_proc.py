"""Lines of /proc end with a line feed alone; names in them may hold what else ends a line to Python."""

from __future__ import annotations

import pytest

from iptrec.decode import counters, owners

SEPARATORS = ["\v", "\f", "\r", "\x1c", "\x85", "\u2028"]


@pytest.mark.parametrize("one", SEPARATORS)
def test_a_path_of_control_groups(one):
    """One line is one hierarchy."""
    found = [*owners._in_text(f"1:name=systemd:/a{one}b\n0::/c{one}0:d\n")]
    assert found == [(1, f"/a{one}b"), (2, f"/c{one}0:d")]


@pytest.mark.parametrize("one", ["\x1c", "\x85", "\u2028"])
def test_a_name_of_an_interface(one):
    """The kernel refuses blanks in it, and none of these is one to it."""
    found = counters.counters({"dev": f"head\nhead\n a{one}b: {' '.join(['7'] * 16)}\n"})
    assert {counter.of for counter in found} == {f"a{one}b"}
