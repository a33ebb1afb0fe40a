"""A rule of nf_tables whose text was not recorded: nobody knows whether a packet fits."""

from __future__ import annotations

from iptrec.decode.rulesets.types import Rule
from iptrec.matching import nft
from iptrec.matching.facts import Facts


def test_it_is_not_said_to_fit():
    rule = Rule("", None, None, goto=False, comment=None, conditional=True, syntax="nft")
    found = nft.judge(rule, Facts({}, 0, None, None, None, None, None))
    assert (found.fits, found.because) == (None, "its text, which was not recorded")
