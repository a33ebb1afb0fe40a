"""Which rules a packet met, by the numbers of the rulesets that the kernel told among the traces."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from handmade import udp
from nft_handmade import (
    ACCEPT,
    DEL_RULE,
    DEL_TABLE,
    DROP,
    NEW_CHAIN,
    NEW_GENERATION,
    NEW_RULE,
    NEW_TABLE,
    NftHandMade,
    chain,
    event,
    message,
    rule,
    table,
    u32,
)

from iptrec.answers.orphans import orphans
from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.decode import nftrace
from iptrec.names import ASKED, HOOKS
from iptrec.packets import window
from iptrec.recording.packing import Notes
from iptrec.recording.rows import Stream
from iptrec.rulesets.backends import rulesets

OLD, NEW = "log accept", "counter accept"


def number(generation):
    return message(NEW_GENERATION, (1, u32(generation)))


def passing(port):
    """A packet that meets the one rule, whose handle the old table and the new one have."""
    return [event(udp(b"x", sport=port), port, "f", 5, verdict=ACCEPT, dumps=True)]


def beside(port):
    """The same packet in a chain that is attached, and not in force."""
    packet = udp(b"x", sport=port)
    return [event(packet, port, "f", dumps=True), event(packet, port, "f", policy=ACCEPT)]


def changing(*traced):
    """A table that is made anew by generation 8; ``traced``: (time in ms, messages)."""
    recording = NftHandMade().listed({"f": [(5, OLD)]}, 100, generation=7)
    for time, *messages in traced:
        recording.traced(time, *(one for some in messages for one in some))
    new = table(NEW_TABLE, 2), chain(NEW_CHAIN, "f", 90, policy=ACCEPT)
    before = rule(DEL_RULE, "f", 5, OLD), table(DEL_TABLE, 1)
    recording.commit(8, 301, *before, *new, rule(NEW_RULE, "f", 5, NEW))
    return recording.listed({"f": [(5, NEW)]}, 400, generation=8, handle=2, after=100)


def found(recording):
    """The rules that each packet met; with "?" where that is unsure."""
    return [
        ", ".join(step.spec for step in one.steps if step.spec) + "?" * one.ambiguous
        for one in Packets(recording)
    ]


SEVEN, EIGHT = [number(7)], [number(8)]
CASES = {
    "nothing told": ([(300, passing(1), passing(2))], [NEW + "?"] * 2),
    "before and behind": (
        [(290, SEVEN), (299, passing(1)), (300, SEVEN, EIGHT), (301, passing(2)), (320, passing(3))],
        [OLD, NEW, NEW],
    ),
    "in the last moment before": (
        [(290, SEVEN), (300, passing(1), SEVEN, passing(2), EIGHT)], [OLD, NEW + "?"],
    ),
    "told long after it came into force": (
        [
            (270, SEVEN, passing(1)), (275, SEVEN, passing(2)), (288, passing(3)), (292, passing(4)),
            (296, passing(5)), (301, EIGHT, passing(6)), (310, passing(7)),
        ],
        [OLD, *[NEW + "?"] * 4, NEW, NEW],
    ),
    "a number was lost": ([(290, SEVEN), (300, passing(1), [number(9)], passing(2))], [NEW + "?", NEW]),
    "attached, not in force: it is the old one": (
        [(300, SEVEN, passing(1), beside(2), passing(2), passing(3), EIGHT)], [OLD, OLD, NEW],
    ),
    "in force, the old one still attached": (
        [(300, SEVEN, passing(1), passing(2) * 2, passing(3), EIGHT)], [OLD, f"{NEW}, {OLD}", NEW],
    ),
    "told, the old one still attached": (
        [(290, SEVEN, passing(1)), (300, EIGHT, passing(2) * 2, passing(3))], [OLD, f"{NEW}, {OLD}", NEW],
    ),
}  # fmt: skip


def with_legacy(recording):
    """The same of a host that has both backends, and no rules of legacy iptables: packets are joined there."""
    recording.streams.append(Stream(9, 1, "nflog", {}))
    return recording


BACKENDS = pytest.mark.parametrize("backends", [lambda one: one, with_legacy], ids=["nft", "both"])


@BACKENDS
@pytest.mark.parametrize("case", CASES)
def test_the_rules_of_its_generation(case, backends):
    """Equal handles in a new table of the same name: only the order tells, and where it does not, we say so."""
    traced, expected = CASES[case]
    assert found(backends(changing(*traced))) == expected


@BACKENDS
def test_what_a_look_did_not_see_may_have_been_sent_before_it(backends):
    """A tap notes when each was sent; the recorder reads its clock a while after it has emptied the ring."""
    recording = changing(
        (280, SEVEN, passing(1)), (299, passing(2)), (300, passing(3), SEVEN, EIGHT, passing(4))
    )
    for index, sent_ms in enumerate([[270, 270], [285], [286, 286, 287, 287]]):
        sent_ns = np.array(sent_ms) * 10**6
        notes = Notes(sent_ns, np.zeros(len(sent_ns), np.uint16))
        recording.chunks_[index] = replace(recording.chunks_[index], notes=notes)
    assert found(backends(recording)) == [OLD, OLD, OLD, NEW]


def test_a_packet_under_way_when_the_rules_changed():
    """The rules are chosen when it comes into a base chain: its later events there are of the same ones."""
    packet = udp(b"x")
    begins = event(packet, 9, "f", 5, dumps=True)
    ends = event(packet, 9, "f", policy=ACCEPT)
    recording = NftHandMade().listed({"f": [(5, OLD)]}, 100, generation=7)
    recording.traced(300, number(7), begins, number(7), number(8), event(packet, 9, "f"), ends)
    new = rule(DEL_RULE, "f", 5, OLD), rule(NEW_RULE, "f", 6, NEW)
    recording.commit(8, 301, *new).listed({"f": [(6, NEW)]}, 400, generation=8)
    (one,) = Packets(recording)
    assert [(step.type, step.spec) for step in one.steps] == [("rule", OLD), ("policy", None)]
    assert not one.ambiguous


@pytest.mark.parametrize("anew", [True, False], ids=["made anew", "changed"])
def test_a_policy_is_set_when_the_new_rules_are_in_force_already(anew):
    """For a moment a chain that drops accepts what its rules leave over; the kernel says so."""
    output = HOOKS.index("OUTPUT")
    recording = NftHandMade().listed({"f": [(5, OLD)]}, 100, generation=7, hook="output")
    for time, generation, policy in ((300, 7, ACCEPT), (310, 8, DROP)):
        packet = udp(b"x", sport=time)
        way = event(packet, time, "f", 6, dumps=True), event(packet, time, "f")
        policies = event(packet, time, "f", policy=policy)
        recording.traced(time, number(generation), *way, policies)
    gone = rule(DEL_RULE, "f", 5, OLD)
    remade = (gone, table(DEL_TABLE, 1), table(NEW_TABLE, 2)) if anew else (gone,)
    strict = chain(NEW_CHAIN, "f", 90, policy=DROP, hook=output)
    recording.commit(8, 301, *remade, strict, rule(NEW_RULE, "f", 6, "log"))
    recording.listed(
        {"f": [(6, "log")]}, 400, generation=8, handle=1 + anew, hook="output", policy="drop"
    )
    told = [(one.verdict, one.complete, one.ambiguous) for one in Packets(recording)]
    assert told == [("ACCEPT", True, False), ("DROP", True, False)]


@BACKENDS
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_windows_take_over_what_was_told_before_them(size, backends, monkeypatch):
    """However few events are read at a time."""
    monkeypatch.setattr(window, "WINDOW_EVENTS", size)
    traced = [(290, SEVEN), *((295, passing(port)) for port in range(1, 6)), (300, SEVEN, EIGHT)]
    recording = backends(changing(*traced, *((301, passing(port)) for port in range(6, 9))))
    assert not {NEW, OLD + "?"} & {*found(recording)[:5]}
    assert found(recording)[5:] == [NEW] * 3


def cut_off():
    """A recording that nobody ended: no listing came after what it tells."""
    recording = NftHandMade().listed({"f": [(5, OLD)]}, 100, generation=7)
    recording.facts = replace(recording.facts, closed=False)
    recording.traced(270, number(7), *passing(1)).traced(280, number(7))
    return recording.traced(300, number(8)).traced(320, *passing(2))


def test_rules_that_nobody_listed_any_more_are_not_the_old_ones():
    """The kernel told what came; its text nobody printed."""
    recording = cut_off()
    new = table(NEW_TABLE, 2), chain(NEW_CHAIN, "f", 90, policy=ACCEPT)
    before = rule(DEL_RULE, "f", 5, OLD), table(DEL_TABLE, 1)
    recording.commit(8, 301, *before, *new, rule(NEW_RULE, "f", 5, NEW))
    first, second = Packets(recording)
    assert [step.spec for step in first.steps] == [OLD]
    assert [step.spec for step in second.steps] == [None]


OURS = table(NEW_TABLE, 9, "iptrec-1"), rule(NEW_RULE, "o", 1, "mine", in_table="iptrec-1")
OTHERS = rule(DEL_RULE, "f", 4, "gone"), rule(NEW_RULE, "f", 5, OLD)
BEGUN = {
    "others changed it": ([(6, OURS), (7, OTHERS)], ["?", OLD]),
    "others changed another table": ([(6, OURS), (7, (table(NEW_TABLE, 3, "x"),))], [OLD, OLD]),
    "nobody did but we": ([(6, ()), (7, OURS)], [OLD, OLD]),
    "before us": ([(6, OTHERS), (7, OURS)], [OLD, OLD]),
    "nothing tells who": ([(7, OTHERS)], ["?", OLD]),
}


@pytest.mark.parametrize("case", BEGUN)
def test_packets_that_came_before_the_first_listing(case):
    """A recording begins while the rules change: what they were before it nobody knows."""
    told, expected = BEGUN[case]
    recording = NftHandMade().traced(70, number(6), *passing(1)).traced(80, number(6))
    for at, (generation, messages) in enumerate(told):
        recording.commit(generation, 60 + 25 * at, *messages)
    recording.traced(90, number(7)).listed({"f": [(5, OLD)]}, 100, generation=7)
    recording.traced(110, *passing(2))
    assert known(recording) == expected


TORN = {
    "it changed": ([(7, OTHERS)], ["?", NEW]),
    "another table did": ([(7, (table(NEW_TABLE, 3, "x"),))], [OLD, NEW]),
    "a set did": ([(7, ())], [OLD, NEW]),
    "nothing tells": ([], ["?", NEW]),
}


@pytest.mark.parametrize("case", TORN)
def test_a_first_listing_of_no_one_moment(case):
    """The tables that did not change meanwhile are known, and followed."""
    told, expected = TORN[case]
    recording = NftHandMade().commit(6, 60, *OURS)
    for generation, messages in told:
        recording.commit(generation, 80, *messages)
    recording.listed({"f": [(5, OLD)]}, 100, generation=7, since=6)
    recording.traced(110, number(7), *passing(1)).traced(190, number(7)).traced(200, number(8))
    new = table(NEW_TABLE, 2), chain(NEW_CHAIN, "f", 90, policy=ACCEPT)
    before = rule(DEL_RULE, "f", 5, OLD), table(DEL_TABLE, 1)
    recording.commit(8, 201, *before, *new, rule(NEW_RULE, "f", 5, NEW))
    recording.traced(210, *passing(2)).listed({"f": [(5, NEW)]}, 400, generation=8, handle=2)
    assert known(recording) == expected


ANEW = (
    rule(DEL_RULE, "f", 5, OLD), table(DEL_TABLE, 1),
    table(NEW_TABLE, 2), chain(NEW_CHAIN, "f", 90, policy=ACCEPT), rule(NEW_RULE, "f", 5, NEW),
)  # fmt: skip
EMPTIED = rule(DEL_RULE, "f", 5, OLD), rule(NEW_RULE, "f", 6, NEW)
AGAIN = rule(DEL_RULE, "f", 6, NEW), rule(NEW_RULE, "f", 7, OLD)
STRICT = (chain(NEW_CHAIN, "f", 90, policy=0),)
# What was told while it was listed, the rules that it had then, its handle; and a rule that it has after that.
UNLISTED = {
    "made anew": ([ANEW], [(5, NEW)], 2, 5),
    "listed before it was made anew": ([ANEW], [(5, OLD)], 1, 5),
    "emptied": ([EMPTIED], [(6, NEW)], 1, 6),
    "listed before it was emptied": ([EMPTIED], [(5, OLD)], 1, 6),
    "emptied twice": ([EMPTIED, AGAIN], [(6, NEW)], 1, 7),
    "listed as it never was": ([EMPTIED], [(5, OLD), (6, NEW)], 1, None),
    "its policy changed before, or after": ([STRICT], [(5, OLD)], 1, None),
}


@pytest.mark.parametrize("case", UNLISTED)
def test_what_a_torn_table_came_to_be(case):
    """It was listed at one moment of those that the kernel told of: where one alone fits, the rest follows."""
    told, listed, handle, expected = UNLISTED[case]
    recording = NftHandMade().commit(6, 60, *OURS)
    for generation, messages in enumerate(told, 7):
        recording.commit(generation, 80, *messages)
    last = 6 + len(told)
    recording.listed({"f": listed}, 100, generation=last, since=6, handle=handle)
    packet = udp(b"x")
    met = event(packet, 9, "f", expected or 5, verdict=ACCEPT, dumps=True)
    recording.traced(110, number(last), met)
    (one,) = Packets(recording)
    assert one.steps[0].rule == (expected and 1)


def test_a_table_that_is_made_anew_is_known_before_it_is_listed():
    """The kernel tells all that is in it."""
    again = rule(DEL_RULE, "f", 5, NEW), table(DEL_TABLE, 2), table(NEW_TABLE, 3), *ANEW[3:]
    recording = NftHandMade().commit(6, 50, *ANEW).commit(7, 60, *OURS)
    recording.traced(65, number(7), *passing(1)).commit(8, 80, *again)
    recording.traced(90, number(8), *passing(2))
    recording.listed({"f": [(5, NEW)]}, 100, generation=8, handle=3).traced(110, *passing(3))
    assert [one.steps[0].rule for one in Packets(recording)] == [1, 1, 1]
    assert known(recording) == [NEW] * 3


def test_the_first_ruleset_of_a_table_that_was_not_known_in_the_beginning():
    """It is not told as if somebody had loaded the table later on."""
    recording = NftHandMade().commit(6, 60, *OURS).commit(7, 80, *OTHERS)
    recording.listed({"f": [(5, OLD)]}, 100, generation=7, since=6)
    recording.traced(110, number(7)).traced(190, number(7)).traced(210, number(8))
    recording.commit(8, 200, rule(NEW_RULE, "f", 6, NEW, after=5))
    recording.listed({"f": [(5, OLD), (6, NEW)]}, 400, generation=8)
    (first,) = {len(one.tables["inet fw"]["f"].rules) for one in rulesets(recording, 0, 1).values()}
    assert first == 1


def test_a_chain_that_is_attached_beside_rules_that_nobody_knows():
    """It is not one that a later commit attaches beside rules that are known."""
    recording = NftHandMade().commit(6, 60, *OURS).commit(7, 80, *OTHERS)
    recording.listed({"f": [(5, OLD)]}, 100, generation=7, since=6)
    recording.traced(110, number(7), *beside(1), *passing(1)).traced(190, number(7))
    before = rule(DEL_RULE, "f", 5), table(DEL_TABLE, 1)
    for at in (8, 9):
        recording.traced(100 * at - 1, number(at))
        new = table(NEW_TABLE, at), chain(NEW_CHAIN, "f", 90, policy=ACCEPT)
        recording.commit(at, 100 * at, *before, *new, rule(NEW_RULE, "f", 5, NEW))
        recording.listed({"f": [(5, NEW)]}, 100 * at + 50, generation=at, handle=at)
    assert known(recording) == ["?"]


def known(recording):
    """What is told of each packet as sure, with a text."""
    told = zip(Packets(recording), found(recording), strict=True)
    return [text if one.steps[0].spec and not one.ambiguous else "?" for one, text in told]


@pytest.mark.parametrize(("last", "expected"), [(8, NEW), (9, None)])
def test_a_ruleset_between_two_that_were_listed(last, expected):
    """Of two transactions without messages nobody knows what the first one made, whatever fits the second."""
    recording = NftHandMade().listed({"f": [(5, OLD)]}, 100, generation=7)
    recording.traced(270, number(7), *passing(1)).traced(280, number(7))
    recording.traced(300, number(8)).traced(320, *passing(2)).traced(340, number(8), number(last))
    recording.listed({"f": [(5, NEW)]}, 400, generation=last, handle=2, after=100)
    first, second = Packets(recording)
    assert ([step.spec for step in first.steps], first.ambiguous) == ([OLD], False)
    told = [step.spec for step in second.steps]
    assert told == [expected] or second.ambiguous
    assert second.ambiguous == (expected is None)


def test_a_ruleset_of_which_nothing_but_its_number_was_told():
    first, second = Packets(cut_off())
    assert ([step.spec for step in first.steps], first.ambiguous) == ([OLD], False)
    assert [step.spec for step in second.steps] == [None]
    assert "not known" in second.reason


def test_answers_do_not_tell_that_a_commit_is_done():
    """What the recorder asked for is put among the traces earlier than the kernel tells it."""
    answer = bytearray(number(8))
    answer[8:12] = ASKED.to_bytes(4, sys.byteorder)
    told = [number(7), bytes(answer), number(8)]
    lengths = np.array([len(one) for one in told], np.uint32)
    found = nftrace.generations(b"".join(told), lengths, np.arange(3))
    assert (found.number.tolist(), found.finished.tolist()) == ([7, 8, 8], [7, 7, 8])
    assert [found.finished_before(one) for one in range(4)] == [-1, 7, 7, 8]
    assert [found.told_before(one) for one in range(4)] == [-1, 7, 8, 8]


def test_sets_of_intervals_get_their_elements_while_a_commit_is_under_way():
    """The new rules are in force from the answer on, all elements when the kernel tells it unasked."""
    answer = bytearray(number(8))
    answer[8:12] = ASKED.to_bytes(4, sys.byteorder)
    told = [number(7), bytes(20), bytes(answer), bytes(20), bytes(20), number(8), bytes(20)]
    lengths = np.array([len(one) for one in told], np.uint32)
    found = nftrace.generations(b"".join(told), lengths, np.zeros(7, np.int64))
    assert [found.looked_up(one, one + 1, 0) for one in (1, 3, 5)] == [(7, 8), (7, 8), (7, 2**32)]
    assert found.looked_up(6, 7, 0) == (8, 2**32)


def test_numbers_are_no_events():
    """Nobody counts them, and they are not what cannot be read."""
    recording = changing((290, SEVEN, passing(1)), (300, EIGHT))
    summary = summarize(recording)
    assert (summary.events, summary.packets, summary.orphans) == (1, 1, 0)
    assert list(orphans(recording)) == []


@pytest.mark.parametrize("cut", [16, 20, 24, 27])
def test_a_number_that_is_cut_off(cut):
    """It is said that there is something else, and nothing is concluded."""
    damaged = number(8)[:cut]
    recording = changing((290, SEVEN), (300, passing(1), [damaged]))
    assert summarize(recording).events == 2
    assert len(found(recording)) == 1
