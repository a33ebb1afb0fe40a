"""``why`` in words: what was not recorded is said to be so."""

from __future__ import annotations

import pytest
from test_text_layout import packet, step

from iptrec.answers.why import ExplainedStep, Explanation
from iptrec.views import why


@pytest.mark.parametrize(
    ("met", "lines"),
    [
        (
            step(),
            ["by filter/INPUT rule 2, `-p udp -j DROP`.", "    #2    -p udp -j DROP  => DROP"],
        ),
        (
            step(spec=None),
            [
                "by filter/INPUT rule 2, whose text was not recorded.",
                "    #2    (its text was not recorded)  => DROP",
            ],
        ),
        (
            step(spec=None, target=None, type="unknown"),
            [
                "by filter/INPUT rule 2, whose text was not recorded.",
                "    #2    or the end: (not in the recorded ruleset)  => ?",
            ],
        ),
        (
            step(spec="counter", target=None),
            ["by filter/INPUT rule 2, `counter`.", "    #2    counter  => goes on"],
        ),
    ],
)
def test_a_rule_with_and_without_its_text(met, lines):
    """Neither None nor a question mark where a rule is known by its number alone."""
    told = list(why.as_text(Explanation(packet(met), (ExplainedStep(met, ()),)), colour=False))
    assert [told[0].partition(" was dropped ")[2], told[-1]] == lines
