"""Rules with what hit them."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade import UUID, HandMade, udp

import iptrec
from iptrec.answers.rules import count_rules
from iptrec.answers.selection import Selection
from iptrec.views import rules as view
from iptrec.views.timestamps import Clock

SAMPLES = Path(__file__).parents[2] / "samples"
RULES = (
    "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    f'-A PREROUTING -m comment --comment "iptrec:{UUID}" -j TRACE\nCOMMIT\n'
    "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:a - [0:0]\n"
)


def table(recording, name="filter"):
    return next(one for one in count_rules(recording, Selection()) if one.table == name)


def test_rules_behind_one_that_ends_the_chain_are_never_reached():
    """An unconditional ACCEPT, DROP, RETURN or goto ends it; a jump or a LOG does not."""
    recording = HandMade().ruleset(
        f"{RULES}-A INPUT -j a\n-A INPUT -j LOG\n-A INPUT -p udp -j DROP\n"
        '-A INPUT -m comment --comment "all of it" -j DROP\n-A INPUT -p tcp\n'
        "-A FORWARD -g a\n-A FORWARD -j LOG\n-A a -j RETURN\n-A a -j DROP\n-A a -j DROP\nCOMMIT\n"
    )
    recording.events([("raw:PREROUTING:policy:2", udp(), {})])
    found = table(recording)
    unreachable = {
        name: [one.unreachable for one in rules] for name, (_, rules) in found.chains.items()
    }
    assert unreachable == {
        "INPUT": [None, None, None, None, 4], "FORWARD": [None, 1], "OUTPUT": [], "a": [None, 1, 1],
    }  # fmt: skip
    assert "(never reached: #4 ends the chain)" in "\n".join(view.as_text([found], Clock(), ""))


def test_counts_follow_a_rule_that_moves():
    """A rule is what it says, not its number: one is inserted before it, and equal ones are told apart."""
    recording = HandMade().ruleset(
        f"{RULES}-A INPUT -p udp -j LOG\n-A INPUT -p udp -j LOG\nCOMMIT\n"
    )
    before = (
        "raw:PREROUTING:policy:2",
        "filter:INPUT:rule:1",
        "filter:INPUT:rule:2",
        "filter:INPUT:policy:3",
    )
    after = (
        "raw:PREROUTING:policy:2",
        "filter:INPUT:rule:2",
        "filter:INPUT:rule:3",
        "filter:INPUT:policy:4",
    )
    recording.events([(place, udp(b"12", ident=1), {}) for place in before])
    recording.events([(place, udp(b"3456", ident=2), {}) for place in after], start_ns=10**10)
    recording.ruleset(
        f"{RULES.partition('*filter')[0]}*filter{RULES.partition('*filter')[2]}"
        "-A INPUT -s 9.9.9.9/32 -j DROP\n-A INPUT -p udp -j LOG\n-A INPUT -p udp -j LOG\nCOMMIT\n",
        after_ns=10**9, time_ns=10**9 + 1,
    )  # fmt: skip
    recording.streams[0].detail["slots"] = 512
    found = table(recording)
    _, rules = found.chains["INPUT"]
    assert [(one.number, one.count.packets, one.count.bytes) for one in rules] == [
        (1, 0, 0), (2, 2, 30 + 32), (3, 2, 30 + 32),
    ]  # fmt: skip
    assert rules[1].count.first_ns < rules[1].count.last_ns
    assert found.policies["INPUT"].packets == 2
    assert (
        table(recording, "raw").chains["PREROUTING"][1] == []
    )  # our own rule is none of the user's


def test_a_rule_that_is_gone_keeps_its_hits():
    """It was hit, then it was deleted with its chain: it is told behind those that are there."""
    recording = HandMade().ruleset(f"{RULES}-A INPUT -j a\n-A a -p udp -j DROP\nCOMMIT\n")
    way = ("raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:a:rule:1")
    recording.events([(place, udp(b"12", ident=1), {}) for place in way])
    recording.ruleset(
        RULES.replace(":a - [0:0]\n", "") + "COMMIT\n", after_ns=10**9, time_ns=10**9 + 1
    )
    found = table(recording)
    gone = [
        (name, one.number, one.rule.spec, one.count.packets)
        for name, (_, rules) in found.chains.items()
        for one in rules
    ]
    assert gone == [("INPUT", None, "-j a", 1), ("a", None, "-p udp -j DROP", 1)]
    assert "gone     1     30 " in "\n".join(view.as_text([found], Clock(), ""))


@pytest.mark.parametrize("sample", ["ipsets", "loopback", "nftables", "docker_hairpin"])
def test_the_example_is_the_first_packet(sample):
    """The lowest number of all packets that hit the rule."""
    with iptrec.open(SAMPLES / f"{sample}.db") as recording:
        first = {}
        for packet in recording.packets():
            for step in packet.steps:
                first.setdefault((step.table, step.chain, step.rule, step.spec), []).append(packet)
        for table in recording.rules():
            for chain, (_, rules) in table.chains.items():
                for one in rules:
                    hit = [
                        packet.number
                        for packet in first.get((table.table, chain, one.number, one.rule.spec), ())
                        if table.family in (packet.family, "inet")
                    ]
                    assert one.count.example == min(hit, default=0), (chain, one.number)
                    assert one.count.packets == len(hit)


RECORDINGS = sorted(SAMPLES.glob("*.db"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_times_are_those_of_packets(path):
    """A packet has one time in all answers, not another one at each rule that it meets."""
    with iptrec.open(path) as recording:
        times = {one.number: one.time_ns for one in recording.packets()}
        counts = [
            count
            for table in recording.rules()
            for chain, (_, rules) in table.chains.items()
            for count in (table.policies[chain], *(one.count for one in rules))
            if count.packets
        ]
        counts += [one.count for one in recording.paths()]
    assert counts
    for one in counts:
        assert {one.first_ns, one.last_ns} <= {*times.values()}
        if one.packets == 1:
            assert one.first_ns == times[one.example]
