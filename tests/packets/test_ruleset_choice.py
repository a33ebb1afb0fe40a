"""Which ruleset judged a packet: times, the grammar, what other packets show, what rules did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handmade import UUID, HandMade, udp

from iptrec.answers.packets import Packets
from iptrec.recording.packing import Notes

OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RAW = f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING {OWN}\n-A OUTPUT {OWN}\nCOMMIT\n"


def table(*rules, name="filter", chains=""):
    builtin = ("PREROUTING",) if name == "mangle" else ("INPUT", "FORWARD", "OUTPUT")
    heads = "".join(f":{chain} ACCEPT [0:0]\n" for chain in builtin)
    return f"*{name}\n{heads}{chains}{''.join(f'-A {rule}' + chr(10) for rule in rules)}COMMIT\n"


def packet(number, *prefixes, marks=()):
    """The events of one packet, raw PREROUTING first."""
    marks = [0, *marks] + [0] * len(prefixes)
    return [
        (prefix, udp(b"%d" % number, ident=number), {"mark": mark})
        for prefix, mark in zip(("raw:PREROUTING:policy:2", *prefixes), marks, strict=False)
    ]


def found(recording):
    """(verdict, the decider's rule text or 'end', ambiguous) of each packet."""
    result = []
    for one in Packets(recording):
        last = one.steps[-1]
        result.append((one.verdict, last.spec or "end", one.ambiguous))
    return result


OLD = table("INPUT -p tcp -j DROP", "INPUT -p udp -j ACCEPT")
NEW = table("INPUT -s 10.0.0.0/8 -j LOG", "INPUT -p tcp -j DROP", "INPUT -p udp -j DROP")
SECOND = "filter:INPUT:rule:2"  # OLD: the ACCEPT; NEW: the DROP for TCP
THIRD = "filter:INPUT:rule:3"  # NEW only


def changing(events, after_ns, time_ns, *, old=OLD, new=NEW):
    """A recording whose table changes between two times; event i is received at 1,000 * (i + 1) ns."""
    recording = HandMade().ruleset(RAW + old).events(events)
    recording.streams[0].detail["slots"] = 1  # no receive time says anything about the next event
    return recording.ruleset(new, time_ns=time_ns, after_ns=after_ns)


def test_outside_of_the_change_times_decide():
    """Before it the old rules, after it the new ones; no doubt."""
    events = packet(1, SECOND) + packet(2, SECOND) + packet(3, THIRD)
    recording = changing(events, after_ns=10_000, time_ns=20_000)
    assert found(recording)[:2] == [("ACCEPT", "-p udp -j ACCEPT", False)] * 2
    recording = HandMade().ruleset(RAW + OLD).ruleset(NEW, after_ns=1, time_ns=2)
    recording.streams[0].detail["slots"] = 512
    recording.facts = type(recording.facts)(
        **{name: getattr(recording.facts, name) for name in recording.facts.__slots__}
        | {"started_ns": 500}
    )
    recording.events(packet(1, SECOND), start_ns=10**9)
    assert found(recording) == [("DROP", "-p tcp -j DROP", False)]


def test_times_that_a_tap_noted_tell_it_to_a_tenth_of_a_millisecond():
    """Received long after the change: told of before it by the old rules, soon after it by the new ones."""
    recording = changing([], after_ns=10**9, time_ns=10**9 + 20_000)
    for number, sent_ns in enumerate([10**9 - 1, 10**9 + 10_000, 10**9 + 200_000]):
        recording.events(packet(number, SECOND), start_ns=2 * 10**9)
        chunk = recording.chunks_[-1]
        times = np.full(len(chunk.lengths), sent_ns)
        notes = Notes(times, np.zeros(len(times), np.uint16))
        recording.chunks_[-1] = replace(chunk, notes=notes)
    before, between, after = found(recording)
    assert before == ("ACCEPT", "-p udp -j ACCEPT", False)
    assert between[2]
    assert after == ("DROP", "-p tcp -j DROP", False)


def test_what_one_ruleset_alone_explains_is_certain():
    """A rule that only the new table has was matched: the new rules held."""
    assert found(changing(packet(1, THIRD), after_ns=0, time_ns=10**9)) == [
        ("DROP", "-p udp -j DROP", False)
    ]


def test_what_both_explain_is_said_to_be_uncertain():
    """Nothing tells: ambiguous, with both rules named; never a silent guess."""
    (one,) = Packets(changing(packet(1, SECOND), after_ns=0, time_ns=10**9))
    assert one.ambiguous
    assert one.complete
    assert one.reason == (
        "the rules changed just then: in filter/INPUT it was rule 2: -p tcp -j DROP or rule 2: -p udp"
        " -j ACCEPT"
    )


def test_a_later_packet_under_the_old_rules_settles_the_earlier_one():
    """Tables change once: who passed before a packet that only the old rules explain had them too."""
    old = table("INPUT -p tcp -j DROP", "INPUT -p udp -j ACCEPT", "INPUT -j LOG", "INPUT -j LOG")
    events = packet(1, SECOND) + packet(
        2, "filter:INPUT:rule:3", "filter:INPUT:rule:4", "filter:INPUT:policy:5"
    )
    events += packet(3, SECOND)
    answers = found(changing(events, after_ns=0, time_ns=10**9, old=old))
    assert [one[2] for one in answers] == [False, False, True]
    assert answers[0][:2] == ("ACCEPT", "-p udp -j ACCEPT")


def test_an_earlier_packet_under_the_new_rules_settles_the_later_one():
    """And who passes after one that only the new rules explain has the new ones."""
    events = packet(1, SECOND) + packet(2, THIRD) + packet(3, SECOND)
    answers = found(changing(events, after_ns=0, time_ns=10**9))
    assert [one[2] for one in answers] == [True, False, False]
    assert answers[2][:2] == ("DROP", "-p tcp -j DROP")


def test_a_change_without_effect_on_the_way_is_no_doubt():
    """Both rulesets read the same for this packet, though the table changed."""
    new = table("INPUT -p tcp -j DROP", "INPUT -p udp -j ACCEPT", "INPUT -p icmp -j DROP")
    assert found(changing(packet(1, SECOND), after_ns=0, time_ns=10**9, new=new)) == [
        ("ACCEPT", "-p udp -j ACCEPT", False)
    ]


def test_what_reads_the_same_by_both_settles_nothing():
    """A packet on which old and new rules agree does not say which of them held."""
    old, new = (
        table("INPUT -p tcp -j DROP", f"INPUT -p udp -j {one}") for one in ("ACCEPT", "DROP")
    )
    events = packet(1, "filter:INPUT:rule:1") + packet(2, SECOND)
    answers = found(changing(events, after_ns=0, time_ns=10**9, old=old, new=new))
    assert [one[2] for one in answers] == [False, True]


def test_one_table_is_passed_in_one_state():
    """Events of one pass are never read half by the old rules and half by the new."""
    old = table("INPUT -p udp -j a", "a -p udp -j DROP", chains=":a - [0:0]\n")
    new = table("INPUT -p udp -j b", "b -p udp -j LOG", "b -p udp -j DROP", chains=":b - [0:0]\n")
    events = packet(1, "filter:INPUT:rule:1", "filter:a:rule:1")
    events += packet(2, "filter:INPUT:rule:1", "filter:b:rule:1", "filter:b:rule:2")
    recording = changing(events, after_ns=0, time_ns=10**9, old=old, new=new)
    assert [[step.target for step in one.steps[1:]] for one in Packets(recording)] == [
        ["a", "DROP"], ["b", "LOG", "DROP"],
    ]  # fmt: skip
    assert [one.ambiguous for one in Packets(recording)] == [False, False]


@pytest.mark.parametrize(("mark", "expected"), [(1, "0x1"), (2, "0x2")])
def test_the_mark_that_a_rule_set_tells_which_rule_it_was(mark, expected):
    """Both rulesets explain the numbers; the mark of the next event fits one of them only."""
    old, new = (
        table(f"PREROUTING -p udp -j MARK --set-xmark 0x{n}/0xffffffff", name="mangle")
        for n in (1, 2)
    )
    events = packet(1, "mangle:PREROUTING:rule:1", "mangle:PREROUTING:policy:2", marks=(0, mark))
    (one,) = Packets(changing(events, after_ns=0, time_ns=10**9, old=old, new=new))
    assert one.steps[1].target_args == f"--set-xmark {expected}/0xffffffff"
    assert not one.ambiguous


def test_rules_that_nobody_saw_are_not_made_up():
    """Between two known states the table had rules whose text could not be had: no spec, and it says so."""
    recording = HandMade().ruleset(RAW + OLD).events(packet(1, SECOND), start_ns=10**9)
    recording.streams[0].detail["slots"] = 1
    recording.ruleset("filter", kind="iptables-unknown", after_ns=10, time_ns=20)
    recording.facts = type(recording.facts)(
        **{name: getattr(recording.facts, name) for name in recording.facts.__slots__}
        | {"started_ns": 10**8}
    )
    (one,) = Packets(recording)
    assert (one.steps[1].rule, one.steps[1].spec, one.verdict, one.complete) == (
        2,
        None,
        "UNKNOWN",
        False,
    )
    assert one.reason == "the rules of table filter at that time are not known"


FATES = {
    "inserted": (
        [], ["INPUT -p udp -j DROP"], "filter:INPUT:policy:1", "filter:INPUT:rule:1",
        ("inserted", 1, "-p udp -j DROP"),
    ),
    "deleted": (
        ["INPUT -p udp -j DROP"], [], "filter:INPUT:rule:1", "filter:INPUT:policy:1",
        ("deleted", 1, "-p udp -j DROP"),
    ),
    "elsewhere": (
        [], ["FORWARD -p udp -j DROP"], "filter:INPUT:policy:1", "filter:INPUT:policy:1", None,
    ),
    "without_a_say": (
        ["INPUT -p udp -j DROP"], ["INPUT -p udp -j LOG", "INPUT -p udp -j DROP"],
        "filter:INPUT:rule:1", "filter:INPUT:rule:2", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FATES)
def test_change_that_altered_the_fate_is_reported(case):
    """A rule that came, or one that is gone and had decided the flow before; no other change."""
    old, new, before, after, expected = FATES[case]
    recording = changing(
        packet(1, before) + packet(2, *(["filter:INPUT:rule:1"] if after.endswith("2") else []), after),
        after_ns=2_500, time_ns=2_600, old=table(*old), new=table(*new),
    )  # fmt: skip
    recording.streams[0].detail["slots"] = 512
    first, second = Packets(recording)
    assert first.altered_by is None
    told = second.altered_by
    assert (told and (told.kind, told.rule, told.spec)) == expected
    assert told is None or told.time_ns == 2_600


def test_policy_that_altered_the_fate_is_reported():
    """The chain's policy was another one."""
    new = table().replace(":INPUT ACCEPT", ":INPUT DROP")
    events = packet(1, "filter:INPUT:policy:1") + packet(2, "filter:INPUT:policy:1")
    recording = changing(events, after_ns=2_500, time_ns=2_600, old=table(), new=new)
    recording.streams[0].detail["slots"] = 512
    _, second = Packets(recording)
    assert second.verdict == "DROP"
    assert (second.altered_by.kind, second.altered_by.spec) == ("policy", "DROP")


def test_what_may_have_been_is_kept_however_many_ways_there_are():
    """Three states of each of three tables: more ways than are kept. The first rule is unsure all the same."""

    def tables(number):
        names = (
            ("mangle", "PREROUTING,FORWARD,POSTROUTING"),
            ("filter", "FORWARD"),
            ("security", "FORWARD"),
        )
        heads = {
            name: "".join(f":{chain} ACCEPT [0:0]\n" for chain in [*chains.split(","), "INPUT"])
            for name, chains in names
        }
        rule = f"-A INPUT -p tcp --dport {number} -j DROP\n"
        first = f"-A PREROUTING -p udp -m comment --comment {number} -j ACCEPT\n"
        return "".join(
            f"*{name}\n{head}{first if name == 'mangle' else ''}{rule}COMMIT\n"
            for name, head in heads.items()
        )

    way = [f"{one}:policy:1" for one in ("mangle:FORWARD", "filter:FORWARD", "security:FORWARD")]
    events = packet(1, "mangle:PREROUTING:rule:1", *way, "mangle:POSTROUTING:policy:1")
    recording = changing(events, after_ns=0, time_ns=10**9, old=tables(1), new=tables(2))
    (one,) = Packets(recording.ruleset(tables(3), time_ns=10**9, after_ns=0))
    assert (one.verdict, one.complete, one.ambiguous) == ("ACCEPT", True, True)
    for number in (1, 2, 3):
        assert f"--comment {number} -j ACCEPT" in one.reason


def test_a_way_that_only_lacks_its_end_is_weighed_as_well():
    """By the old rule all of the packet was seen; but the new one held already, and nothing came after it."""
    old = table("PREROUTING -p udp -j DROP", name="mangle")
    new = table("PREROUTING -p udp -j ACCEPT", "PREROUTING -j LOG", name="mangle")
    shows = packet(1, "mangle:PREROUTING:rule:2", "mangle:PREROUTING:policy:3")
    events = [*shows, *packet(2, "mangle:PREROUTING:rule:1")]
    recording = changing(events, after_ns=0, time_ns=10**9, old=old, new=new)
    assert found(recording)[1] == ("UNKNOWN", "-p udp -j ACCEPT", False)
    alone = changing(events[-2:], after_ns=0, time_ns=10**9, old=old, new=new)
    assert found(alone) == [("DROP", "-p udp -j DROP", False)]
