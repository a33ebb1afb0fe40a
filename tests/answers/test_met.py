"""What a packet was at each rule, where its trace does not tell it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from iptrec.answers.before import Before
from iptrec.answers.met import met
from iptrec.decode.conntrack import STATES
from iptrec.decode.rulesets import iptables_save
from iptrec.matching import judge
from iptrec.matching.facts import Facts

TOLD = Facts({}, 0, None, "lo", None, None, None, ct_state=STATES["invalid"])
SAVED = """\
*raw
:OUTPUT ACCEPT [0:0]
-A OUTPUT -j CT --helper tftp
-A OUTPUT -m connmark --mark 0x0
-A OUTPUT -m conntrack --ctstate INVALID
-A OUTPUT -m helper --helper tftp
COMMIT
"""
CT, *ASKING = iptables_save.parse(SAVED.encode()).tables["raw"]["OUTPUT"].rules


def step(rule, *, dumps, pass_=0):
    place = SimpleNamespace(
        rule=rule, hook=3, pass_=pass_, policies=(), table="raw", wordless=False
    )
    return Before(0, place, [], 0, 0, late=True, dumps=dumps)


@pytest.mark.parametrize("rule", ASKING)
@pytest.mark.parametrize("dumps", [False, True])
def test_a_template_is_no_connection_and_is_not_told(rule, dumps):
    """Behind a rule of CT, in its chain and in the next one of the hook, until a trace tells a connection."""
    steps = [(step(CT, dumps=True), TOLD), (step(rule, dumps=dumps, pass_=int(dumps)), TOLD)]
    *_, last = met(steps)
    assert judge(rule, last.facts).fits is None


@pytest.mark.parametrize("rule", ASKING)
def test_what_is_told_of_a_connection_holds(rule):
    new = replace(TOLD, ct_state=STATES["new"])
    *_, last = met([(step(CT, dumps=True), TOLD), (step(rule, dumps=True, pass_=1), new)])
    assert not last.facts.written
