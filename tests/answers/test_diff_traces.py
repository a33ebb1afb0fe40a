"""What differs between two recordings: the fate of flows, and what paths say."""

from __future__ import annotations

import pytest
from handmade_filter import cut, packet, recording, rules

from iptrec.answers import fates
from iptrec.answers.diff_traces import compare_traces
from iptrec.answers.packets import Packets
from iptrec.answers.path_words import Language
from iptrec.answers.selection import Selection
from iptrec.packets.flows import Flow
from iptrec.rulesets.backends import rulesets

FIRST_NS = -(2**62)


def compare(before, now):
    sides = (
        (Packets(one), rulesets(one, time, 1)) for one, time in ((before, None), (now, FIRST_NS))
    )
    return compare_traces(*sides)


def told(found):
    """The flows and paths that differ, in a word each."""
    flows = [
        (kind, one.flow.header["dport"], one.before.verdicts, one.now.verdicts)
        for kind in ("changed", "perhaps", "unknown")
        for one in found.flows(kind)
    ]
    paths = [(one.only, one.path.path.verdict, one.path.count.packets) for one in found.paths]
    return flows, paths


DROP = "-p udp -j DROP"
LOG = "-p udp -j LOG"
DROPPED, PASSED = packet("INPUT:rule:1"), packet("INPUT:policy:1")
SAME = {
    "a rule before": (
        [rules(LOG, DROP), packet("INPUT:rule:1", "INPUT:rule:2")],
        [rules("-s 9.9.9.9/32 -j DROP", LOG, DROP), packet("INPUT:rule:2", "INPUT:rule:3")],
    ),
    "the second of two equal ones": (
        [rules(LOG, LOG), packet("INPUT:rule:2", "INPUT:policy:3")],
        [
            rules(LOG, "-s 9.9.9.9/32 -j DROP", LOG),
            packet("INPUT:rule:3", "INPUT:policy:4"),
        ],
    ),
    "a comment": (
        [rules("-p udp -m comment --comment old -j DROP"), DROPPED],
        [rules('-p udp -m comment --comment "it \\"is\\" new" -j DROP'), DROPPED],
    ),
    "a chain that passes on": (
        [rules("-j a", chains=["a"]), packet("INPUT:rule:1", "a:return:1", "INPUT:policy:2")],
        [
            rules("-j a", "a -p tcp -j DROP", chains=["a"]),
            packet("INPUT:rule:1", "a:return:2", "INPUT:policy:2"),
        ],
    ),
    "a chain's name": (
        [rules("-j a", f"a {DROP}", chains=["a"]), packet("INPUT:rule:1", "a:rule:1")],
        [rules("-j b", f"b {DROP}", chains=["b"]), packet("INPUT:rule:1", "b:rule:1")],
    ),
    "a table that was loaded": (
        [rules(), PASSED],
        [
            rules(more="*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\nCOMMIT\n"),
            (
                {},
                [
                    "raw:PREROUTING:policy:2",
                    "mangle:PREROUTING:policy:1",
                    "mangle:INPUT:policy:1",
                    "filter:INPUT:policy:1",
                ],
            ),
        ],
    ),
    "another client's port": (
        [rules(DROP), packet("INPUT:rule:1", sport=40000)],
        [rules(DROP), packet("INPUT:rule:1", sport=50000)],
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_nothing_differs(case):
    """What packets went through says the same, and so does its end."""
    before, now = (recording(*side) for side in SAME[case])
    found = compare(before, now)
    assert told(found) == ([], [])
    assert (found.same, found.any, found.only, found.uncompared) == (1, False, (0, 0), (0, 0))


ACCEPT = "-p udp -j ACCEPT"
CHANGED = {
    "a rule deleted": (
        [rules(ACCEPT, policy="DROP"), DROPPED],
        [rules(policy="DROP"), PASSED],
        [("changed", 53, {"ACCEPT": 1}, {"DROP": 1})],
        [("now", "DROP", 1), ("before", "ACCEPT", 1)],
    ),
    "a policy": (
        [rules(), PASSED],
        [rules(policy="DROP"), PASSED],
        [("changed", 53, {"ACCEPT": 1}, {"DROP": 1})],
        [("now", "DROP", 1), ("before", "ACCEPT", 1)],
    ),
    "some packets": (
        [rules(DROP), DROPPED, DROPPED],
        [rules(DROP), DROPPED, DROPPED, packet("INPUT:policy:2")],
        [("changed", 53, {"DROP": 2}, {"DROP": 2, "ACCEPT": 1})],
        [("now", "ACCEPT", 1)],
    ),
    "how many, which is chance": (
        [rules(DROP), DROPPED, DROPPED, packet("INPUT:policy:2")],
        [rules(DROP), DROPPED, packet("INPUT:policy:2"), packet("INPUT:policy:2")],
        [],
        [],
    ),
    "a path alone": (
        [rules(LOG), packet("INPUT:rule:1", "INPUT:policy:2")],
        [rules(ACCEPT), packet("INPUT:rule:1")],
        [],
        [("now", "ACCEPT", 1), ("before", "ACCEPT", 1)],
    ),
    "the first of two equal ones": (
        [rules(LOG, LOG), packet("INPUT:rule:1", "INPUT:policy:3")],
        [rules(LOG, LOG), packet("INPUT:rule:2", "INPUT:policy:3")],
        [],
        [("now", "ACCEPT", 1), ("before", "ACCEPT", 1)],
    ),
    "one that was not seen to its end": (
        [rules(DROP), DROPPED, cut()],
        [rules(DROP), DROPPED, packet("INPUT:policy:2")],
        [("perhaps", 53, {"DROP": 1}, {"DROP": 1, "ACCEPT": 1})],
        [("now", "ACCEPT", 1)],
    ),
    "nothing that was seen to its end": (
        [rules(DROP), cut()],
        [rules(DROP), DROPPED],
        [("unknown", 53, {}, {"DROP": 1})],
        [("now", "DROP", 1)],
    ),
    "all, but for one that was not seen to its end": (
        [rules(ACCEPT), DROPPED, cut()],
        [rules(DROP), DROPPED],
        [("changed", 53, {"ACCEPT": 1}, {"DROP": 1})],
        [("now", "DROP", 1), ("before", "ACCEPT", 1)],
    ),
    "flows, the most packets first": (
        [rules(), PASSED, packet("INPUT:policy:1", dport=54), packet("INPUT:policy:1", dport=54)],
        [rules(policy="DROP"), PASSED, packet("INPUT:policy:1", dport=54)],
        [
            ("changed", 54, {"ACCEPT": 2}, {"DROP": 1}),
            ("changed", 53, {"ACCEPT": 1}, {"DROP": 1}),
        ],
        [("now", "DROP", 2), ("before", "ACCEPT", 3)],
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_differs(case):
    """Fates as far as they are known, paths only where they are certain."""
    before, now, flows, paths = CHANGED[case]
    found = compare(recording(*before), recording(*now))
    assert told(found) == (flows, paths)
    assert found.any == bool(paths or any(kind != "unknown" for kind, *_ in flows))


def test_who_decides_now():
    """The rule that made the difference, though most packets end by another."""
    one = next(
        compare(
            recording(rules(ACCEPT), DROPPED),
            recording(
                rules("-p udp -m limit -j ACCEPT", DROP), DROPPED, DROPPED, packet("INPUT:rule:2")
            ),
        ).flows("changed")
    )
    assert (one.decider.verdict, one.decider.spec, one.decider.first) == ("DROP", DROP, 3)
    assert [(each.verdict, each.packets, each.spec) for each in one.now.ended] == [
        ("ACCEPT", 2, "-p udp -m limit -j ACCEPT"),
        ("DROP", 1, DROP),
    ]


def test_flows_that_one_side_has_alone():
    """They are counted; no fate of theirs can have changed."""
    found = compare(
        recording(rules(DROP), DROPPED, packet("INPUT:rule:1", dport=54)),
        recording(rules(DROP), DROPPED, packet("INPUT:rule:1", dport=55)),
    )
    assert (found.any, found.same, found.only) == (False, 1, (1, 1))


def test_more_flows_than_are_kept(monkeypatch):
    """The packets of the others are counted, and nothing is said of flows that they may be of."""
    monkeypatch.setattr(fates, "MOST", 1)
    many = [packet("INPUT:rule:1", dport=port) for port in (53, 54, 55, 56)]
    passed = packet("INPUT:policy:2", dport=53)
    found = compare(recording(rules(DROP), many[0]), recording(rules(DROP), *many, passed))
    assert told(found) == ([], [("now", "ACCEPT", 1)])
    assert (found.beyond, found.only) == ((0, 3), (None, 0))
    assert next(found.flows("same")).now.unsure == 1


def test_only_what_is_selected():
    """Of a recording with --iface on a router the rest is left out, as everywhere."""
    made = recording(rules(DROP), DROPPED, packet("INPUT:policy:2", dport=54), DROPPED)
    dropped = Packets(made, Selection(verdicts=frozenset({"DROP"})))
    found = fates.fates(dropped, Language({}, plain=False))
    assert [Flow.of(key).header["dport"] for key in found.flows] == [53]
    assert [fate.paths for fate in found.flows.values()] == [{1: (2, 1)}]
    assert {*found.paths} == {*found.words} == {1}
