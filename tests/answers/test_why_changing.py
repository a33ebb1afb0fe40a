"""Why rules did not match where it is not known which were in force: what contradicts itself was not."""

from __future__ import annotations

import json

import pytest
from handmade import UUID, HandMade, udp

from iptrec.answers.packets import Packets
from iptrec.answers.why import explain
from iptrec.views import why

OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RAW = f"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {OWN}\nCOMMIT\n"
TCP, UDP, FROM = "-p tcp -j DROP", "-p udp -j DROP", "-s 10.0.0.0/8 -j DROP"


def table(*rules):
    return (
        "*filter\n:INPUT ACCEPT [0:0]\n"
        + "".join(f"-A INPUT {one}\n" for one in rules)
        + "COMMIT\n"
    )


def passed(old, new):
    """What is said of the rules that a packet passed over up to a policy; they changed just then."""
    events = [(f"{one}:policy:2", udp(), {}) for one in ("raw:PREROUTING", "filter:INPUT")]
    recording = HandMade().ruleset(RAW + table(*old)).events(events)
    recording.streams[0].detail["slots"] = 1
    recording.ruleset(table(*new), time_ns=10**9, after_ns=0)
    (found,) = explain(recording, Packets(recording))
    assert (found.packet.complete, found.packet.ambiguous) == (True, False)
    assert [one["passed"] for one in json.loads(why.as_json(found))["packet"]["steps"]][1] == [
        {"rule": one.number, "spec": one.rule.spec, "fits": one.fits, "because": one.because}
        for one in found.steps[1].passed
    ]
    return [(one.rule.spec, one.fits, one.because) for one in found.steps[1].passed]


@pytest.mark.parametrize("rules", [(TCP, UDP), (UDP, TCP)], ids=["came", "went"])
def test_a_rule_that_would_have_matched_was_not_there(rules):
    """It matches all that the packet may have been: the other rules were in force."""
    old, new = rules
    assert passed([old], [new]) == [(TCP, False, "-p tcp (it is udp)")]


@pytest.mark.parametrize(("old", "new"), [(UDP, FROM), (FROM, UDP)])
def test_of_two_that_would_have_matched_perhaps_neither_was_there(old, new):
    """Nothing tells: no contradiction is claimed."""
    because = "the rules changed just then: perhaps it was not there"
    assert passed([old], [new]) == [(new, None, because)]


def test_a_rule_that_was_there_all_the_time():
    """The contradiction is told."""
    assert passed([UDP], [UDP]) == [(UDP, True, None)]
