"""What a place is called where a packet's end is explained."""

from __future__ import annotations

import pytest

from iptrec.packets.outcome import _where
from iptrec.rulesets.places import Place


@pytest.mark.parametrize(
    ("number", "end", "ours", "words"),
    [
        (3, False, False, "filter/INPUT rule 3"),
        (None, True, False, "filter/INPUT its end"),
        (None, False, True, "filter/INPUT iptrec's own rule"),
        (None, False, False, "filter/INPUT rule (not in the recorded ruleset)"),
    ],
)
def test_a_rule_without_a_number(number, end, ours, words):
    """Is not called None."""
    place = Place(
        hook=1, table="filter", chain="INPUT", index=None, number=number, end=end, builtin=True, ours=ours,
        rule=None, effect="continue",
    )  # fmt: skip
    assert _where(place) == words
